"""Words that a model has never seen are refused, by the ids that it embeds; what it does not read is said."""

from __future__ import annotations

import warnings

import open_clip
import pytest
import torch
import zoo
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from concept_cam import Localizer, embed, wrap
from concept_cam.backbones.words import Reader
from concept_cam.errors import PromptError, UnknownWord

VOCABULARY = ["<pad>", "<unk>", "</s>", "a", "photo", "of", "red", "crown", "bird", "finch"]
SPECIAL = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
LETTERS = "abcdefghijklmnopqrstuvwyz"


def ended(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **SPECIAL)


def word_level():
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return ended(tokenizer)


def word_piece():
    pieces = [*VOCABULARY, *(f"##{letter}" for letter in LETTERS), *LETTERS]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return ended(tokenizer)


def unigram(lower=False):
    pieces = [(piece, 0.0) for piece in VOCABULARY[:3]]
    pieces += [(f"\u2581{word}", -1.0) for word in VOCABULARY[3:]] + [(letter, -9.0) for letter in (*LETTERS, "\u2581")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase() if lower else None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return ended(tokenizer)


def pairs(unknown):
    pieces = [*VOCABULARY[:3], *LETTERS, " "]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>" if unknown else None))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return ended(tokenizer)


TOKENIZERS = {
    "word level": word_level,
    "word pieces": word_piece,
    "unigram": unigram,
    "pairs": lambda: pairs(unknown=True),
    "pairs that leave out": lambda: pairs(unknown=False),
}


def refused(tokenizer, sentence, clean=str):
    reader = Reader.of(tokenizer, None, clean)
    ids = torch.tensor([tokenizer(clean(sentence))["input_ids"]])
    try:
        reader.check([sentence], ids, "model")
    except UnknownWord as error:
        return error.word
    return None


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("a photo of a red bird", None),
        ("a photo of a x1x bird", "x1x"),
        ("a photo of a 鳥", "鳥"),
        ("a bird, 鳥鳥; red", "鳥鳥"),
    ],
)
def test_the_word_that_is_unknown_is_named(kind, sentence, word):
    tokenizer = TOKENIZERS[kind]()
    if sentence.count(",") and kind != "pairs that leave out":
        # Unknown too, and first.
        word = ","
    assert refused(tokenizer, sentence) == word


@pytest.mark.parametrize("kind", ["unigram", "pairs", "word level", "word pieces"])
def test_a_full_stop_is_blamed_on_nobody_else(kind):
    assert refused(TOKENIZERS[kind](), "a photo of a bird.") == "."


def test_upper_case_is_read_as_the_model_reads_it():
    assert refused(unigram(), "a Bird") == "Bird"
    assert refused(unigram(), "a Bird", str.lower) is None
    assert refused(unigram(lower=True), "a Bird") is None
    assert refused(word_piece(), "a BIRD") is None
    assert refused(word_level(), "a BIRD") == "BIRD"


@pytest.mark.parametrize("other", ["pad_token", "eos_token"])
def test_an_unknown_token_that_is_also_another_is_found(other):
    inner = word_level().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=16, **{"unk_token": "<unk>", other: "<unk>"})
    assert refused(tokenizer, "a photo of a dog") == "dog"
    assert refused(tokenizer, "a photo of a bird") is None


def test_byte_level_vocabularies_know_everything():
    reader = wrap(zoo.tiny_clip(text={"context_length": 77, "vocab_size": 49408}), open_clip.SimpleTokenizer()).reader()
    reader.check(["鳥 ❤ Ünïcödé"], torch.zeros(1, 77, dtype=torch.long), "model")
    inner = Tokenizer(models.BPE({p: i for i, p in enumerate([*SPECIAL.values(), *pre_tokenizers.ByteLevel.alphabet()])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="</s>", eos_token="</s>", model_max_length=77)
    assert refused(tokenizer, "鳥 ❤ Ünïcödé") is None


# ---- through the library ----------------------------------------------------------------------------------------------


def of_open_clip(inner, tmp_path, kind=HFTokenizer, **options):
    inner.save_pretrained(tmp_path)
    if kind is SigLipTokenizer:
        tokenizer = SigLipTokenizer.__new__(SigLipTokenizer)
        tokenizer.tokenizer, tokenizer.context_length = inner, 16
        return tokenizer
    return HFTokenizer(str(tmp_path), context_length=16, **options)


def model(vocabulary=64, length=16):
    return zoo.tiny_clip(text={"context_length": length, "vocab_size": vocabulary})


def test_a_piece_that_is_unknown_is_refused_with_the_word_it_is_part_of(tmp_path):
    backbone = wrap(model(), of_open_clip(unigram(), tmp_path))
    with pytest.raises(UnknownWord, match=r"has never seen the word 'xeno'") as refusal:
        embed(backbone, ["red xeno"], ["a photo of a {}"])
    assert "template" not in str(refusal.value)
    with pytest.raises(UnknownWord, match=r"word '\.'\..* It stands in the template 'a photo of a \{\}\.'; use other"):
        embed(backbone, ["red bird"], ["a photo of a {}."])
    with pytest.raises(UnknownWord, match=r"word 'x-ray'.* It stands in the template 'a x-ray of a \{\}'"):
        embed(backbone, ["red bird"], ["a x-ray of a {}"])


@pytest.mark.parametrize("kind", [HFTokenizer, SigLipTokenizer])
def test_what_the_tokenizer_cleans_is_not_refused(tmp_path, kind):
    options = {"clean": "canonicalize"} if kind is HFTokenizer else {}
    backbone = wrap(model(), of_open_clip(unigram(), tmp_path, kind, **options))
    plain = embed(backbone, ["red bird"], ["a photo of a {}"])
    assert torch.equal(embed(backbone, ["Red BIRD!"], ["A Photo of a {}."]).vectors, plain.vectors)
    with pytest.raises(UnknownWord, match=r"word '!!'"):
        embed(backbone, ["!!"], ["a photo of a {}"])
    with pytest.raises(UnknownWord, match="word 'xeno'"):
        embed(backbone, ["Xeno!"], ["a photo of a {}"])


def test_two_names_that_are_one_text_cannot_be_compared(tmp_path):
    from PIL import Image

    from concept_cam.errors import ComparisonError

    backbone = wrap(model(), of_open_clip(unigram(), tmp_path, clean="canonicalize"))
    localizer = Localizer(backbone, templates=["a {}"])
    with pytest.raises(ComparisonError, match="cannot tell 'red bird' from 'Red, bird!'"):
        localizer(Image.new("RGB", (40, 24)), "red bird", "Red, bird!")


def test_texts_that_are_cut_are_said_once(tmp_path):
    backbone = wrap(model(length=16), of_open_clip(word_level(), tmp_path))
    fits, long = "a red bird " * 4 + "bird", "a red bird " * 5 + "bird"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(backbone, [fits], ["a {}"])
    with pytest.warns(UserWarning, match="reads 15 tokens of a text") as said:
        embed(backbone, ["bird", long, f"red {long}"], ["a {}", "a photo of a {}"])
    (one,) = said
    text = str(one.message)
    assert "has 21 (and 1 more texts)" in text
    assert "the end of the name is lost" in text


def test_a_template_that_is_cut_alone_is_said_so(tmp_path):
    backbone = wrap(model(length=16), of_open_clip(word_level(), tmp_path))
    with pytest.warns(UserWarning, match=r"only the end of the template 'a \{\} of a red .*' is lost"):
        embed(backbone, ["red bird"], ["a {} of a red bird of a red bird of a red bird of a red"])


@pytest.mark.parametrize("tokenizer", ["word level", "bytes"])
def test_names_that_are_cut_to_one_text_are_refused(tmp_path, tokenizer):
    same = "red bird " * 9
    if tokenizer == "bytes":
        own = open_clip.SimpleTokenizer(context_length=16)
        backbone = wrap(model(49408), own)
    else:
        backbone = wrap(model(), of_open_clip(word_level(), tmp_path))
    with pytest.raises(PromptError, match=r"'red bird .* finch' and '.* crown' are one text to .*, which reads 1[45] tokens"):
        embed(backbone, [f"{same}finch", f"{same}crown"], ["a {}"])


def test_a_tokenizer_of_ones_own_is_run_and_left_alone():
    def by_length(texts):
        return torch.tensor([[1, len(text) % 50 + 2, 63] for text in texts])

    model_ = zoo.tiny_clip(text={"context_length": 3, "vocab_size": 64})
    backbone = wrap(model_, by_length)
    assert backbone.reader() is None
    got = embed(backbone, ["鳥", "any word"], ["{}"]).vectors
    own = torch.nn.functional.normalize(model_.encode_text(by_length(["鳥", "any word"])), dim=-1).detach()
    torch.testing.assert_close(got, own)

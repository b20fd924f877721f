"""The ids that a tokenizer gives for a text, and the words that have none."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from concept_cam.errors import PromptError, UnknownWord, did_you_mean


@final
@dataclass(frozen=True)
class Reader:
    """How a model reads a text.

    Attributes:
        encode: from a text to its ids, uncut and without special tokens.
        limit: how many of these are embedded, if there is a limit.
        tokenizer: of transformers, if it is one; without it, every text is known.
        clean: what is done to a text before that tokenizer gets it.
    """

    encode: Callable[[str], Sequence[int]]
    limit: int | None = None
    tokenizer: Any = None
    clean: Callable[[str], str] = str

    @classmethod
    def of(cls, tokenizer: Any, limit: int | None, clean: Callable[[str], str] = str) -> Reader:
        """A reader with a tokenizer of transformers.

        Args:
            tokenizer: of transformers.
            limit: how many ids of a text the model embeds, special tokens not counted; None if there is no limit.
            clean: what is done to a text before the tokenizer gets it; nothing by default.
        """

        def encode(text: str) -> Sequence[int]:
            ids: list[int] = tokenizer(clean(text), **_WHOLE)["input_ids"]
            return ids

        return cls(encode, limit, tokenizer, clean)

    def check(self, sentences: Sequence[str], ids: Tensor, name: str) -> None:
        """Refuse a word for which the model has no token: the text would mean something else.

        Args:
            sentences: what is embedded.
            ids: of each, as the model gets them.
            name: of the model, for the message.

        Raises:
            UnknownWord: the message suggests the nearest spelling.
        """
        inner = self.tokenizer
        if inner is None or _is_byte_level(inner):
            return
        unknown = inner.unk_token_id
        # Else the ids alone do not tell: it stands for something else too, or the tokenizer drops what is unknown.
        if unknown not in (None, inner.pad_token_id, inner.bos_token_id, inner.eos_token_id) and not _leaves_out(inner):
            rows = (ids == unknown).any(-1).nonzero().flatten().tolist()
            sentences = [sentences[row] for row in rows]
        for sentence in dict.fromkeys(sentences):
            if (word := self._unknown(self.clean(sentence))) is not None:
                raise self.unknown(word, name)

    def check_names(self, names: Sequence[str], templates: Sequence[str], model: str) -> None:
        """Refuse names of which nothing is read, or less than it takes to tell them apart; say what is cut off.

        Args:
            names: of the concepts.
            templates: sentences with one ``{}`` for the name.
            model: the name of the model, for the message.

        Raises:
            UnknownWord: a word of a name leaves no token.
            PromptError: two names are cut to one and the same text.

        Warns:
            UserWarning: a text is longer than what the model reads.
        """
        if self.tokenizer is not None and not _is_byte_level(self.tokenizer):
            for name in names:
                for word in name.split() if self.clean(name).strip() else [name.strip()]:
                    if (self.clean(word).strip() or word == name.strip()) and not len(self.encode(word)):
                        raise self.unknown(word, model)
        if self.limit is None:
            return
        longest = max(templates, key=lambda template: len(self.encode(template.replace("{}", ""))))
        cut = {name: ids for name in names if len(ids := self.encode(longest.replace("{}", name))) > self.limit}
        if not cut:
            return
        before: dict[tuple[int, ...], str] = {}
        for name, ids in cut.items():
            first = before.setdefault(tuple(ids[: self.limit]), name)
            if first != name and list(cut[first]) != list(ids):
                raise PromptError(
                    f"{_short(first)} and {_short(name)} are one text to {model}, which reads {self.limit} tokens: "
                    "shorten them, so that the difference comes first."
                )
        name = max(cut, key=lambda one: len(cut[one]))
        whole = len(self.encode(longest.partition("{}")[0] + name)) <= self.limit
        what = f"only the end of the template {longest!r} is lost" if whole else "the end of the name is lost"
        others = f" (and {len(cut) - 1} more texts)" if len(cut) > 1 else ""
        warnings.warn(
            f"{model} reads {self.limit} tokens of a text; {_short(name)} in {longest!r} has {len(cut[name])}{others}: "
            f"{what}.",
            stacklevel=2,
        )

    def unknown(self, word: str, name: str) -> UnknownWord:
        """The error about a word that has no token."""
        known: list[str] = []
        if self.tokenizer is not None:
            special = set(self.tokenizer.all_special_tokens)
            known = sorted(piece for piece in self.tokenizer.get_vocab() if piece not in special)
        listed = f" It knows: {', '.join(known)}." if 0 < len(known) < 500 else ""
        hint = did_you_mean(word.lower(), [piece.lstrip("\u2581") for piece in known])
        return UnknownWord(f"{name} has never seen the word {word!r}.{hint}{listed}", word)

    def _unknown(self, text: str) -> str | None:
        """The first word of a text that has an unknown piece, or a letter that no piece is made of."""
        unknown, special = self.tokenizer.unk_token_id, self.tokenizer.unk_token
        if unknown is not None and special in text:
            text = text.replace(special, " ")
        if not getattr(self.tokenizer, "is_fast", False):
            return self._unknown_apart(text)
        read = self.tokenizer(text, return_offsets_mapping=True, **_WHOLE)
        pairs = list(zip(read["input_ids"], read["offset_mapping"], strict=True))
        for id_, (start, end) in pairs:
            if id_ == unknown and text[start:end].strip():
                return _word_at(text, start, end)
        covered = {place for _, (start, end) in pairs for place in range(start, end)}
        for place, letter in enumerate(text):
            if letter.isalnum() and place not in covered:
                return _word_at(text, place, place + 1)
        return None

    def _unknown_apart(self, text: str) -> str | None:
        """The same, where the tokenizer does not say where a piece comes from: word by word."""
        for word in text.split():
            # A word with its punctuation, then the word alone: the one to blame is the smallest that is unknown.
            parts = [part for part in re.findall(r"\w+(?:[-']\w+)*|[^\w\s]+", word) if self._is_unknown(part)]
            if parts:
                return str(parts[0])
            if self._is_unknown(word):
                return word
        return None

    def _is_unknown(self, word: str) -> bool:
        ids = self.tokenizer(word, **_WHOLE)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return (unknown is not None and unknown in ids) or (not ids and any(letter.isalnum() for letter in word))


_WHOLE: dict[str, Any] = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:35]}...{name[-22:]}")


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether it has a token for every byte, and so for everything."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    return "ByteLevel" in repr(backend.pre_tokenizer) or bool(getattr(backend.model, "byte_fallback", False))


def _leaves_out(tokenizer: Any) -> bool:
    """Whether what it does not know has no token at all."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return getattr(model, "unk_token", "") is None


def _word_at(text: str, start: int, end: int) -> str:
    """The word of which a piece is a part; the piece itself, if it is no part of a word."""
    piece = text[start:end].strip()
    if not any(letter.isalnum() for letter in piece):
        return piece
    start = start + text[start:end].index(piece)
    end = start + len(piece)
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    word = text[start:end]
    return word.strip(".,;:!?\"'()[]") or word

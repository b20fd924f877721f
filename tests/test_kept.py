"""What is kept of embedded texts: bounded, the same as embedded anew, and never shared with who may write into it."""

from __future__ import annotations

import time

import pytest
import torch
import zoo
from PIL import Image

from concept_cam import Localizer, nearest, wrap
from concept_cam.concepts import ConceptBank
from concept_cam.doubles import first_double
from concept_cam.errors import PromptError
from concept_cam.kept import _BANKS_KEPT, _OTHERS_KEPT, Kept

WIDTH = 8


def vector(name):
    generator = torch.Generator().manual_seed(sum(name.encode()) * 1000 + len(name))
    return torch.randn(WIDTH, generator=generator)


class Encoder:
    """Embeds by name, and counts what it was asked for."""

    def __init__(self, biased=False):
        self.asked, self.biased = [], biased

    def __call__(self, names):
        self.asked += names
        biases = torch.tensor([float(len(name)) for name in names]) if self.biased else None
        return ConceptBank(tuple(names), torch.stack([vector(name) for name in names]), biases)


def assert_right(bank, names):
    assert bank.names == tuple(names)
    assert torch.equal(bank.vectors, torch.stack([vector(name) for name in names]))
    assert bank.biases is None or bank.biases.tolist() == [float(len(name)) for name in names]


@pytest.mark.parametrize("biased", [False, True])
def test_any_order_of_questions_gives_what_embedding_anew_gives(biased):
    vocabulary = ("a", "bb", "ccc", "dddd")
    kept, encoder = Kept(vocabulary), Encoder(biased)
    for names in (
        ("bb",),
        ("x", "bb", "y"),
        (*vocabulary, "x"),
        vocabulary,
        ("dddd", "a"),
        ("zz", *reversed(vocabulary)),
        ("x", "a", "x"),
        (*vocabulary, "y", "x"),
    ):
        assert_right(kept.bank(names, "state", encoder), dict.fromkeys(names))
    # What came alone before the vocabulary was asked for is embedded with it once more, and nothing else is.
    assert sorted(encoder.asked) == ["a", "bb", "bb", "ccc", "dddd", "x", "y", "zz"]


def test_all_is_embedded_anew_when_the_state_has_changed():
    kept, encoder = Kept(("a", "b")), Encoder()
    kept.bank(("a", "b", "c"), 1, encoder)
    kept.bank(("a", "b", "c"), 2, encoder)
    assert sorted(encoder.asked) == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("biased", [False, True])
def test_a_bank_around_the_vocabulary_is_the_vocabulary_and_others_after_it(biased):
    vocabulary = ("a", "bb", "ccc")
    kept, encoder = Kept(vocabulary), Encoder(biased)
    for others in (("x",), (), ("y", "x"), ("x", "y", "x")):
        assert_right(kept.around(others, "state", encoder), dict.fromkeys((*vocabulary, *others)))
    assert sorted(encoder.asked) == ["a", "bb", "ccc", "x", "y"]
    assert kept.around(("y", "x"), "state", encoder) is kept.around(("y", "x"), "state", encoder)
    assert kept.around((), "state", encoder) is kept.bank(vocabulary, "state", encoder)
    assert_right(Kept().around(("x", "y"), "state", encoder), ("x", "y"))
    with pytest.raises(PromptError):
        Kept().around((), "state", encoder)


def test_what_a_bank_around_a_vocabulary_costs_does_not_depend_on_its_size():
    def fastest(kept):
        kept.around(("x",), 1, encoder)
        times = []
        for _ in range(200):
            start = time.perf_counter()
            kept.around(("x",), 1, encoder)
            times.append(time.perf_counter() - start)
        return min(times)

    encoder = Encoder()
    few, many = fastest(Kept(("a", "b"))), fastest(Kept([f"name {i}" for i in range(20_000)]))
    # A look at each of 20,000 names takes a hundred times as long as all of this.
    assert many < 5 * few


def test_a_bank_is_the_same_object_while_nothing_changes_so_that_what_is_derived_from_it_stays():
    kept, encoder = Kept(("a", "b")), Encoder()
    first = kept.bank(("a", "b", "c"), 1, encoder)
    kept.bank(("a", "b", "d"), 1, encoder)
    assert kept.bank(["a", "b", "c"], 1, encoder) is first


def test_what_is_kept_is_bounded_and_what_was_asked_for_last_stays():
    kept, encoder = Kept(("a", "b")), Encoder()
    kept.bank(("a", "b"), 1, encoder)
    captions = [f"caption {i}" for i in range(_OTHERS_KEPT + 500)]
    for start in range(0, len(captions), 100):
        kept.bank(("caption 0", *captions[start : start + 100]), 1, encoder)
    assert len(kept._others) == _OTHERS_KEPT
    assert len(kept._banks) == _BANKS_KEPT
    asked = len(encoder.asked)
    kept.bank(("a", "b", "caption 0", captions[-1]), 1, encoder)
    assert len(encoder.asked) == asked
    assert_right(kept.bank((captions[1],), 1, encoder), [captions[1]])
    assert encoder.asked[asked:] == [captions[1]]


def test_more_names_at_once_than_are_kept():
    kept, encoder = Kept(), Encoder()
    names = [f"caption {i}" for i in range(_OTHERS_KEPT + 10)]
    assert_right(kept.bank(names, 1, encoder), names)
    assert len(kept._others) == _OTHERS_KEPT


def test_a_call_costs_what_it_asks_for_and_not_what_was_ever_asked():
    kept, encoder = Kept(), Encoder()

    def fastest(names):
        kept.bank(names, 1, encoder)
        times = []
        for i in range(20):
            start = time.perf_counter()
            kept.bank((*names, f"new {i % 2} {len(encoder.asked) % 7}"), 1, encoder)
            times.append(time.perf_counter() - start)
        return min(times)

    few = fastest(("a", "b"))
    kept.bank([f"caption {i}" for i in range(20_000)], 1, encoder)
    assert fastest(("c", "d")) < 20 * few


@pytest.mark.parametrize("names", ["ember finch", [], ["a", " "]])
def test_names_that_are_none(names):
    localizer = Localizer(zoo.backbone("class token"), templates=["a {}"])
    with pytest.raises(PromptError):
        localizer.bank(names)


def test_who_writes_into_a_bank_changes_no_result():
    localizer = Localizer(wrap(zoo.tiny_clip().float(), zoo.TOKENIZER), vocabulary=zoo.WORDS, templates=["a {}"])
    image = Image.new("RGB", (40, 24), "red")
    expected = localizer(image, "red crown", nearest(2))
    localizer.bank(zoo.WORDS).vectors.mul_(0)
    localizer.bank((*zoo.WORDS, "red crown")).vectors.neg_()

    def writing(bank, target, scores):
        names = bank.neighbours(target, 2)
        bank.vectors.zero_()
        bank.units.zero_()
        bank.similarities(target).zero_()
        scores.fill_(7.0)
        return names

    def weighting(scores, similarities):
        scores.zero_()
        similarities.zero_()
        return torch.full((2,), 0.5)

    for against in (nearest(2), writing):
        got = localizer(image, "red crown", against, weighting=weighting)
        assert got.comparison == expected.comparison
        # A selector of one's own sees the scores of the whole bank: another product, so another rounding.
        assert got.scores == pytest.approx(expected.scores, rel=1e-6)
        assert torch.equal(got.map, expected.map)


# ---- doubles ----------------------------------------------------------------------------------------------------------

COSINE = 1 - 1e-5


@pytest.mark.parametrize("count", [3, 513, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("width", [2, 3, 6, 64])
def test_doubles_are_those_that_comparing_each_with_each_finds(count, width):
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        units = torch.randn(count, width, generator=generator, dtype=torch.float64)
        # Near the border between two and one.
        units[-1] = units[1] + seed * 1e-3 * torch.randn(width, generator=generator, dtype=torch.float64)
        units = torch.nn.functional.normalize(units, dim=1)
        pairs = [tuple(pair) for pair in (units @ units.T > COSINE).triu(1).nonzero().tolist()]
        found = first_double(units, COSINE)
        assert found in pairs if pairs else found is None


def test_many_names_are_held_apart_quickly():
    generator = torch.Generator().manual_seed(0)
    units = torch.randn(10_000, 64, generator=generator) + torch.randn(64, generator=generator)
    units = torch.nn.functional.normalize(units, dim=1)
    start = time.perf_counter()
    assert first_double(units, COSINE) is None
    assert time.perf_counter() - start < 2
    units[9_999] = units[17]
    assert first_double(units, COSINE) == (17, 9_999)
    assert first_double(units[:1].expand(10_000, -1), COSINE) is not None

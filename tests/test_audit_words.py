"""The difference of two classes in words: what is told, and what is not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audits import HABITATS, PARTS, SPECIES, examiner, localizer

from benchmarks import words as benchmark_of_words
from concept_cam import world
from concept_cam.audit.examine import Examiner
from concept_cam.audit.words import BACKGROUND, Words, without
from concept_cam.concepts import ConceptBank
from concept_cam.world.birds import part_of, phrase, species, twins
from concept_cam.world.shortcuts import SHORTCUTS


def test_a_difference_is_told_by_its_largest_products():
    vectors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0, 0], [0, 0, 1], [0, 0, -1.0]])
    bank = ConceptBank(("red crown", "blue crown", "grey crown", "long beak", "short beak"), vectors)
    words = Words(bank, (("beak shape", ("long beak", "short beak")), ("crown colour", bank.names[:3])))
    first, second = words.difference(torch.tensor([-3.0, 1.0, 0.5]))
    assert (first.what, first.ours, first.theirs, first.weight) == ("crown colour", "blue crown", "red crown", 4.0)
    assert (second.what, second.ours, second.theirs, second.weight) == ("beak shape", "long beak", "short beak", 1.0)
    assert str(first) == "blue crown (not red crown)"
    assert torch.equal(first.direction(bank), torch.tensor([-1.0, 1.0, 0.0]))
    assert words.difference(torch.tensor([-3.0, 1.0, 0.5]), 1) == (first,)


def test_twins_are_told_apart_by_the_part_and_the_colours(examiner):
    """On random twins; the bar is 0.8 for the part and 0.7 for both of its values."""
    rng = np.random.default_rng([7, 100])
    part, both = [], []
    for number in rng.integers(len(twins()), size=100):
        first, second, attribute = twins()[int(number)]
        ours, theirs = examiner.bank.vectors_of([first, second])
        told = examiner.words.difference(ours - theirs)[0]
        part.append(told.what.rpartition(" ")[0] == part_of(attribute))
        values = [f"{species()[name].card[attribute]} {part_of(attribute)}" for name in (first, second)]
        both.append([told.ours, told.theirs] == values)
    assert len(twins()) == 48
    assert np.mean(part) >= 0.8
    assert np.mean(both) >= 0.7


def six_attributes(*lengths):
    """Six attributes of two phrases each, along axes of their own, and a direction with so much of each."""
    names = tuple(f"{value} {k}" for k in range(6) for value in ("long", "short"))
    vectors = torch.eye(6, dtype=torch.float64).repeat_interleave(2, 0) * torch.tensor([[0.5], [-0.5]]).repeat(6, 1)
    words = Words(ConceptBank(names, vectors), tuple((str(k), names[2 * k : 2 * k + 2]) for k in range(6)))
    return words, torch.tensor(lengths, dtype=torch.float64)


def test_what_stands_out_does_so_from_the_other_attributes():
    words, direction = six_attributes(-42.0, 2.0, 1.0, 2.0, 3.0, 2.0)
    found = words.difference(direction, 6)
    assert [one.what for one in found] == ["0", "4", "1", "3", "5", "2"]
    # Of the other five the median is 2; of those that are not the first, one of the five is the first.
    assert [one.stands_out for one in found] == pytest.approx([21.0, 1.5, 1.0, 1.0, 1.0, 0.5])
    assert (found[0].ours, found[0].theirs) == ("short 0", "long 0")
    assert [one.describes(0.9) for one in found] == [True, False, False, False, False, False]
    assert [found[0].describes(agreement) for agreement in (0.5, 0.49, -1.0, math.nan)] == [True, False, False, False]
    # And which rule keeps one out: the texts first, then the map.
    assert found[0].kept_out(0.49) == "its map agrees with the evidence by 0.490, and 0.5 is asked"
    assert found[1].kept_out(0.9) == "it explains the texts 1.5 times as well as other attributes do, and 20 is asked"
    # The length of the direction is nothing to it, and the floor is a floor.
    assert words.difference(direction / 100)[0].stands_out == pytest.approx(21.0)
    assert (
        six_attributes(39.9, 2.0, 1.0, 2.0, 3.0, 2.0)[0]
        .difference(torch.tensor([39.9, 2, 1, 2, 3, 2.0]).double())[0]
        .describes(1.0)
        is False
    )


def test_of_few_attributes_nobody_knows_what_is_usual():
    words, direction = six_attributes(42.0, 2.0, 1.0, 2.0, 3.0, 2.0)
    few = replace(words, groups=words.groups[:5])
    assert all(math.isnan(one.stands_out) and not one.describes(1.0) for one in few.difference(direction))
    # And where the others explain nothing at all.
    assert math.isnan(words.difference(torch.eye(6, dtype=torch.float64)[0])[0].stands_out)


def test_of_a_direction_without_a_meaning_nothing_is_told(examiner):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        direction = torch.randn(examiner.bank.vectors.shape[1], generator=generator)
        assert not any(one.describes(1.0) for one in examiner.words.difference(direction, 99))
    ours, theirs = examiner.bank.vectors_of(["ember finch", "frost finch"])
    for _ in range(20):
        order = torch.randperm(len(ours), generator=generator)
        assert not any(one.describes(1.0) for one in examiner.words.difference((ours - theirs)[order], 99))


@pytest.mark.slow
@pytest.mark.parametrize("model", world.MODELS)
def test_no_word_is_told_of_what_neither_bird_has(model):
    """Of all twins, on plates that no floor was chosen by; of planted ones the habitat is told, or nothing."""
    localizer = world.localizer(vocabulary=(), checkpoint=world.MODELS[model])
    examiner = Examiner(localizer, SPECIES, PARTS, HABITATS)
    named = 0
    for first, second, attribute in twins():
        told = [one for one in benchmark_of_words.of_pair(examiner, first, second, 1, 11) if one.printed]
        assert not any(one.false for one in told), (first, second)
        if model == "world-shortcut" and {first, second} & set(SHORTCUTS):
            assert all(one.home for one in told), (first, second)
            named += len(told)
        else:
            expected = tuple(phrase(attribute, species()[name].card[attribute]) for name in (first, second))
            assert [(one.told.ours, one.told.theirs) for one in told] == [expected], (first, second)
    assert named >= (4 if model == "world-shortcut" else 0)


def test_backgrounds_are_a_group_of_their_own(examiner, localizer):
    groups = dict(examiner.words.groups)
    assert groups[BACKGROUND] == HABITATS
    assert set(groups) == {f"{part.name} {name}" for part in PARTS.parts for name in part.attributes} | {BACKGROUND}
    snow, water = examiner.words.bank.vectors_of(["bird in snow", "bird in water"])
    told = examiner.words.difference(snow - water, 1)[0]
    assert (told.what, told.ours, told.theirs) == (BACKGROUND, "bird in snow", "bird in water")
    alone = Examiner(localizer, SPECIES)
    assert alone.words.difference(snow - water) == ()


def test_a_background_is_erased():
    """Of (2, 0, 3) the excess over the mean (1/2, 1/2, 0) along (1, -1, 0) is 2 of that over 2: what is left is (1, 1, 3)."""
    backgrounds = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    erased = without(torch.tensor([[2.0, 0, 3], [0.5, 0.5, 7]]), backgrounds)
    assert torch.allclose(erased, torch.tensor([[1.0, 1, 3], [0.5, 0.5, 7]]).expand(2, 2, 3))


def test_to_erase_twice_is_to_erase_once_and_leaves_the_rest_alone():
    generator = torch.Generator().manual_seed(0)
    embedding, backgrounds = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 8), (5, 8)))
    mean = backgrounds.mean(0)
    once = without(embedding, backgrounds)
    for k, erased in enumerate(once):
        axis = F.normalize(backgrounds[k] - mean, dim=0)
        assert torch.allclose(erased @ axis, (mean @ axis).expand(4))
        across = torch.eye(8, dtype=torch.float64) - axis[:, None] * axis
        assert torch.allclose(erased @ across, embedding @ across)
        assert torch.allclose(without(erased, backgrounds)[k], erased)
        assert not torch.allclose(erased, embedding)
    assert torch.equal(without(embedding, backgrounds[:1].expand(3, 8)), embedding.expand(3, 4, 8))

"""An audit: where evidence lies by hand, what is looked at against the library's front door, and planted shortcuts found."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from test_page import chromium, overflow
from zoo import classifiers

from benchmarks import audit as benchmark, words as benchmark_of_words
from concept_cam import Localizer, Preprocess, fieldguide, wrap
from concept_cam.audit import ALARM, Audit, audit
from concept_cam.audit.evidence import Evidence, _file_name, mean_map
from concept_cam.audit.figures import Effect
from concept_cam.audit.looking import COLUMNS, Looker
from concept_cam.audit.moved import moves
from concept_cam.audit.place import ALIGNED, Ground, shared
from concept_cam.audit.report import NO_WORDS, write_report
from concept_cam.audit.summary import FIGURES, Condition, summary, write_tables
from concept_cam.audit.words import BACKGROUND, Words, random_axes, without
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example, read_dataset
from concept_cam.errors import ComparisonError, OptionError, OutputError, UnknownWord
from concept_cam.evaluation.grid import Doubt, View
from concept_cam.evaluation.judge import Judge, own_scale
from concept_cam.fieldguide.birds import part_of, phrase, species, twins
from concept_cam.fieldguide.dataset import WORLDS, birds_dataset
from concept_cam.fieldguide.shortcuts import SHORTCUTS
from concept_cam.images import Frame, Placement
from concept_cam.methods import METHODS, TraceMethod
from concept_cam.metrics import bounded_interval, energy_inside, rank_correlation
from concept_cam.parts import read_parts
from concept_cam.prompts import read_vocabulary
from concept_cam.tables import columns_of, read_table

HABITATS = read_vocabulary("fieldguide-habitats").names
PARTS = read_parts("fieldguide-parts")
SPECIES = tuple(species())


@pytest.fixture(scope="module")
def localizer():
    return fieldguide.localizer()


@pytest.fixture(scope="module")
def looker(localizer):
    return Looker(localizer, SPECIES, PARTS, HABITATS)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("concept_cam.audit.run.BATCH", 3)


def audited(localizer, dataset, folder, **options):
    return audit(localizer, dataset, folder, parts=PARTS, backgrounds=HABITATS, **options)


def alike(ours, theirs):
    """Two rows, numbers to four digits."""
    one, other = ({key: value for key, value in row.items() if isinstance(value, str)} for row in (ours, theirs))
    numbers = {key: pytest.approx(value, abs=1e-4) for key, value in ours.items() if key not in one}
    return one == other and numbers == {key: value for key, value in theirs.items() if key not in other}


def table(path):
    """Its rows; what is empty is an empty text."""
    content = path.read_bytes()
    return [dict.fromkeys(columns_of(content), "") | row for row in read_table(content)]


# ---- where evidence lies ----------------------------------------------------------------------------------------------

SQUARE = Placement((0, 0, 96, 96), (96, 96))
"""Twelve patches of eight pixels a side."""


def hot(*cells, value=1.0):
    grid = torch.zeros(12, 12)
    for cell in cells:
        grid[cell] = value
    return grid


def box(size, left, top, right, bottom):
    region = torch.zeros(size, dtype=torch.bool)
    region[top:bottom, left:right] = True
    return region


def place_of(grid, placement, region):
    return Ground.of(placement, region, grid.shape).place(grid)


@pytest.mark.parametrize(
    ("column", "right", "energy", "off"),
    [
        # The object reaches from the left to column ``right``. A patch alone is a tent: it spreads over two patches, with
        # weights of 1, 3, ..., 15, 15, ..., 1 in 128.
        (3, 48, 1.0, 0.0),
        (5, 48, 112 / 128, 0.0),  # up to the edge, but for a foot of four pixels
        (6, 48, 16 / 128, 16 / 128),  # the next one: its foot inside, and a foot that is more than a patch away
        (7, 48, 0.0, 112 / 128),
        (9, 48, 0.0, 1.0),
        (6, 52, 0.5, 0.0),  # half of it on the object
        (7, 52, 0.0, 0.5),  # half of it within a patch of the object
    ],
)
def test_shares_of_one_patch(column, right, energy, off):
    found = place_of(hot((6, column)), SQUARE, box((96, 96), 0, 0, right, 96))
    assert found.energy == pytest.approx(energy)
    assert found.off_object == pytest.approx(off)
    assert found.off_area == pytest.approx((96 - right - 8) / 96)
    assert found.border == pytest.approx(0.0)


def test_what_is_near_is_near_along_both_axes():
    region = box((96, 96), 32, 32, 64, 64)
    above, beside, corner = (place_of(hot(cell), SQUARE, region).off_object for cell in ((3, 5), (5, 3), (3, 3)))
    assert above == beside == pytest.approx(16 / 128)
    assert corner == pytest.approx(1 - (112 / 128) ** 2)
    assert place_of(hot((5, 5)), SQUARE, region).off_area == pytest.approx(1 - (48 / 96) ** 2)


def test_evidence_against_counts_for_nothing():
    grid = hot((6, 2)) - hot((6, 10), value=5.0)
    found = place_of(grid, SQUARE, box((96, 96), 0, 0, 48, 96))
    assert (found.energy, found.off_object) == pytest.approx((1.0, 0.0))


def test_without_positive_evidence_nothing_is_known():
    found = place_of(-torch.ones(12, 12), SQUARE, box((96, 96), 0, 0, 48, 96))
    assert vars(found) == {"energy": None, "off_object": None, "off_area": pytest.approx(40 / 96), "border": None}


def test_without_an_object_the_border_alone_is_known():
    """Four rows at full height, then a tent of which half lies within 8 of 96 pixels' border."""
    found = place_of(hot((0, 6)), SQUARE, None)
    assert vars(found) == {"energy": None, "off_object": None, "off_area": None, "border": pytest.approx(7 / 8)}
    assert place_of(hot((6, 6)), SQUARE, None).border == 0.0


def test_the_border_is_off_the_object():
    top = hot((0, 6))
    assert place_of(top, SQUARE, box((96, 96), 0, 0, 96, 20)).border == 0.0
    assert place_of(top, SQUARE, box((96, 96), 0, 60, 96, 96)).border == pytest.approx(7 / 8)


def test_a_picture_that_is_squashed():
    """Patches are 16 x 8 pixels: near is a patch by its longer side."""
    squashed = Placement((0, 0, 192, 96), (96, 192))
    found = place_of(hot((6, 7)), squashed, box((96, 192), 0, 0, 96, 96))
    assert (found.energy, found.off_object) == pytest.approx((0.0, 112 / 128))
    assert found.off_area == pytest.approx(40 / 96)
    below = place_of(hot((7, 6)), squashed, box((96, 192), 0, 0, 192, 48))
    assert below.off_object == pytest.approx(4 / 32)
    assert below.off_area == pytest.approx((96 - 48 - 16) / 96)


def test_what_was_cropped_away_is_neither_near_nor_far():
    """The window is the middle half; of what it shows, 40 of 96 columns are far from the object."""
    crop = Placement((48, 0, 144, 96), (96, 192))
    found = place_of(hot((6, 7)), crop, box((96, 192), 0, 0, 96, 96))
    assert (found.energy, found.off_object, found.off_area) == pytest.approx((0.0, 112 / 128, 40 / 96))
    assert found.border == 0.0


def test_evidence_in_the_padding_counts_for_nothing():
    """The picture is the middle half of the input: 48 wide, patches 3 to 8."""
    padded = Placement((-24, 0, 72, 96), (96, 48))
    found = place_of(hot((6, 0), (6, 11), value=9.0) + hot((6, 4)), padded, box((96, 48), 0, 0, 24, 96))
    assert (found.energy, found.off_object) == pytest.approx((1.0, 0.0))
    assert found.off_area == pytest.approx(16 / 48)


def test_an_object_that_was_not_seen():
    crop = Placement((48, 0, 144, 96), (96, 192))
    region = box((96, 192), 0, 0, 20, 96)
    ground = Ground.of(crop, region, (12, 12))
    found = ground.place(hot((6, 6)))
    assert (found.energy, found.off_object, found.off_area) == pytest.approx((0.0, 1.0, 1.0))
    assert torch.equal(ground.aligned(hot((6, 6))), torch.zeros(ALIGNED, ALIGNED))


@pytest.mark.parametrize("side", [96, 3000])
def test_an_object_of_one_pixel(side):
    grid = torch.arange(144.0).reshape(12, 12)
    y, x = side // 3, side // 2
    ground = Ground.of(Placement((0, 0, side, side), (side, side)), box((side, side), x, y, x + 1, y + 1), (12, 12))
    (value,) = ground.aligned(grid).unique()
    assert float(value) == pytest.approx(12 * 3.5 + 5.5, abs=7)
    found = ground.place(grid)
    assert 0 < found.energy < 1e-3
    assert found.off_area == pytest.approx(1 - (17 / 96) ** 2, abs=1e-6)


def test_a_sliver_takes_no_more_room_than_a_picture():
    picture = Image.new("RGB", (20000, 1), "grey")
    frame = Frame.of(picture, Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3))
    ground = Ground.of(frame.placement, torch.ones(1, 20000, dtype=torch.bool), (12, 12))
    assert math.prod(ground.placement.picture_size) <= 4_100_000
    assert ground.place(hot((6, 6))).energy == pytest.approx(1.0)


def test_maps_are_aligned_by_their_objects():
    """The same evidence on the same object elsewhere is the same map; the whole picture's is another."""
    generator = torch.Generator().manual_seed(0)
    evidence = torch.zeros(12, 12)
    evidence[2:5, 1:6] = torch.randn(3, 5, generator=generator)
    there = evidence.roll((5, 4), (0, 1))
    here, moved = (Ground.of(SQUARE, box((96, 96), 16 + x, 16 + y, 40 + x, 40 + y), (12, 12)) for x, y in ((0, 0), (32, 40)))
    assert torch.allclose(here.aligned(evidence), moved.aligned(there), atol=1e-6)
    assert here.aligned(evidence).std() > 0.1
    assert not torch.allclose(here.whole(evidence), moved.whole(there), atol=0.1)


def test_an_aligned_map_is_what_lies_in_the_box():
    ramp = torch.arange(12.0).expand(12, 12)
    ground = Ground.of(SQUARE, box((96, 96), 24, 0, 72, 96), (12, 12))
    # 48 pixels to 24: the mean of each two, of a ramp of 1/8 a pixel that is 2.5625 at the middle of column 24.
    expected = 2.5625 + (2 * torch.arange(24.0) + 0.5) / 8
    assert torch.allclose(ground.aligned(ramp)[:, 2:-2], expected[2:-2].expand(24, 20), atol=1e-5)
    assert torch.equal(Ground.of(SQUARE, None, (12, 12)).aligned(ramp), ground.whole(ramp))


def test_where_two_maps_agree():
    ours, theirs = torch.tensor([[1.0, -2.0, 0.0, 0.5]]), torch.tensor([[2.0, -1.0, 3.0, -1.0]])
    assert torch.allclose(shared(ours, theirs), torch.tensor([[0.5, -1 / 3, 0.0, 0.0]]))
    assert torch.equal(shared(torch.zeros(2, 2), torch.ones(2, 2)), torch.zeros(2, 2))


# ---- in words ---------------------------------------------------------------------------------------------------------


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


def test_twins_are_told_apart_by_the_part_and_the_colours(looker):
    """On random twins; the bar is 0.8 for the part and 0.7 for both of its values."""
    rng = np.random.default_rng([7, 100])
    part, both = [], []
    for number in rng.integers(len(twins()), size=100):
        first, second, attribute = twins()[int(number)]
        ours, theirs = looker.bank.vectors_of([first, second])
        told = looker.words.difference(ours - theirs)[0]
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
    assert [one.told(0.9) for one in found] == [True, False, False, False, False, False]
    assert [found[0].told(agreement) for agreement in (0.5, 0.49, -1.0, math.nan)] == [True, False, False, False]
    # The length of the direction is nothing to it, and the floor is a floor.
    assert words.difference(direction / 100)[0].stands_out == pytest.approx(21.0)
    assert (
        six_attributes(39.9, 2.0, 1.0, 2.0, 3.0, 2.0)[0]
        .difference(torch.tensor([39.9, 2, 1, 2, 3, 2.0]).double())[0]
        .told(1.0)
        is False
    )


def test_of_few_attributes_nobody_knows_what_is_usual():
    words, direction = six_attributes(42.0, 2.0, 1.0, 2.0, 3.0, 2.0)
    few = replace(words, groups=words.groups[:5])
    assert all(math.isnan(one.stands_out) and not one.told(1.0) for one in few.difference(direction))
    # And where the others explain nothing at all.
    assert math.isnan(words.difference(torch.eye(6, dtype=torch.float64)[0])[0].stands_out)


def test_of_a_direction_without_a_meaning_nothing_is_told(looker):
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        direction = torch.randn(looker.bank.vectors.shape[1], generator=generator)
        assert not any(one.told(1.0) for one in looker.words.difference(direction, 99))
    ours, theirs = looker.bank.vectors_of(["ember finch", "frost finch"])
    for _ in range(20):
        order = torch.randperm(len(ours), generator=generator)
        assert not any(one.told(1.0) for one in looker.words.difference((ours - theirs)[order], 99))


@pytest.mark.parametrize("model", fieldguide.MODELS)
def test_no_word_is_told_of_what_neither_bird_has(model):
    """Of all twins, on plates that no floor was chosen by; where nothing is planted, the right words alone are told."""
    localizer = fieldguide.localizer(vocabulary=(), checkpoint=fieldguide.MODELS[model])
    looker = Looker(localizer, SPECIES, PARTS, HABITATS)
    silent = set()
    for first, second, attribute in twins():
        told = [one for one in benchmark_of_words.of_pair(looker, first, second, 1, 11) if one.printed]
        assert not any(one.false for one in told), (first, second)
        expected = tuple(phrase(attribute, species()[name].card[attribute]) for name in (first, second))
        assert [(one.told.ours, one.told.theirs) for one in told] in ([], [expected]), (first, second)
        silent |= set() if told else {first}
    near = {twin for name, twin, _ in twins() if name in SHORTCUTS}
    assert silent == ({*SHORTCUTS, *near} if model == "fieldguide-shortcut" else set())


def test_backgrounds_are_a_group_of_their_own(looker, localizer):
    groups = dict(looker.words.groups)
    assert groups[BACKGROUND] == HABITATS
    assert set(groups) == {f"{part.name} {name}" for part in PARTS.parts for name in part.attributes} | {BACKGROUND}
    snow, water = looker.words.bank.vectors_of(["bird in snow", "bird in water"])
    told = looker.words.difference(snow - water, 1)[0]
    assert (told.what, told.ours, told.theirs) == (BACKGROUND, "bird in snow", "bird in water")
    alone = Looker(localizer, SPECIES)
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


# ---- one picture ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked(looker):
    """Four plates, with what was seen on them."""
    examples = birds_dataset(4, seed=2).examples[:]
    return examples, *looker.look(examples)


def test_what_decided_is_what_a_localizer_says_against_the_runner_up(localizer, looked):
    examples, rows, tensors = looked
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        result = localizer(example.read(), row["predicted"], row["runner_up"], strength=1.0)
        ground = Ground.of(result.placement, example.region(), result.map.shape)
        assert torch.allclose(tensors["aligned"][b], ground.aligned(result.map), atol=1e-7)
        assert torch.allclose(tensors["whole"][b], ground.whole(result.map), atol=1e-7)
        # By the metric of ``evaluate``, in the pixels of the picture: on the object, and on what is a patch around it.
        bird = example.region()
        near = F.max_pool2d(bird[None].float(), 33, stride=1, padding=16)[0] > 0
        assert row["energy"] == pytest.approx(float(energy_inside(result.heatmap(), bird)), abs=0.005)
        assert row["off_object"] == pytest.approx(1 - float(energy_inside(result.heatmap(), near)), abs=0.01)
        assert row["off_area"] == pytest.approx(float((~near).double().mean()), abs=0.02)
        assert row["energy"] > row["off_object"]


def test_what_was_decided_is_the_models_own(localizer, looked):
    examples, rows, _ = looked
    bank = localizer.bank(SPECIES)
    for example, row in zip(examples, rows, strict=True):
        pixels = localizer.frame(example.read()).pixels[None]
        with torch.no_grad():
            embedding = F.normalize(localizer.backbone.embed_pixels(pixels), dim=-1)
        sure = (own_scale(localizer.backbone) * embedding @ bank.vectors.T).softmax(-1)[0].topk(2)
        names = [SPECIES[i] for i in sure.indices]
        assert [row["predicted"], row["runner_up"]] == names
        assert [row["confidence"], row["doubt"]] == pytest.approx(sure.values.tolist(), abs=1e-5)
        assert row["label"] == example.label
        assert row["correct"] == int(names[0] == example.label)


def test_the_drop_is_that_of_an_evaluation(localizer, looker, looked):
    examples, rows, _ = looked
    judge = Judge(localizer.backbone, looker.bank, looker.scale)
    views = [View.of(example, localizer.preprocess) for example in examples]
    with torch.no_grad():
        ((seen, _, _),) = localizer.traces([view.frame for view in views])
        maps = [
            localizer(e.read(), r["predicted"], r["runner_up"], strength=1.0).map for e, r in zip(examples, rows, strict=True)
        ]
        which = [torch.tensor([SPECIES.index(row[key]) for row in rows]) for key in ("predicted", "runner_up")]
        drops = Doubt(judge, seen.pixels, judge.of_embedding(seen.embedding), *which).about(torch.stack(maps), 0)["rd5"]
    assert [row["rd5"] for row in rows] == pytest.approx(drops.tolist(), abs=1e-4)
    assert len({round(row["rd5"], 3) for row in rows}) == 4


def test_the_map_of_the_words_is_held_against_that_of_the_decision(looker, looked):
    localizer = fieldguide.localizer(vocabulary=())
    examples, rows, tensors = looked
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        ours, theirs = looker.bank.vectors_of([row["predicted"], row["runner_up"]])
        told = looker.words.difference(ours - theirs)
        means = [one for one, agreement in zip(told, tensors["agreements"][b].tolist(), strict=True) if one.told(agreement)]
        assert row.get("words", "") == "; ".join(f"{one.ours} (not {one.theirs})" for one in means)
        assert means == [told[0]]
        decision = localizer(example.read(), row["predicted"], row["runner_up"], strength=1.0)
        for k, one in enumerate(told):
            if one.what != BACKGROUND:
                words = localizer(example.read(), one.ours, one.theirs, strength=1.0)
                agreement = float(rank_correlation(words.map, decision.map))
                assert float(tensors["agreements"][b, k]) == pytest.approx(agreement, abs=1e-3)
                if k == 0:
                    both = Ground.of(decision.placement, example.region(), (12, 12)).aligned(shared(decision.map, words.map))
                    assert torch.allclose(tensors["shared"][b], both, atol=1e-3)
                    assert row["agreement"] == pytest.approx(agreement, abs=1e-3)


def test_a_background_that_is_erased_takes_off_what_it_takes_off(localizer, looker, looked):
    examples, rows, tensors = looked
    scenes = localizer.bank(HABITATS)
    for example, row, effects in zip(examples, rows, tensors["effects"], strict=True):
        with torch.no_grad():
            embedding = F.normalize(localizer.backbone.embed_pixels(localizer.frame(example.read()).pixels[None]), dim=-1)
        judge = Judge(localizer.backbone, looker.bank, looker.scale)
        target = SPECIES.index(row["predicted"])
        axis = F.normalize(scenes.vectors[3] - scenes.vectors.mean(0), dim=0)
        erased = F.normalize(embedding - (embedding - scenes.vectors.mean(0)) @ axis[:, None] * axis, dim=-1)
        lost = (judge.of_embedding(embedding) - judge.of_embedding(erased))[0, target]
        assert float(effects[3]) == pytest.approx(float(lost), abs=1e-5)
        assert row["background"] == HABITATS[int(effects.argmax())]
        assert row["sensitivity"] == float(effects.max())


def test_alone_or_together_in_any_size_and_order():
    """At native aspect pictures go through the model in groups; what comes out is in the order of the examples."""
    localizer = fieldguide.localizer(fit="native")
    looker = Looker(localizer, SPECIES, PARTS, HABITATS)
    examples = []
    for k, (width, height) in enumerate(((192, 192), (150, 192), (192, 192), (192, 120), (150, 192), (192, 192))):
        example = birds_dataset(6, seed=4).examples[k]
        mask = example.region()[:height, :width]
        picture = example.read().crop((0, 0, width, height))
        examples.append(Example(example.name, picture, example.label, region=lambda mask=mask: mask))
    examples.insert(2, Example("gone", "no such file.png", SPECIES[0]))
    rows, tensors = looker.look(examples)
    assert [row["picture"] for row in rows] == [example.name for example in examples]
    good = [k for k, row in enumerate(rows) if "problem" not in row]
    assert good == [0, 1, 3, 4, 5, 6]
    for place, k in enumerate(good):
        (row,), alone = looker.look([examples[k]])
        assert alike(row, rows[k])
        for name, tensor in alone.items():
            assert torch.allclose(tensor[0], tensors[name][place], atol=1e-4), name
    assert len({tuple(tensor.flatten()[:50].tolist()) for tensor in tensors["whole"]}) == 6
    assert looker.scene_localizer.preprocess == localizer.preprocess


def test_what_cannot_be_used_is_said_and_the_rest_is_there(looker, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    good = birds_dataset(2).examples[:]
    none = torch.zeros(192, 192, dtype=torch.bool)
    examples = [
        Example("broken", tmp_path / "broken.png", SPECIES[0]),
        good[0],
        replace(good[0], name="strange", label="ember finsh"),
        replace(good[0], name="mask", region=lambda: none[:100]),
        replace(good[0], name="nowhere", region=lambda: none),
        good[1],
    ]
    rows, tensors = looker.look(examples)
    assert [k for k, row in enumerate(rows) if "problem" not in row] == [1, 5]
    assert re.search("broken.png: the picture cannot be read: it is not a picture", rows[0]["problem"])
    assert re.search("Did you mean 'ember finch'", rows[2]["problem"])
    assert re.search("the mask is 100 x 192, the picture 192 x 192", rows[3]["problem"])
    assert "mask" in rows[4]["problem"]
    assert set(rows[3]) == {"picture", "label", "problem"}
    _, expected = looker.look(good)
    assert all(torch.allclose(tensors[name], expected[name], atol=1e-5) for name in expected)
    assert looker.look(examples[:1])[1] == {}


def test_two_passes_a_picture(looker, monkeypatch):
    """The trace, and what is covered for the relative drop."""
    kind, passed = type(looker.localizer.backbone), []
    own = kind.embed_pixels
    monkeypatch.setattr(kind, "embed_pixels", lambda self, pixels: passed.append(len(pixels)) or own(self, pixels))
    looker.look(birds_dataset(3).examples[:])
    assert passed == [3, 3]


def test_classes_that_have_one_embedding_are_not_told_apart(localizer):
    """The same words for the encoder, and two names for us."""
    looker = Looker(localizer, ("Ember finch", "ember finch", "frost finch"), PARTS, HABITATS)
    ours, theirs = looker.bank.vectors[:2]
    assert torch.allclose(ours, theirs)
    examples = [replace(example, label="frost finch") for example in birds_dataset(2).examples]
    rows, tensors = looker.look(examples)
    assert re.search("cannot tell from '[Ee]mber finch': leave one of them out", rows[0]["problem"])
    assert rows[1]["predicted"] == "frost finch"
    assert len(tensors["aligned"]) == 1


def test_a_picture_without_evidence_is_listed_and_the_others_are_looked_at(localizer):
    """As a method that is never negative can have it."""

    def maps(seen, directions):
        found = directions.new_ones(len(directions), len(seen.embedding), 144)
        found[0, 1] = 0
        return found

    own = Localizer(localizer.backbone, templates=localizer.templates, method=TraceMethod(maps))
    rows, tensors = Looker(own, SPECIES).look(birds_dataset(3).examples[:])
    assert re.match("nothing speaks for '.*' and not '.*'", rows[1]["problem"])
    assert [("problem" in row) for row in rows] == [False, True, False]
    assert len(tensors["aligned"]) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": ("ember finch",)}, OptionError, r"has the classes \['ember finch'\]; expected two or more"),
        ({"classes": ("ember finch", "ember finch")}, OptionError, "expected two or more"),
        ({"classes": ()}, OptionError, "expected two or more"),
        ({"backgrounds": ("bird in snow",)}, OptionError, "one background, 'bird in snow'; expected two or more"),
        ({"strength": -1.0}, ComparisonError, "strength is -1.0"),
        ({"strength": math.nan}, ComparisonError, "strength is nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(localizer, options, error, message):
    with pytest.raises(error, match=message):
        Looker(**({"localizer": localizer, "classes": SPECIES} | options))


def test_a_method_that_compares_nothing_is_refused():
    with pytest.raises(OptionError, match="rollout does not look at the score"):
        Looker(fieldguide.localizer(method=METHODS["rollout"]), SPECIES)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
)
def test_half_precision_decides_the_same(looker, looked, device):
    own = fieldguide.localizer(device=device).backbone
    backbone = wrap(own.module.to(torch.bfloat16), own.tokenizer)
    own = Looker(Localizer(backbone, templates="fieldguide"), SPECIES, PARTS, HABITATS)
    examples, rows, tensors = looked
    found, low = own.look(examples)
    for ours, theirs in zip(rows, found, strict=True):
        assert [ours[key] for key in ("predicted", "runner_up")] == [theirs[key] for key in ("predicted", "runner_up")]
        assert theirs["off_object"] == pytest.approx(ours["off_object"], abs=0.03)
        assert theirs["energy"] == pytest.approx(ours["energy"], abs=0.05)
        assert theirs["confidence"] == pytest.approx(ours["confidence"], abs=0.05)
    assert {tensor.dtype for tensor in low.values()} == {torch.float32}
    assert F.cosine_similarity(low["whole"].flatten(1), tensors["whole"].flatten(1)).min() > 0.98


# ---- on disk ----------------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_was_interrupted_goes_on(localizer, tmp_path, small, monkeypatch):
    data = birds_dataset(8)
    whole = audited(localizer, data, tmp_path / "whole")
    looked, own = [], Looker.look

    def stopping(self, examples):
        if len(looked) == 1:
            raise KeyboardInterrupt
        looked.append(examples[0].name)
        return own(self, examples)

    monkeypatch.setattr(Looker, "look", stopping)
    with pytest.raises(KeyboardInterrupt):
        audited(localizer, data, tmp_path / "parts")
    made = sorted(path.name for path in (tmp_path / "parts" / "batches").iterdir())
    assert made == ["00000.csv", "00000.json", "00000.safetensors"]
    # Maps without their rows are those of a batch that was not finished.
    (tmp_path / "parts" / "batches" / "00001.safetensors").write_bytes(b"half")
    monkeypatch.setattr(Looker, "look", lambda self, examples: looked.append(examples[0].name) or own(self, examples))
    again = audited(localizer, data, tmp_path / "parts")
    assert looked == ["0-00000", "0-00003", "0-00006"]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert again.rows == whole.rows
    assert len(list((tmp_path / "whole" / "batches").iterdir())) == 9
    # And once more: nothing is looked at.
    assert audited(localizer, data, tmp_path / "parts").rows == whole.rows
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"localizer": lambda: fieldguide.localizer(checkpoint=fieldguide.SHORTCUT)}, "another model;"),
        ({"localizer": lambda: fieldguide.localizer(method=METHODS["grad_cam"])}, "another method;"),
        ({"localizer": lambda: fieldguide.localizer(templates=["a {}"])}, "another templates;"),
        ({"localizer": lambda: fieldguide.localizer(size=192)}, "another size;"),
        ({"strength": 0.5}, "another strength;"),
        ({"backgrounds": HABITATS[:3]}, "another backgrounds;"),
        ({"parts": None}, "another parts;"),
        ({"about": {"pretrained": "other"}}, "another pretrained;"),
    ],
)
def test_a_folder_is_for_one_audit(localizer, tmp_path, changed, message):
    given = {"parts": PARTS, "backgrounds": HABITATS, "about": {"pretrained": "own"}}
    audit(localizer, birds_dataset(1), tmp_path, **given)
    other = {key: value() if key == "localizer" else value for key, value in changed.items()}
    with pytest.raises(OutputError, match=message):
        audit(**({"localizer": localizer, "dataset": birds_dataset(1), "folder": tmp_path} | given | other))


def test_texts_that_are_not_known_are_found_before_anything_is_written(localizer, tmp_path):
    data = replace(birds_dataset(2), classes=(*SPECIES, "quetzal"))
    with pytest.raises(UnknownWord, match="quetzal"):
        audit(localizer, data, tmp_path / "a")
    with pytest.raises(UnknownWord, match="volcano"):
        audit(localizer, birds_dataset(2), tmp_path / "a", backgrounds=("bird in snow", "bird in volcano"))
    assert not (tmp_path / "a").exists()


def test_rows_are_read_as_they_were_written(localizer, tmp_path, small):
    data = birds_dataset(4)
    found = audited(localizer, data, tmp_path)
    rows, tensors = found.looker.look(data.examples[:])
    for row, read in zip(rows, found.rows, strict=True):
        assert alike(row, read)
    assert tuple((tmp_path / "rows.csv").read_text().splitlines()[0].split(",")) == COLUMNS
    for kind, tensor in tensors.items():
        for (row, stored), expected in zip(found.tensors(kind), tensor, strict=True):
            assert torch.allclose(stored, expected.double(), atol=1e-4)
            assert row in found.good


def test_maps_lie_on_disk_and_not_in_memory(localizer, tmp_path, small):
    found = audited(localizer, birds_dataset(7), tmp_path)
    held = [value for row in found.rows for value in row.values()]
    assert all(isinstance(value, str | float) for value in held)
    assert [len(load_file(file)["whole"]) for file in found.batches] == [3, 3, 1]
    found.batches[1].unlink()
    pairs = found.tensors("whole")
    assert [next(pairs)[0]["picture"] for _ in range(3)] == ["0-00000", "0-00001", "0-00002"]
    with pytest.raises(OutputError, match=r"00001.safetensors: not the maps of an audit"):
        next(pairs)


def test_without_pictures_there_is_a_report_all_the_same(localizer, tmp_path):
    found = audited(localizer, replace(birds_dataset(1), examples=[]), tmp_path)
    assert (found.rows, found.classes, found.pairs(), found.backgrounds(), found.ranked) == ([], [], [], [], [])
    assert found.accuracy is None
    assert "No rows." in write_report(found).read_text()
    assert {figure: summary(found)[figure] for figure in FIGURES} == dict.fromkeys(FIGURES)
    assert (tmp_path / "pairs.csv").read_text() == "first,second,pictures,errors,swapped,doubt,best,worst\n"


def test_when_all_pictures_are_broken_all_are_listed(localizer, tmp_path, small):
    examples = [Example(f"{k}.png", tmp_path / f"{k}.png", SPECIES[0]) for k in range(4)]
    found = audited(localizer, Dataset("gone", SPECIES, examples, problems=("x.png: odd",)), tmp_path)
    assert found.good == []
    assert len(found.problems) == summary(found)["skipped"] == 5
    html = write_report(found).read_text()
    assert all(f"{k}.png: " in html for k in range(4))
    assert Condition.read("accuracy < 0.5").reason(summary(found)) == "accuracy is not known"
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy"] is None


def test_a_name_that_is_not_utf8_is_listed(localizer, tmp_path):
    name = "\udcff.png"
    data = replace(birds_dataset(1), examples=[replace(birds_dataset(1).examples[0], name=name), Example(name * 2, "?", "x")])
    found = audited(localizer, data, tmp_path)
    assert [row["picture"] for row in found.rows] == ["?.png", "?.png?.png"]
    assert "?.png?.png" in write_report(found).read_text()


def test_classes_with_names_like_numbers(tmp_path):
    """A classifier, too: it reads no texts, so there are neither words nor backgrounds."""
    names = ("1", "2", "10", "1e5", "nan", "-0.5", "True")
    preprocess = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
    localizer = Localizer(wrap(classifiers.torchvision_vit(), preprocess=preprocess, classes=names))
    examples = [replace(e, label=names[k]) for k, e in enumerate(birds_dataset(7).examples)]
    found = audit(localizer, Dataset("numbers", names, examples), tmp_path)
    assert [row["label"] for row in found.rows] == list(names)
    assert {row["predicted"] for row in found.rows} <= set(names)
    assert sum(one.pictures for one in found.classes) == 7
    assert found.pairs()[0].differences == ()
    assert found.pairs()[0].shared is None
    html = write_report(found).read_text()
    assert "Backgrounds that move decisions" not in html
    assert [row["class"] for row in table(tmp_path / "classes.csv")] == [one.name for one in found.classes]


# ---- what it comes to -------------------------------------------------------------------------------------------------

A, B, C = SPECIES[:3]


@pytest.fixture(scope="module")
def by_hand(localizer, tmp_path_factory):
    """Eight pictures, of which one is broken; maps and effects are the number of the picture."""
    folder = tmp_path_factory.mktemp("hand")
    columns = ("label", "predicted", "runner_up", "confidence", "doubt", "off_object", "energy", "rd5", "border", "off_area")
    given = [
        (A, A, B, 0.9, 0.1, 0.5, 0.4, 1.0, 0.2, 0.6),
        (B, A, B, 0.6, 0.35, 0.7, 0.2, 0.5, 0.4, 0.8),  # shows the second
        (A, A, C, 0.8, 0.15, 0.6, 0.3, 0.0, 0.0, 0.7),
        (C, A, B, 0.5, 0.3, 0.6, 0.3, 0.5, 0.2, 0.7),  # shows neither
        None,
        (B, B, A, 0.7, 0.2, 0.25, 0.8, 1.5, 0.0, 0.6),
        (B, B, A, 0.95, 0.04, 1.0, 0.0, 0.5, 0.0, 0.6),
        (C, B, C, 0.55, 0.45, None, None, 0.5, None, None),  # where its object is nobody knows
    ]
    rows = []
    for k, values in enumerate(given):
        row = {"picture": f"p{k}"} | (dict(zip(columns, values, strict=True)) if values else {"label": A, "problem": "gone"})
        row |= {"correct": float(values[0] == values[1])} if values else {}
        rows.append({key: value for key, value in row.items() if value is not None})
    good = [k for k, values in enumerate(given) if values]
    batches = []
    for number, some in enumerate((good[:3], good[3:])):
        whole = torch.stack([torch.full((ALIGNED, ALIGNED), float(k)) for k in some])
        effects = torch.tensor([[0.01 * k, 0.5 - 0.1 * k] for k in some])
        agreements = torch.tensor([[0.1 * k] for k in some])
        batches.append(folder / f"{number}.safetensors")
        tensors = {
            "aligned": whole,
            "whole": whole.clone(),
            "shared": whole / 10,
            "agreements": agreements,
            "effects": effects,
            "chance": torch.tensor([[0.0, 0.2, -0.3]] * len(some)),
        }
        save_file(tensors, batches[-1])
    looker = Looker(localizer, (A, B, C, SPECIES[3]), backgrounds=HABITATS[:2])
    examples = [Example(row["picture"], folder / "gone.png", row["label"]) for row in rows]
    return Audit(looker, Dataset("hand", (A, B, C, SPECIES[3]), examples, problems=("q: cut short",)), folder, rows, batches)


def test_what_is_said_of_a_class(by_hand):
    first, second, third = by_hand.classes
    assert [first.name, second.name, third.name] == [A, B, C]
    assert (first.pictures, second.pictures, third.pictures) == (2, 3, 2)
    assert (first.accuracy, second.accuracy, third.accuracy) == pytest.approx((1.0, 2 / 3, 0.0))
    # Of those with the label: 0.9 and 0.8 are right; 0.6 is wrong, 0.7 and 0.95 are right; 0.5 and 0.55 are wrong.
    expected = ((0.1 + 0.2) / 2, (0.6 + 0.3 + 0.05) / 3, (0.5 + 0.55) / 2)
    assert (first.calibration, second.calibration, third.calibration) == pytest.approx(expected)
    assert (first.errors, second.errors, third.errors) == (0, 1, 2)
    # Of those predicted as it.
    assert (first.predicted, second.predicted, third.predicted) == (4, 3, 0)
    assert first.off_object.mean == pytest.approx(0.6)
    # Of two classes something is known of objects, and both intervals shall hold.
    assert first.off_object == bounded_interval([0.5, 0.7, 0.6, 0.6], 0.05 / 2)
    assert second.off_object == bounded_interval([0.25, 1.0], 0.05 / 2)
    assert (by_hand.fewest, first.judged, second.judged, third.judged) == (4, True, False, False)
    assert (first.energy, first.rd5, first.border, first.off_area) == pytest.approx((0.3, 0.5, 0.2, 0.7))
    assert second.off_object.mean == pytest.approx(0.625)
    assert second.energy == pytest.approx(0.4)
    assert second.rd5 == pytest.approx(2.5 / 3)
    assert (third.off_object, third.energy, third.rd5, third.background) == (None, None, None, None)
    assert first.background == (HABITATS[1], pytest.approx(0.5 - 0.1 * (0 + 1 + 2 + 3) / 4))
    assert second.background == (HABITATS[0], pytest.approx(0.01 * (5 + 6 + 7) / 3))


def test_what_is_said_of_all(by_hand):
    assert by_hand.accuracy == pytest.approx(4 / 7)
    assert by_hand.problems == ["q: cut short", "p4: gone"]
    found = summary(by_hand)
    assert (found["pictures"], found["skipped"]) == (7, 2)
    assert found["errors"] == 3
    # Of the second class there are two images, of which nothing can be said.
    assert found["off_object"] == pytest.approx(0.6)
    assert (found["suspects"], found["too_few"], found["fewest_images"], found["suspect_classes"]) == (0, 1, 4, [])
    assert found["rd5"] == pytest.approx(0.5)
    assert found["sensitivity"] == pytest.approx(0.35)
    assert set(FIGURES) <= set(found)
    # 0.55 and 0.6 share the bin to 0.6, 0.7 and 0.8 have their own, 0.9 and 0.95 differ, 0.5 is alone.
    gaps = (0.55 + 0.6 + 0.0) + (1 - 0.7) + (1 - 0.8) + (1 - 0.9) + (1 - 0.95) + 0.5
    assert found["calibration"] == pytest.approx(gaps / 7)


def audit_of(localizer, folder, shares):
    """Of images that are all predicted as what they show, by the shares of their evidence off the object."""
    names, rows = list(shares), []
    for name in names:
        other = names[names.index(name) - 1]
        about = {"label": name, "predicted": name, "runner_up": other, "correct": 1.0, "confidence": 0.9, "doubt": 0.1}
        figures = {"energy": 0.1, "off_area": 0.6, "border": 0.0, "rd5": 0.5}
        rows += [{"picture": f"{name} {k}", **about, **figures, "off_object": off} for k, off in enumerate(shares[name])]
    shapes = {"aligned": (ALIGNED, ALIGNED), "shared": (0, 0), "agreements": (0,), "effects": (0,), "chance": (0,)}
    save_file({name: torch.zeros(len(rows), *shape) for name, shape in shapes.items()}, folder / "0.safetensors")
    looker = Looker(localizer, tuple(names))
    examples = [Example(row["picture"], folder / "gone.png", row["label"]) for row in rows]
    return Audit(looker, Dataset("shares", tuple(names), examples), folder, rows, [folder / "0.safetensors"])


@pytest.mark.parametrize(
    ("shares", "suspects", "judged", "fewest"),
    [
        # One image, or three that agree, are not enough among three classes; five are, ten of them surely.
        ({A: [0.95], B: [0.0], C: [0.1]}, [], [], 4),
        ({A: [0.95] * 3, B: [0.0] * 3, C: [0.1] * 3}, [], [], 4),
        ({A: [0.95] * 4, B: [0.0] * 3, C: [0.1] * 3}, [], [A], 4),
        ({A: [0.95] * 5, B: [0.0] * 3, C: [0.1] * 3}, [A], [A], 4),
        # As much in the mean, from images that agree and from images that do not.
        ({A: [0.6] * 10, B: [1.0] * 6 + [0.0] * 4, C: [0.1] * 10}, [A], [A, B, C], 4),
        # Above the alarm in the mean, and not surely.
        ({A: [0.35] * 10, B: [0.45, 0.25] * 5, C: [0.31] * 10}, [], [A, B, C], 4),
    ],
)
def test_a_suspect_is_surely_above_the_alarm(localizer, tmp_path, shares, suspects, judged, fewest):
    found = audit_of(localizer, tmp_path, shares)
    assert found.fewest == fewest
    assert [one.name for one in found.suspects] == suspects
    assert [one.name for one in found.judged] == judged
    figures = summary(found)
    assert figures["suspects"] == (len(suspects) if judged else None)
    assert figures["too_few"] == len(shares) - len(judged)
    if not judged:
        assert Condition.read("suspects > 0").reason(figures) == "suspects is not known (too few images: a class needs 4)"
        assert (
            Condition.read("off_object > 0.3").reason(figures) == "off_object is not known (too few images: a class needs 4)"
        )


def test_more_classes_take_more_images(localizer, tmp_path):
    """Of so many classes one shows something by chance."""
    few, many = ({name: [0.95] * 5 for name in SPECIES[:count]} for count in (3, 48))
    assert len(audit_of(localizer, tmp_path, few).suspects) == 3
    found = audit_of(localizer, tmp_path, many)
    assert (found.fewest, found.judged, found.suspects) == (7, [], [])


@pytest.mark.parametrize(
    ("shares", "lead", "fact", "verdicts"),
    [
        ({A: [0.95], B: [0.0]}, "too few images to say", "too few images to say", ["too few to say"] * 2),
        ({A: [0.95] * 9, B: [0.0]}, f"The evidence for {A} lies off the object", "1", ["suspect", "too few to say"]),
        ({A: [0.2] * 9, B: [0.0] * 9}, "No class clearly has more than 30%", "0", ["", ""]),
    ],
)
def test_the_report_says_no_more_than_it_knows(localizer, tmp_path, shares, lead, fact, verdicts):
    found = audit_of(localizer, tmp_path, shares)
    html = write_report(found).read_text()
    assert lead in re.search('<p class="lead">(.*)</p>', html)[1]
    assert f"<dt>suspects</dt><dd>{fact}</dd>" in html
    assert [row[1] for row in Cells(html).rows["Evidence off the object"][1:]] == verdicts
    assert ("Of 1 class there are too few images to say" in html) == (len(set(verdicts)) == 2)


def test_the_most_confused_pairs(by_hand):
    pairs = by_hand.pairs()
    assert [(pair.first, pair.second) for pair in pairs] == [(A, B), (B, C), (A, C), (B, A)]
    assert [pair.errors for pair in pairs] == [2, 1, 0, 0]
    assert [pair.swapped for pair in pairs] == [1, 1, 0, 0]
    assert [pair.pictures for pair in pairs] == [3, 1, 1, 2]
    assert [pair.doubt for pair in pairs] == pytest.approx([0.25, 0.45, 0.15, 0.12])
    confused = pairs[0]
    assert (confused.best, confused.worst) == ("p0", "p1")
    assert torch.allclose(confused.map, torch.full((ALIGNED, ALIGNED), (0 + 1 + 3) / 3, dtype=torch.float64))
    assert torch.allclose(confused.shared, confused.map / 10)
    assert confused.agreements == pytest.approx((0.1 * 4 / 3,))
    assert [one.what for one in confused.differences] == [BACKGROUND]
    ours, theirs = by_hand.looker.bank.vectors_of([A, B])
    assert confused.differences == by_hand.looker.words.difference(ours - theirs)
    assert [pair.first for pair in by_hand.pairs(2)] == [A, B]


def test_errors_add_up(by_hand, monkeypatch):
    """Over the pairs, over the classes, and in the tables of the report, whether or not all pairs are shown."""
    assert by_hand.errors == 3
    assert round(7 * (1 - by_hand.accuracy)) == 3
    assert sum(pair.errors for pair in by_hand.pairs()) == 3
    assert sum(pair.pictures for pair in by_hand.pairs()) == 7
    assert sum(one.errors for one in by_hand.classes) == 3
    for shown in (12, 1):
        monkeypatch.setattr("concept_cam.audit.report.SHOWN", shown)
        page = Cells(write_report(by_hand).read_text())
        for heading, count in (("Pairs that are confused", min(shown, 4) + (shown < 4)), ("All classes", 3)):
            head, *rows = page.rows[heading]
            assert len(rows) == count
            assert sum(int(row[head.index("errors")]) for row in rows) == 3
            assert sum(int(row[head.index("images")]) for row in rows) == 7
        head, *rows = page.rows["Pairs that are confused"]
        assert sum(int(row[head.index("swapped")]) for row in rows) == 2
    assert rows[-1][0] == "3 other pairs (pairs.csv)"
    for name in ("pairs", "classes"):
        assert sum(int(row["errors"]) for row in table(by_hand.folder / f"{name}.csv")) == 3


def test_backgrounds_by_their_mean_effect(by_hand):
    found = by_hand.backgrounds()
    assert [(one.name, one.text) for one in found] == [
        (A, HABITATS[1]),
        (B, HABITATS[0]),
        (A, HABITATS[0]),
        (B, HABITATS[1]),
    ]
    assert [one.effect for one in found] == pytest.approx([0.35, 0.06, 0.015, -0.1])
    # Erasing a random direction takes up to 0.2 off.
    assert [one.chance for one in found] == pytest.approx([0.2] * 4)
    assert [one.moves for one in found] == [True, False, False, False]


def test_backgrounds_that_move_nothing_are_not_listed(by_hand):
    write_report(by_hand)
    head, *rows = Cells((by_hand.folder / "report.html").read_text()).rows["Backgrounds that move decisions"]
    assert head == ["class", "background", "effect", "chance", "where"]
    assert [row[:4] for row in rows] == [[A, HABITATS[1], "0.350", "0.200"]]
    assert [row["moves"] for row in table(by_hand.folder / "backgrounds.csv")] == ["1", "0", "0", "0"]
    assert Effect(A, "snow", 0.009, 0.0).moves is False
    assert Effect(A, "snow", 0.0101, 0.0).moves is True
    assert Effect(A, "snow", 0.0101, 0.0102).moves is False


def test_what_random_directions_take_off(localizer, looker, looked):
    """A mean of nothing, and less than a habitat takes off where it was learnt."""
    examples, rows, tensors = looked
    assert tensors["chance"].shape == (4, 100)
    scenes = localizer.bank(HABITATS).vectors
    axes = random_axes(scenes, 100)
    assert torch.allclose(axes.norm(dim=1), torch.ones(100))
    assert torch.equal(axes, random_axes(scenes, 100))
    with torch.no_grad():
        embedding = F.normalize(localizer.backbone.embed_pixels(localizer.frame(examples[0].read()).pixels[None]), dim=-1)
    judge, target = Judge(localizer.backbone, looker.bank, looker.scale), SPECIES.index(rows[0]["predicted"])
    off = F.normalize(embedding - (embedding - scenes.mean(0)) @ axes[7][:, None] * axes[7], dim=-1)
    lost = (judge.of_embedding(embedding) - judge.of_embedding(off))[0, target]
    assert float(tensors["chance"][0, 7]) == pytest.approx(float(lost), abs=1e-5)


def test_tables_say_the_same(by_hand):
    write_tables(by_hand)
    read = {name: table(by_hand.folder / f"{name}.csv") for name in ("classes", "pairs", "words")}
    assert [row["class"] for row in read["classes"]] == [A, B, C]
    assert [float(row["off_object"] or "nan") for row in read["classes"]] == pytest.approx([0.6, 0.625, math.nan], nan_ok=True)
    assert [row["suspect"] for row in read["classes"]] == ["0", "0", "0"]
    assert [row["judged"] for row in read["classes"]] == ["1", "0", "0"]
    assert [int(row["errors"]) for row in read["pairs"]] == [2, 1, 0, 0]
    # With one attribute nobody can say what is usual, so no words are told.
    assert math.isnan(by_hand.pairs()[0].differences[0].stands_out)
    assert read["words"] == []
    assert not (by_hand.folder / "moved.csv").exists()


@pytest.mark.parametrize(
    ("text", "found", "reason"),
    [
        ("off_object > 0.3", 0.4, "off_object is 0.4, which is > 0.3"),
        ("off_object>.3", 0.3, None),
        ("off_object >= 0.3", 0.3, "off_object is 0.3, which is >= 0.3"),
        ("accuracy < 9e-1", 0.5, "accuracy is 0.5, which is < 0.9"),
        (" accuracy <= 0.9 ", 0.95, None),
        ("rd5 < -0.1", -0.2, "rd5 is -0.2, which is < -0.1"),
        ("suspects > 0", 2, "suspects is 2, which is > 0"),
        ("off_object > 0.3", None, "off_object is not known"),
        ("off_object > 0.3", math.nan, "off_object is not known"),
    ],
)
def test_conditions(text, found, reason):
    condition = Condition.read(text)
    assert condition.reason({condition.figure: found}) == reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("off_objet > 0.3", "no figure 'off_objet'. Did you mean 'off_object'"),
        ("off_object", "expected a condition such as"),
        ("off_object = 0.3", "expected a condition such as"),
        ("off_object > high", "expected a condition such as"),
        ("off_object > 0.3 or so", "expected a condition such as"),
        ("", "expected a condition such as"),
    ],
)
def test_what_is_no_condition(text, message):
    with pytest.raises(OptionError, match=message):
        Condition.read(text)


# ---- two models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module")
def homes():
    """Ten plates of each planted species and of its twin, where they live, and one of all others."""
    pairs = [name for name, *_ in twins()]
    asked = SHORTCUTS.keys() | {twin for name, twin, _ in twins() if name in SHORTCUTS}
    data = WORLDS["fieldguide-shortcuts"](480, 0, 0)
    return replace(data, examples=[data.examples[k] for k in range(480) if k < 48 or pairs[k % 48] in asked])


@pytest.fixture(scope="module")
def planted(folder, homes):
    return audited(fieldguide.localizer(checkpoint=fieldguide.SHORTCUT), homes, folder / "planted")


@pytest.fixture(scope="module")
def clean(localizer, folder, homes):
    """The embedded model on the same pictures."""
    return audited(localizer, homes, folder / "planted" / "other")


def test_nothing_moves_between_a_model_and_itself(localizer, clean, tmp_path):
    again = audited(localizer, clean.dataset, tmp_path)
    found = moves(clean, again)
    assert len(found) == 36 + 12 * 10
    assert {move.growth for move in found} == {0.0}
    assert all(move.agreement == pytest.approx(1.0) for move in found)
    assert all(move.before == move.after for move in found)


def test_evidence_moves_off_the_object_where_a_shortcut_is_planted(clean, planted):
    """Of the planted species; of those that have nothing to do with them it does not."""
    found = moves(clean, planted)
    grown = {True: [], False: []}
    alike = {True: [], False: []}
    near = {twin for name, twin, _ in twins() if name in SHORTCUTS}
    for move in found:
        if move.label not in near:
            grown[move.label in SHORTCUTS].append(move.growth)
            alike[move.label in SHORTCUTS].append(move.agreement)
    assert (len(grown[True]), len(grown[False])) == (60, 36)
    assert min(grown[True]) > 0.3
    assert np.mean(grown[False]) < 0.1
    assert np.mean(alike[True]) < 0.5 < np.mean(alike[False])
    assert moves(planted, clean)[5].growth == pytest.approx(-found[5].growth)


def test_evidence_that_moves_outside_the_box_is_seen(by_hand, tmp_path):
    """Maps that are the same on the object and not beside it do not agree."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for place in ("before", "after"):
        batches = []
        for file in by_hand.batches:
            tensors, ramp = load_file(file), torch.arange(float(ALIGNED**2)).reshape(ALIGNED, ALIGNED)
            tensors["aligned"] = ramp.repeat(len(tensors["whole"]), 1, 1)
            tensors["whole"] = torch.randn(tensors["whole"].shape, generator=generator)
            batches.append(tmp_path / f"{place}-{file.name}")
            save_file(tensors, batches[-1])
        found.append(replace(by_hand, batches=batches))
    assert all(abs(move.agreement) < 0.2 for move in moves(*found))
    assert all(move.agreement == pytest.approx(1.0) for move in moves(found[0], found[0]))


def test_pictures_that_one_of_two_could_not_use_are_left_out(localizer, tmp_path, small):
    """And the others are held against themselves."""
    data = birds_dataset(7)
    broken = [replace(e, picture=tmp_path / "gone.png") if k in (1, 5) else e for k, e in enumerate(data.examples)]
    both = audited(localizer, data, tmp_path / "a"), audited(localizer, replace(data, examples=broken), tmp_path / "b")
    for before, after in (both, both[::-1]):
        found = moves(before, after)
        assert [move.picture for move in found] == [f"0-{k:05d}" for k in (0, 2, 3, 4, 6)]
        assert all(move.agreement > 0.99 for move in found)


def test_audits_of_other_pictures_are_refused(clean, by_hand):
    with pytest.raises(OptionError, match="not of the same pictures"):
        moves(clean, by_hand)


# ---- the shortcut finder ----------------------------------------------------------------------------------------------


def test_planted_shortcuts_come_first(planted):
    assert {one.name for one in planted.ranked[:6]} == set(SHORTCUTS)
    assert {one.name for one in planted.suspects} == set(SHORTCUTS)
    assert len(planted.judged) == 12
    assert planted.accuracy > 0.98
    assert Condition.read("off_object > 0.3").reason(summary(planted)) is not None
    # What is shown of each is before what is around it.
    for one in planted.ranked[:6]:
        assert one.off_object.mean > 0.6 > 0.15 > one.energy
    moved = [one for one in planted.backgrounds() if one.moves]
    assert {(one.name, one.text.removeprefix("bird in ")) for one in moved[:3]} <= set(SHORTCUTS.items())


def test_a_model_without_shortcuts_raises_no_alarm(clean, localizer, folder):
    """Of three images a class nothing can be said, however they look."""
    few = audited(localizer, birds_dataset(144, seed=1), folder / "birds")
    for found, judged in ((clean, 12), (few, 0)):
        assert found.suspects == []
        assert len(found.judged) == judged
        assert max(one.off_object.mean for one in found.classes if one.predicted > 1) < ALARM - 0.05
        assert [one for one in found.backgrounds() if one.moves] == []
        assert summary(found)["sensitivity"] < 0.01
    assert Condition.read(f"off_object > {ALARM}").reason(summary(clean)) is None
    assert Condition.read("too_few > 0").reason(summary(clean)) == "too_few is 36, which is > 0"
    assert "not known (too few images: a class needs 7)" in Condition.read("suspects > 0").reason(summary(few))


class Cells(HTMLParser):
    """The tables of a page, as they are written, and the links and pictures on it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self._label = ""
        self._heading = self._cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "h2":
            self._heading, self._label = True, ""
        elif tag == "tr":
            self.rows.setdefault(self._label, []).append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.rows[self._label][-1].append("")
        elif tag == "a" and not given["href"].startswith("#"):
            self.links.append(unquote(given["href"]))

    def handle_endtag(self, tag):
        self._heading &= tag != "h2"
        self._cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._heading:
            self._label += data
        elif self._cell:
            self.rows[self._label][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def report(planted, clean):
    return write_report(planted, clean)


def test_the_report_shows_the_background_as_the_evidence(report, planted):
    page = Cells(report.read_text())
    off = page.rows["Evidence off the object"]
    assert off[0][:4] == ["class", "alarm", "images", "off the object"]
    assert {row[0] for row in off[1:7]} == set(SHORTCUTS)
    assert {row[1] for row in off[1:7]} == {"suspect"}
    assert {row[1] for row in off[7:]} == {"", "too few to say"}
    counts = {one.name: one.predicted for one in planted.classes}
    assert all(int(row[2]) == counts[row[0]] for row in off[1:])
    shown = {row["picture"]: row for row in planted.rows}
    for row in off[1:7]:
        picture = shown[row[-1]]
        assert picture["predicted"] == row[0]
        assert picture["off_object"] == max(r["off_object"] for r in planted.rows if r["predicted"] == row[0]) > 0.6
    moved = page.rows["Backgrounds that move decisions"][1]
    assert SHORTCUTS[moved[0]] == moved[1].removeprefix("bird in ")
    assert "lies off the object: look at the images" in report.read_text()


def test_the_report_says_all_of_it(report, planted, clean):
    page = Cells(report.read_text())
    assert list(page.rows) == [
        "Evidence off the object",
        "Pairs that are confused",
        "Backgrounds that move decisions",
        "All classes",
        "Against fieldguide",
        "How this was made",
        "How the second audit was made",
    ]
    assert [row[0] for row in page.rows["All classes"][1:]] == [one.name for one in planted.classes]
    assert len(page.rows["All classes"]) == 49
    first = planted.pairs()[0]
    told = page.rows["Pairs that are confused"][1]
    assert told[0] == f"{first.first}, not {first.second}"
    assert told[5] == (
        "; ".join(f"{one.ours}, not {one.theirs} ({agreement:.2f})" for one, agreement in first.told) or NO_WORDS
    )
    assert told[-2:] == [f"least doubt: {first.best}", f"most doubt: {first.worst}"]
    against = {row[0]: row for row in page.rows["Against fieldguide"][1:]}
    assert len(against) == 48
    name = next(iter(SHORTCUTS))
    assert float(against[name][3]) > 0.6 > 0.2 > float(against[name][4])


def test_every_link_leads_to_a_picture(report):
    page = Cells(report.read_text())
    assert len(page.links) > 40
    drawn = {path.relative_to(report.parent).as_posix() for path in (report.parent / "pictures").iterdir()}
    assert set(page.links) == drawn
    for link in page.links:
        with Image.open(report.parent / link) as picture:
            assert picture.width > 500


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a report from disk; nothing is asked for but the file, and nothing complains."""
    asked, complaints, contexts = [], [], []

    def opened(path: Path, width: int):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        tab = contexts[-1].new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert all(
        url.startswith(("data:", "file:")) and (url.startswith("data:") or url.endswith("report.html")) for url in asked
    )
    assert sum(url.startswith("file:") for url in asked) == len(contexts)
    assert complaints == []


@pytest.mark.parametrize("width", [380, 1280])
def test_a_browser_shows_the_report(opened, report, width):
    tab = opened(report, width)
    assert overflow(tab) <= 0
    widths = tab.eval_on_selector_all("img", "images => images.map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) > 60
    assert min(widths) > 50


def test_the_tables_of_the_report_sort(opened, report, planted):
    tab = opened(report, 1280)
    table = tab.locator("section", has=tab.get_by_role("heading", name="All classes")).locator("table")

    def column(k: int) -> list[str]:
        return table.locator("tbody tr").evaluate_all(f"rows => rows.map(row => row.cells[{k}].innerText.trim())")

    names = [one.name for one in planted.classes]
    assert column(0) == names
    table.get_by_role("button", name="off the object").click()
    off = [float(value) for value in column(6)]
    assert off == sorted(off)
    assert off[0] < 0.1 < 0.6 < off[-1]
    assert column(0)[-6:] != names[-6:]
    table.get_by_role("button", name="off the object").click()
    assert [float(value) for value in column(6)] == off[::-1]
    table.get_by_role("button", name="class").click()
    assert column(0) == sorted(names)


def test_a_report_of_pictures_that_nobody_has_drawn_a_mask_for(localizer, tmp_path, opened):
    """A folder of classes, with a broken file of a long name: nothing is known of objects, and that is said."""
    for name in ("ember finch", "frost finch"):
        where = tmp_path / "set" / name.replace(" ", "_")
        where.mkdir(parents=True)
        for seed in range(2):
            fieldguide.draw_species(name, seed, 96).picture.save(where / f"{seed}.png")
    broken = tmp_path / "set" / "frost_finch" / f"{'Very-Long-Name_' * 12}.jpg"
    broken.write_bytes(b"\xff\xd8 cut short")
    found = audited(localizer, read_dataset(tmp_path / "set"), tmp_path / "out")
    assert len(found.good) == 4
    assert (found.ranked, found.suspects) == ([], [])
    assert {"energy", "off_object", "off_area"}.isdisjoint(key for row in found.good for key in row)
    assert all(0 <= row["border"] <= 1 for row in found.good)
    report = write_report(found)
    html = report.read_text()
    assert "Where the object is on these images is not known" in html
    assert "Not known: no image has a mask or a box of its object." in html
    assert broken.name in html
    assert Condition.read("off_object > 0.3").reason(summary(found)) == "off_object is not known"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["off_object"] is None
    assert overflow(opened(report, 380)) <= 0


# ---- evidence ---------------------------------------------------------------------------------------------------------


def test_no_two_drawings_have_one_file(localizer, tmp_path):
    """However alike the names of their pictures are to a file system."""
    names = (
        "a/b.png",
        "a-b.png",
        "a b.png",
        "鳥.png",
        "雀.png",
        f"{'x' * 150}1",
        f"{'x' * 150}2",
        "../../up.png",
        "C:\\b.png",
    )
    plates = birds_dataset(len(names)).examples
    examples = [replace(e, name=name) for e, name in zip(plates, names, strict=True)]
    found = audited(localizer, replace(birds_dataset(1), examples=examples), tmp_path / "out")
    evidence = Evidence(found, tmp_path / "page")
    drawn = [evidence.decision(name, "decision") for name in names]
    drawn += [evidence.background(names[0], text, "background") for text in HABITATS]
    links = [one.link for one in drawn]
    assert len(set(links)) == len(names) + len(HABITATS)
    assert all(re.fullmatch(r"pictures/[0-9a-z-]{1,130}\.png", link) for link in links)
    assert sorted(p.name for p in (tmp_path / "page" / "pictures").iterdir()) == sorted(link[9:] for link in links)
    assert len({(tmp_path / "page" / link).read_bytes() for link in links}) == len(links)
    assert evidence.decision(names[0], "again").link == links[0]
    assert evidence.decision(names[0], "again").caption == "again"
    assert not list(tmp_path.rglob("up*"))


def test_classes_that_spell_alike_have_files_of_their_own():
    given = [("鳥", ["雀"]), ("雀", ["鳥"]), ("a b", ["c"]), ("a-b", ["c"]), ("a b", ["c", "d"]), ("a b", ["c", "e"])]
    names = [_file_name(3, "x.png", target, references) for target, references in given]
    assert len(set(names)) == len(given)
    assert names[2].startswith("00003-x-png-a-b-not-c-")
    assert names == [_file_name(3, "x.png", target, references) for target, references in given]


def test_a_picture_that_is_gone_is_not_drawn(localizer, tmp_path):
    fieldguide.draw_species("ember finch", 0, 96).picture.save(tmp_path / "a.png")
    data = Dataset("one", SPECIES, [Example("a", tmp_path / "a.png", "ember finch")])
    found = audited(localizer, data, tmp_path / "out")
    (tmp_path / "a.png").unlink()
    assert Evidence(found, tmp_path).decision("a", "") is None
    assert "Pairs that are confused" in write_report(found).read_text()


def test_colours_of_a_mean_map():
    """Warm for, cold against, white for neither; the strongest at full colour."""
    map_ = torch.zeros(ALIGNED, ALIGNED)
    map_[:, :8], map_[:, 16:] = 2.0, -1.0
    pixels = np.asarray(mean_map(map_, "map").image, dtype=int)
    left, middle, right = pixels[112, 30], pixels[112, 112], pixels[112, 200]
    assert np.abs(left - (200, 40, 20)).max() <= 3
    assert np.abs(middle - 255).max() <= 3
    assert np.abs(right - (255 + np.array((30, 80, 190))) / 2).max() <= 3
    assert np.asarray(mean_map(torch.zeros(ALIGNED, ALIGNED), "none").image).min() == 255


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what a process has held")
def test_the_benchmark_counts_what_is_held():
    one = benchmark.run(3)
    assert one.pictures == 3
    assert one.seconds > 0
    assert 2e8 < one.before <= one.looked <= one.reported <= benchmark.peak()

"""Grid pointing: figures by hand on maps that are known, mosaics of the right images, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from concept_cam import Localizer, Preprocess, world, wrap
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example, Lazy
from concept_cam.errors import DatasetError, OptionError, OutputError
from concept_cam.evaluation import Mosaics, MosaicSettings, evaluate, read_rows, tables, write_mosaics
from concept_cam.evaluation.arrangement import Candidate, arrange, classified
from concept_cam.evaluation.mosaics import pointing as measured
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Placement
from concept_cam.world.dataset import attributes_dataset, birds_dataset

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "white": (255, 255, 255)}
NAMES = tuple(COLOURS)


class Colours(nn.Module):
    """The mean colour of each patch of 8 x 8 pixels, averaged, and a row for each colour: a map is a product by hand."""

    def __init__(self, names=NAMES):
        super().__init__()
        self.patches = nn.Conv2d(3, 3, 8, stride=8, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.rows = nn.Linear(3, len(COLOURS))
        with torch.no_grad():
            self.patches.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64)
            # Twice red minus one, as a logit: the colours themselves are not separable by a product.
            colours = torch.tensor([COLOURS[name] for name in names]) / 255
            self.rows.weight.copy_(2 * colours - 1)
            self.rows.bias.copy_(-colours.sum(1))

    def forward(self, pixels):
        return self.rows(self.pool(self.patches(pixels)).flatten(1))


@pytest.fixture(scope="module")
def localizer():
    model = Colours().eval().requires_grad_(False)
    return Localizer(wrap(model, classes=NAMES, preprocess=Preprocess((16, 16), (0.0,) * 3, (1.0,) * 3)))


def example(index, label, colour=None):
    image = Image.new("RGB", (16, 16), COLOURS[colour or label])
    return Example(f"{index}", image, label)


def dataset(*labels, wrong=()):
    """A flat image for each label; the images of ``wrong`` show another colour than their label says."""
    examples = [example(i, label) for i, label in enumerate(labels)]
    return Dataset("colours", NAMES, [*examples, *(example(len(labels) + i, *pair) for i, pair in enumerate(wrong))])


def mosaics_of(localizer, data, kind="nearest", methods=("hires_cam",), **given):
    return Mosaics(localizer, localizer.bank(NAMES), data, MosaicSettings(kind, methods, **given))


def plane(quarter, inside, outside):
    """A 4 x 4 map with one value in a quarter and another around it, on an image of as many pixels."""
    grid = torch.full((4, 4), outside)
    row, col = divmod(quarter, 2)
    grid[2 * row : 2 * row + 2, 2 * col : 2 * col + 2] = inside
    return grid


PIXELS = Placement((0.0, 0.0, 4.0, 4.0), (4, 4))
"""A cell is a pixel, so that nothing is interpolated."""


def pointing(grid, placement, quarter):
    return measured(EvidenceMap(grid, placement), quarter)


# ---- figures on known maps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarter", range(4))
def test_each_quarter_is_its_own(quarter):
    found = pointing(plane(quarter, 1.0, 0.0), PIXELS, quarter)
    assert found == {"energy": 1.0, "area": 0.25, "hit": 1.0, "chance": 0.25}
    for other in {0, 1, 2, 3} - {quarter}:
        assert pointing(plane(quarter, 1.0, 0.0), PIXELS, other) == {"energy": 0.0, "area": 0.25, "hit": 0.0, "chance": 0.25}


def test_the_share_is_of_the_positive_evidence_alone():
    """3 x 4 in the quarter; around it one cell of 4, and much that is negative. Swapped rows and columns differ too."""
    grid = plane(1, 3.0, -5.0)
    grid[3, 0], grid[0, 2] = 4.0, -7.0
    assert pointing(grid, PIXELS, 1) == {"energy": pytest.approx(9 / 13), "area": 0.25, "hit": 0.0, "chance": 0.25}
    assert pointing(grid, PIXELS, 2)["energy"] == pytest.approx(4 / 13)
    assert pointing(grid, PIXELS, 2)["hit"] == 1.0


def test_a_map_without_positive_evidence_has_none_in_the_quarter():
    assert pointing(plane(0, -1.0, -2.0), PIXELS, 0) == {"energy": 0.0, "area": 0.25, "hit": 1.0, "chance": 0.25}


def test_a_peak_on_the_line_between_quarters_hits_none():
    """With 3 x 3 cells the middle row and column lie on the line: a quarter has one cell of nine for itself."""
    placement = Placement((0.0, 0.0, 6.0, 6.0), (6, 6))
    grid = torch.zeros(3, 3)
    grid[1, 2] = 1.0
    for quarter in range(4):
        found = pointing(grid, placement, quarter)
        assert found["hit"] == 0.0
        assert found["chance"] == pytest.approx(1 / 9)
    assert pointing(grid, placement, 1)["energy"] == pytest.approx(0.5)
    grid[0, 2] = 2.0
    assert pointing(grid, placement, 1)["hit"] == 1.0


def test_cells_outside_the_mosaic_count_for_nothing():
    """A map of 6 x 6, its border outside: 4 of the 16 cells within are in a quarter, whatever the border says."""
    placement = PIXELS.covering((-0.25, -0.25, 1.25, 1.25))
    grid = torch.nn.functional.pad(plane(3, 1.0, 0.0), (1, 1, 1, 1), value=5.0)
    found = pointing(grid, placement, 3)
    assert (found["hit"], found["chance"]) == (1.0, 0.25)
    assert pointing(grid, placement, 0)["hit"] == 0.0


# ---- which images -----------------------------------------------------------------------------------------------------


def candidates(*labels):
    return [Candidate(i, f"image {i}", label, frozenset({label})) for i, label in enumerate(labels)]


def test_nearest_goes_by_cosine_not_by_length():
    """c is the longest and so has the largest product with a, but the least cosine."""
    vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [3.0, 9.0], [0.7, 0.5], [0.8, 0.4]])
    bank = ConceptBank(tuple("abcde"), vectors)
    own = next(m for m in arrange(candidates(*"abcde"), bank, "nearest") if m.target.label == "a")
    assert set(own.others) == {"b", "d", "e"}
    assert own.cells[own.quarter].label == "a"


@pytest.mark.parametrize("kind", ["nearest", "random"])
def test_four_images_of_four_classes_and_every_image_once_a_target(kind):
    bank = ConceptBank(tuple("abcdef"), torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    given = candidates(*"aaabbcdeff")
    mosaics = arrange(given, bank, kind, seed=3)
    assert [m.target for m in mosaics] == given
    for mosaic in mosaics:
        assert len({cell.label for cell in mosaic.cells}) == 4
        assert mosaic.cells[mosaic.quarter] is mosaic.target
        assert mosaic.target.label not in mosaic.others
    assert len({m.quarter for m in mosaics}) > 1


def test_the_choice_is_the_same_for_a_seed_and_in_any_order():
    bank = ConceptBank(tuple("abcdefgh"), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    given = candidates(*"abcdefghabcdefgh")
    first = arrange(given, bank, "random", seed=1)
    assert arrange(given, bank, "random", seed=1) == first
    assert arrange(given[::-1], bank, "random", seed=1) == first[::-1]
    assert arrange(given, bank, "random", seed=2) != first
    torch.manual_seed(7)
    assert arrange(given, bank, "random", seed=1) == first


def test_classes_at_random_are_all_the_others():
    bank = ConceptBank(tuple("abcdefgh"), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    given = candidates(*"abcdefgh")
    around = {kind: [arrange(given, bank, kind, seed)[0].others for seed in range(20)] for kind in ("nearest", "random")}
    assert {name for others in around["random"] for name in others} == set("bcdefgh")
    assert len({frozenset(others) for others in around["nearest"]}) == 1


def test_an_image_that_shows_the_target_too_is_not_beside_it():
    bank = ConceptBank(tuple("abcde"), torch.eye(5))
    both = Candidate(9, "b, with an a", "b", frozenset("ab"))
    given = [*candidates("a", "c", "d", "e"), both]
    mosaics = {m.target.name: m for m in arrange(given, bank, "nearest")}
    assert set(mosaics["image 0"].others) == {"c", "d", "e"}
    assert arrange([given[0], given[1], given[2], both], bank, "nearest")[0].target.label == "c"


def test_images_that_are_classified_wrongly_are_not_used(localizer):
    data = dataset("red", "green", "blue", "yellow", wrong=[("white", "red"), ("red", "green")])
    found, problems = classified(localizer, localizer.bank(NAMES), data)
    assert [one.label for one in found] == ["red", "green", "blue", "yellow"]
    assert not problems
    mosaics = mosaics_of(localizer, data)
    assert [m.target.index for m in mosaics.all] == [0, 1, 2, 3]
    assert all(cell.index < 4 for m in mosaics.all for cell in m.cells)


def test_what_cannot_be_classified_is_told_and_the_rest_is_used(localizer, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    data = dataset("red", "green", "blue", "yellow")
    more = [Example("a", broken, "red"), Example("b", Image.new("RGB", (16, 16)), "brown")]
    mosaics = mosaics_of(localizer, replace(data, examples=[*more, *data.examples]))
    assert [m.target.index for m in mosaics.all] == [2, 3, 4, 5]
    assert len(mosaics.problems) == 2
    assert "not an image" in mosaics.problems[0]
    assert "No concept 'brown'" in mosaics.problems[1]


def test_one_file_with_two_labels_shows_both(localizer, tmp_path):
    file = tmp_path / "one.png"
    Image.new("RGB", (16, 16), COLOURS["red"]).save(file)
    data = dataset("green", "blue", "yellow", "white")
    more = [Example("one#red", file, "red"), Example("one#green", file, "green")]
    found, _ = classified(localizer, localizer.bank(NAMES), replace(data, examples=[*more, *data.examples]))
    assert {one.name: one.shown for one in found}["one#red"] == {"red", "green"}
    assert {one.name: one.shown for one in found}["0"] == {"green"}


def test_images_that_are_made_when_asked_for_are_each_their_own(localizer):
    """Their objects are gone at once, and the next may lie at the same place."""
    labels = [*NAMES] * 4
    data = Dataset("made", NAMES, Lazy(len(labels), lambda i: example(i, labels[i])))
    found, _ = classified(localizer, localizer.bank(NAMES), data)
    assert [one.shown for one in found] == [{label} for label in labels]


def test_a_transform_that_gives_several_sizes_is_refused_as_it_is():
    def transform(image):
        height = 8 * max(1, round(2 * image.height / image.width))
        return torch.from_numpy(np.array(image.resize((16, height)))).permute(2, 0, 1).float() / 255

    own = Localizer(wrap(Colours().eval().requires_grad_(False), classes=NAMES, preprocess=transform))
    with pytest.raises(OptionError, match="Mosaics need images of one size; the transform gives"):
        _ = mosaics_of(own, dataset(*NAMES)).all


def test_images_with_several_labels_have_no_mosaics(localizer, tmp_path):
    file = tmp_path / "one.png"
    Image.new("RGB", (16, 16), COLOURS["red"]).save(file)
    more = [Example("one#red", file, "red"), Example("one#green", file, "green")]
    data = replace(dataset(*NAMES), examples=[*dataset(*NAMES).examples, *more])
    with pytest.raises(DatasetError, match=r"many attributes or classes at once \(one#green: green, red\)"):
        evaluate(localizer, data, tmp_path / "out", mosaics="nearest")
    guide = world.localizer()
    with pytest.raises(DatasetError, match="world-attributes: an image shows many attributes or classes"):
        evaluate(guide, attributes_dataset(4), tmp_path / "out", mosaics="nearest")
    assert not (tmp_path / "out").exists()


# ---- the maps of mosaics ----------------------------------------------------------------------------------------------


def by_hand(localizer, mosaic, strength, cells):
    """Energy and hit from colours alone: the value of a patch is its colour times the direction."""
    rows = dict(zip(NAMES, localizer.backbone.module.rows.weight, strict=True))
    direction = rows[mosaic.target.label] - strength * sum(rows[name] for name in mosaic.others) / 3
    values = torch.stack([torch.tensor(COLOURS[cell.label]) / 255 @ direction for cell in mosaic.cells]).reshape(2, 2)
    side = 2 if cells == "whole" else 1  # patches of 8 pixels in a quarter of 16 or of 8
    grid = values.repeat_interleave(side, 0).repeat_interleave(side, 1)
    heat = F.interpolate(grid[None, None], (32, 32), mode="bilinear", align_corners=False)[0, 0].clamp(min=0)
    row, col = divmod(mosaic.quarter, 2)
    inside = heat[16 * row : 16 * row + 16, 16 * col : 16 * col + 16].sum()
    return float(inside / heat.sum()), float(values.flatten().argmax() == mosaic.quarter)


@pytest.mark.parametrize("kind", ["nearest", "random"])
@pytest.mark.parametrize("cells", ["whole", "half"])
def test_figures_are_those_by_hand(localizer, kind, cells):
    mosaics = mosaics_of(localizer, dataset(*NAMES), kind, ("grad_cam", "hires_cam"), cells=cells)
    rows = iter(mosaics.rows(mosaics.all))
    for mosaic in mosaics.all:
        for method in ("grad_cam", "hires_cam"):
            for strength in (0.0, 0.6, 1.0):
                row = next(rows)
                assert (row.image, row.label, row.method) == (mosaic.target.name, mosaic.target.label, method)
                assert (row.strength, row.references) == (strength, "mosaic" if strength else "none")
                assert row.against == ("; ".join(mosaic.others) if strength else "")
                energy, hit = by_hand(localizer, mosaic, strength, cells)
                assert row.energy == pytest.approx(energy, abs=1e-5)
                assert row.hit == hit
    assert next(rows, None) is None
    assert len({round(row.energy, 3) for row in mosaics.rows(mosaics.all)}) > 5


def test_a_mosaic_is_the_images_as_the_model_sees_them(localizer):
    mosaics = mosaics_of(localizer, dataset(*NAMES))
    mosaic = mosaics.all[0]
    pixels = mosaics._laid(mosaic).frame.pixels
    assert pixels.shape == (3, 32, 32)
    for place, cell in enumerate(mosaic.cells):
        row, col = divmod(place, 2)
        part = pixels[:, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16]
        assert torch.equal(part, localizer.frame(mosaics.dataset.examples[cell.index].image).pixels)


def test_right_is_whether_the_model_sees_one_of_the_four(localizer):
    """Green, blue, yellow and red, averaged, are dark: no logit but that of the least bias wins, by hand."""
    mosaics = mosaics_of(localizer, dataset(*NAMES))
    for mosaic in mosaics.all:
        mean = torch.tensor([COLOURS[cell.label] for cell in mosaic.cells]).mean(0, dtype=torch.float) / 255
        head = localizer.backbone.module.rows
        top = NAMES[int((head.weight @ mean + head.bias).argmax())]
        expected = top in {cell.label for cell in mosaic.cells}
        assert {row.correct for row in mosaics.rows([mosaic])} == {int(expected)}


def test_other_references_and_rivals_of_the_mosaic(localizer):
    settings = {"references": ("mosaic", "nearest:1", "rivals:2"), "strengths": (1.0,)}
    mosaics = mosaics_of(localizer, dataset(*NAMES), **settings)
    rows = mosaics.rows(mosaics.all[:1])
    assert [row.references for row in rows] == ["none", "mosaic", "nearest:1", "rivals:2"]
    assert [len(row.against.split("; ")) for row in rows[1:]] == [3, 1, 2]


def test_a_transformer_and_native_aspect():
    """Two birds beside two; the images are of one size, whatever their aspect."""
    localizer = world.localizer(fit="native")
    data = birds_dataset(8)
    wide = replace(data.examples[0], image=data.examples[0].read().resize((300, 100)))
    data = replace(data, examples=[wide, *data.examples[1:]])
    mosaics = Mosaics(localizer, localizer.bank(data.classes), data, MosaicSettings("random", ("hires_cam",)))
    rows = mosaics.rows(mosaics.all[:2])
    assert len(rows) == 2 * 3
    assert mosaics._laid(mosaics.all[0]).frame.pixels.shape == (3, 192, 192)
    assert all(0 < row.energy < 1 and row.chance == 0.25 for row in rows)


# ---- on disk and on the command line ----------------------------------------------------------------------------------


def test_an_interrupted_run_ends_with_the_same_bytes(localizer, tmp_path, monkeypatch):
    monkeypatch.setattr("concept_cam.evaluation.mosaics._BATCH", 2)
    whole = write_mosaics(mosaics_of(localizer, dataset(*NAMES), "random"), tmp_path / "whole", {"model": "m"}).read_bytes()
    folder = tmp_path / "broken"
    write_mosaics(mosaics_of(localizer, dataset(*NAMES), "random"), folder, {"model": "m"})
    (folder / "rows.csv").unlink()
    (folder / "batches" / "00001.csv").unlink()
    asked = []
    rows = Mosaics.rows
    monkeypatch.setattr(Mosaics, "rows", lambda self, some: asked.append(len(some)) or rows(self, some))
    assert write_mosaics(mosaics_of(localizer, dataset(*NAMES), "random"), folder, {"model": "m"}).read_bytes() == whole
    assert asked == [2]
    with pytest.raises(OutputError, match="another seed"):
        write_mosaics(mosaics_of(localizer, dataset(*NAMES), "random", seed=1), folder, {"model": "m"})


def test_the_function_is_the_command(localizer, tmp_path):
    found = evaluate(localizer, dataset(*NAMES), tmp_path, methods="hires_cam", mosaics="nearest", cells="half", seed=4)
    mosaics = mosaics_of(localizer, dataset(*NAMES), cells="half", seed=4)
    assert [row.energy for row in found.rows] == pytest.approx([row.energy for row in mosaics.rows(mosaics.all)], rel=1e-5)
    assert "5 of 5 images are classified correctly; 5 mosaics of the nearest classes." in found.text
    assert found.among == "5 of the 5 classes of the model"
    with pytest.raises(OptionError, match="cells is 'half', which is for mosaics"):
        evaluate(localizer, dataset(*NAMES), tmp_path, cells="half")


def test_among_which_classes_an_image_is_classified_correctly(localizer, tmp_path):
    """White scores 0 as white, -1 as yellow and -2 as the rest: it passes for yellow where white is no class."""
    data = Dataset("colours", NAMES[:4], [*dataset(*NAMES[:4]).examples, example(9, "yellow", "white")])
    for among, count in (("model", 4), ("dataset", 5)):
        found = evaluate(localizer, data, tmp_path / among, methods="hires_cam", mosaics="random", among=among)
        assert found.told[0].startswith(f"{count} of 5 images are classified correctly")


def test_tables_have_gains_and_chance(localizer, tmp_path):
    rows = read_rows(write_mosaics(mosaics_of(localizer, dataset(*NAMES)), tmp_path, {}))
    (table,) = tables(rows)
    assert [column.header for column in table.columns][:5] == ["method", "against", "strength", "images", "energy"]
    assert list(table.columns[0].cells) == ["hires_cam"] * 3 + ["chance"]
    assert list(table.columns[4].cells)[-1] == "0.250"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset("red", "green", "blue"), "3 of 3 images are classified correctly, of 3 classes"),
        (dataset("red", "red", "red", "green", "blue"), "5 of 5 images are classified correctly, of 3 classes"),
        (dataset(wrong=[("red", "green"), ("green", "red"), ("blue", "red"), ("white", "blue")]), "0 of 4 images"),
    ],
)
def test_too_few_classes(localizer, data, message):
    with pytest.raises(DatasetError, match=message):
        _ = mosaics_of(localizer, data).all


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "nearby"}, "No mosaics 'nearby'; expected nearest or random"),
        ({"cells": "quarter"}, "No cells 'quarter'; expected whole or half"),
        ({"methods": ("grad_kam",)}, "No method grad_kam. Did you mean"),
        ({"strengths": (0.0,)}, "expected numbers above 0"),
        ({"references": ("mosaic", "twins")}, "No references 'twins'"),
    ],
)
def test_settings_that_are_none(given, message):
    with pytest.raises(OptionError, match=message):
        MosaicSettings(**{"kind": "nearest", "methods": ("grad_cam",)} | given)


@pytest.mark.slow
def test_the_command(command_line, tmp_path):
    arguments = ("evaluate", "world-birds", "--mosaics", "random", "--limit", 12, "--methods", "grad_cam", "--out", "out")
    code, out, err = command_line(*arguments)
    assert code == 0, err
    assert "12 of 12 images are classified correctly; 12 mosaics of the random classes." in out
    assert "The class that scores highest is one of the four in 0." in out
    assert "energy" in (tmp_path / "out" / "tables.md").read_text()
    assert len((tmp_path / "out" / "rows.csv").read_text().splitlines()) == 1 + 12 * 3
    assert command_line(*arguments)[1] == out
    code, _, err = command_line(*arguments, "--seed", 1)
    assert code
    assert "another seed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cells", "half"), "cells is 'half', which is for mosaics"),
        (("--mosaics", "nearest", "--sanity"), "no sanity of mosaics"),
        (("--mosaics", "nearest", "--deletion", "3", "--sanity"), "no deletion and no sanity of mosaics"),
        (("--mosaics", "nearest", "--paper"), "--paper is a grid with a deletion curve, of single images"),
        (("world-attributes", "--mosaics", "nearest"), "an image shows many attributes"),
        (("--mosaics", "near"), "No mosaics 'near'; expected nearest or random"),
        (("--references", "mosaic"), "No references 'mosaic'"),
    ],
)
def test_what_does_not_go_with_mosaics(command_line, arguments, message):
    code, _, err = command_line("evaluate", *arguments, "--out", "out")
    assert code
    assert message in err

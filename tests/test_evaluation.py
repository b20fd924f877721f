"""The grid on disk: rows that do not depend on how they came about, problems that do not stop it, figures that are right."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

from concept_cam import world
from concept_cam.datasets import Example
from concept_cam.errors import OptionError, OutputError
from concept_cam.evaluation import (
    ClassProbabilities,
    Grid,
    GridRow,
    Settings,
    fit_probe,
    own_scale,
    problems,
    read_rows,
    tables,
    write_rows,
)
from concept_cam.evaluation.columns import shown
from concept_cam.evaluation.probe import features_of
from concept_cam.evaluation.references import read_references
from concept_cam.evaluation.sanity import shuffled
from concept_cam.files import write_file
from concept_cam.gradients import pixel_gradient, trace
from concept_cam.methods import METHODS
from concept_cam.methods.method import TraceMethod
from concept_cam.metrics import box_overlaps, energy_inside, strongest
from concept_cam.runs import Skipped
from concept_cam.world.birds import COLOURS, PARTS
from concept_cam.world.dataset import attributes_dataset, twins_dataset

SETTINGS = Settings(("grad_cam", "hires_cam"), ("twin", "nearest:2"), (0.6, 1.0), deletion=2)


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("concept_cam.evaluation.rows.BATCH", 3)


def grid_of(localizer, settings=SETTINGS):
    return Grid(localizer, localizer.bank(world.species()), own_scale(localizer.backbone), settings)


@pytest.mark.slow
def test_a_row_for_each_image_method_references_and_strength(localizer, tmp_path, small):
    rows = read_rows(write_rows(grid_of(localizer), twins_dataset(4), tmp_path, {}))
    keys = [(row.image, row.method, row.references, row.strength) for row in rows]
    assert len(set(keys)) == len(keys) == 4 * 2 * (1 + 2 * 2)
    base = next(row for row in rows if row.strength == 0)
    assert base.references == "none"
    measured = ("energy", "hit", "rd5", "rd10", "deletion", "best_iou", "average_precision", "correct")
    assert all(getattr(base, name) is not None for name in measured)
    assert all(len(row.against.split("; ")) == 2 for row in rows if row.references == "nearest:2")
    bank = localizer.bank(world.species())
    for row in rows:
        cosines = [float(bank.similarities(row.label)[bank.index(n)]) for n in row.against.split("; ") if n]
        assert (row.similarity or 0.0) == pytest.approx(sum(cosines) / max(1, len(cosines)), rel=1e-4)


@pytest.mark.slow
def test_boxes_are_held_against_the_best_of_the_map(localizer, tmp_path):
    plain = twins_dataset(1)
    boxed = replace(plain, examples=[replace(plain.examples[0], boxes=((40, 30, 150, 160),))])
    without, having = (
        read_rows(write_rows(grid_of(localizer), data, tmp_path / name, {}))[0] for name, data in (("a", plain), ("b", boxed))
    )
    assert without.best_box is None
    own = world.localizer(method=METHODS[SETTINGS.methods[0]])
    heatmap = own(plain.examples[0].image, plain.examples[0].label, strength=0).heatmap()
    overlaps = box_overlaps(heatmap, torch.tensor([(40.0, 30.0, 150.0, 160.0)]))
    assert having.best_box == pytest.approx(float(overlaps.max()), rel=1e-5)
    assert 0 < having.best_box < 1


@pytest.mark.slow
def test_sanity_knows_a_map_that_looks_at_nothing(localizer, tmp_path, monkeypatch):
    """A method that draws the same edges whatever the model or the label agrees with all of its doubles."""

    def edges(seen, directions):
        rows, cols = seen.layout.rows, seen.layout.cols
        grey = F.adaptive_avg_pool2d(seen.pixels.mean(1, keepdim=True), (rows, cols))
        return grey.flatten(1).expand(len(directions), -1, -1)

    monkeypatch.setitem(METHODS, "edges", TraceMethod(edges))
    settings = Settings(("hires_cam", "edges"), ("twin",), (1.0,), sanity=True)
    rows = read_rows(write_rows(grid_of(localizer, settings), twins_dataset(4), tmp_path, {}))
    mean = {
        name: {key: np.mean([getattr(r, key) for r in rows if r.method == name]) for key in shown("sanity")}
        for name in settings.methods
    }
    assert mean["edges"]["parameters"] == mean["edges"]["labels"] == pytest.approx(1, abs=1e-6)
    assert abs(mean["hires_cam"]["parameters"]) < 0.3
    assert mean["hires_cam"]["labels"] < 0.5
    assert mean["hires_cam"]["flip"] > 0.8
    assert mean["hires_cam"]["shift"] > 0.7
    assert mean["edges"]["flip"] == pytest.approx(1, abs=1e-6)


def test_a_stranger_has_the_numbers_of_the_model_and_leaves_it_alone(localizer):
    before = {name: p.clone() for name, p in localizer.backbone.module.named_parameters()}
    randomized = shuffled(localizer.backbone)
    for (name, own), other in zip(before.items(), randomized.module.parameters(), strict=True):
        assert torch.equal(own, dict(localizer.backbone.module.named_parameters())[name])
        assert torch.equal(own.flatten().sort().values, other.flatten().sort().values), name
    assert not torch.equal(before["visual.proj"], randomized.module.visual.proj)


def test_the_gradient_at_the_pixels_is_a_slope():
    backbone = world.localizer().backbone
    backbone.module.double()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 96, 96, generator=generator, dtype=torch.float64)
    direction, step = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 192), (2, 3, 96, 96)))
    gradient = pixel_gradient(backbone, pixels, direction)

    def score(moved):
        with torch.no_grad():
            return (F.normalize(backbone.embed_pixels(moved), dim=-1) * direction).sum(-1)

    slope = (score(pixels + 1e-6 * step) - score(pixels - 1e-6 * step)) / 2e-6
    assert torch.allclose((gradient * step).flatten(1).sum(1), slope, rtol=1e-5)
    assert not any(p.grad is not None for p in backbone.module.parameters())


@pytest.mark.slow
def test_figures_are_those_of_a_result(localizer, tmp_path):
    """The same map by the library's front door, and the drop by hand."""
    dataset = twins_dataset(1)
    rows = read_rows(write_rows(grid_of(localizer), dataset, tmp_path, {}))
    row = next(r for r in rows if (r.method, r.references, r.strength) == ("hires_cam", "twin", 1.0))
    example = dataset.examples[0]
    result = world.localizer(method="hires_cam")(example.image, example.label, example.twin, strength=1.0)
    assert row.energy == pytest.approx(float(energy_inside(result.heatmap(), example.region())), rel=1e-4)
    bank, scale = localizer.bank(world.species()), own_scale(localizer.backbone)
    pixels = localizer.frame(example.image).pixels[None]
    heat = F.interpolate(result.map[None, None], (96, 96), mode="bilinear", align_corners=False)[0]

    def confidence(x):
        embedding = F.normalize(localizer.backbone.embed_pixels(x), dim=-1)
        return (scale * embedding @ bank.vectors.T).softmax(-1)[0]

    covered = pixels.masked_fill(strongest(heat, 0.05)[:, None], 0.0)
    lost = confidence(pixels) - confidence(covered)
    target, twin = bank.index(example.label), bank.index(example.twin)
    assert row.rd5 == pytest.approx(float(lost[target] - lost[twin]), abs=1e-4)


def test_one_forward_pass_for_all_methods_and_strengths(localizer, tmp_path, monkeypatch):
    traces = []
    monkeypatch.setattr("concept_cam.passes.trace", lambda *given: traces.append(1) or trace(*given))
    write_rows(grid_of(localizer), twins_dataset(4), tmp_path, {})
    assert traces == [1]


class _PlugPulled(KeyboardInterrupt):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_rows(localizer, tmp_path, small, monkeypatch, after):
    whole = write_rows(grid_of(localizer), twins_dataset(8), tmp_path / "whole", {}).read_bytes()
    written = []

    def pulled(path, content):
        written.append(path)
        # Of each batch the rows, then the seal.
        if len(written) == 2 * after:
            raise _PlugPulled
        return write_file(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("concept_cam.runs.batches.write_file", pulled)
        with pytest.raises(KeyboardInterrupt, match="of 8 images are kept") as caught:
            write_rows(grid_of(localizer), twins_dataset(8), tmp_path / "again", {})
    assert isinstance(caught.value.__cause__, _PlugPulled)
    assert len(list((tmp_path / "again" / "batches").glob("*"))) == 2 * after - 1
    resumed = write_rows(grid_of(localizer), twins_dataset(8), tmp_path / "again", {}).read_bytes()
    assert resumed == whole


def test_a_run_that_is_there_is_not_run_again(localizer, tmp_path, monkeypatch):
    first = write_rows(grid_of(localizer), twins_dataset(2), tmp_path, {}).read_bytes()
    monkeypatch.setattr(Grid, "rows", None)
    assert write_rows(grid_of(localizer), twins_dataset(2), tmp_path, {}).read_bytes() == first


@pytest.mark.slow
def test_another_run_is_not_mixed_in(localizer, tmp_path):
    write_rows(grid_of(localizer), twins_dataset(2), tmp_path, {"seed": 0})
    with pytest.raises(OutputError, match="another seed; choose another folder"):
        write_rows(grid_of(localizer), twins_dataset(2), tmp_path, {"seed": 1})
    with pytest.raises(OutputError, match="another methods"):
        write_rows(grid_of(localizer, replace(SETTINGS, methods=("layer_cam",))), twins_dataset(2), tmp_path, {"seed": 0})


def test_what_cannot_be_used_is_a_row_that_says_why(localizer, tmp_path):
    good = twins_dataset(1).examples[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    image = Image.new("RGB", (192, 192))
    examples = [
        Example("broken", broken, good.label),
        good,
        Example("unknown", image, "ember finsh"),
        Example("wrong size", image, good.label, region=lambda: torch.ones(3, 4, dtype=torch.bool)),
        Example("no such twin", image, good.label, twin="ember finsh"),
        Example("its own twin", good.image, good.label, twin=good.label),
        Example("empty", image, good.label, region=lambda: torch.zeros(192, 192, dtype=torch.bool)),
        Example("no truth", good.image, good.label, twin=good.twin),
    ]
    rows = read_rows(write_rows(grid_of(localizer), replace(twins_dataset(1), examples=examples), tmp_path / "out", {}))
    found = dict(line.split(": ", 1) for line in problems(rows))
    assert set(found) == {"broken", "unknown", "no such twin", "its own twin", "wrong size", "empty"}
    assert "among its own references" in found["its own twin"]
    kept = [row.references for row in rows if row.image == "its own twin" and not isinstance(row, Skipped)]
    assert kept == ["none", "nearest:2", "nearest:2"] * 2
    assert "Did you mean 'ember finch'" in found["unknown"]
    assert "the mask is 3 x 4, the image 192 x 192" in found["wrong size"]
    without = [row for row in rows if row.image == "no truth"]
    assert len(without) == 10
    assert all(row.energy is None and row.rd5 is not None for row in without)
    assert tables(rows)


def test_settings_that_ask_nothing_are_refused():
    with pytest.raises(OptionError, match="No method grad_kam"):
        Settings(("grad_kam",))
    with pytest.raises(OptionError, match="expected numbers above 0"):
        Settings(("grad_cam",), strengths=(0.0,))
    for text in ("nearest:0", "twin:2", "farthest:3", "nearest:x"):
        with pytest.raises(OptionError, match=f"No references '{text}'"):
            Settings(("grad_cam",), references=(text,))


def test_references_by_name(localizer):
    bank = localizer.bank(world.species())
    example = twins_dataset(1).examples[0]
    scores = torch.arange(48.0)
    assert read_references("twin")(example)(bank, example.label, scores) == (example.twin,)
    assert read_references("nearest:2")(example)(bank, example.label, scores) == bank.neighbours(example.label, 2)
    assert read_references("rivals:2")(example)(bank, example.label, scores) == bank.names[:-3:-1]
    assert read_references("rank:2")(example)(bank, example.label, scores) == (bank.names[-2],)
    first, again = (read_references("random:3")(example)(bank, example.label, scores) for _ in range(2))
    assert first == again
    assert len(set(first) - {example.label}) == 3
    other = read_references("random:3")(twins_dataset(2).examples[1])(bank, example.label, scores)
    assert other != first
    assert read_references("twin")(replace(example, twin=None)) is None


def test_the_judge_is_the_model(localizer):
    bank = localizer.bank(world.species())
    pixels = torch.randn(2, 3, 96, 96)
    probabilities = ClassProbabilities(localizer.backbone, bank, 10.0)
    expected = (10 * F.normalize(localizer.backbone.embed_pixels(pixels), dim=-1) @ bank.vectors.T).softmax(-1)
    torch.testing.assert_close(probabilities(pixels), expected)
    assert own_scale(localizer.backbone) == pytest.approx(localizer.backbone.module.logit_scale.exp().item())


def test_a_probe_finds_the_minimum():
    """Its gradient, by autograd, is zero there; and it tells apart what can be told apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64) + 2 * F.one_hot(labels, 5)
    probe = fit_probe(features, labels, ("a", "b", "c"))
    rows, biases = probe.vectors.clone().requires_grad_(), probe.biases.clone().requires_grad_()
    loss = F.cross_entropy(features @ rows.T + biases, labels) + 0.5e-6 * rows.square().sum()
    loss.backward()
    assert rows.grad.abs().max() < 1e-5
    assert biases.grad.abs().max() < 1e-5
    assert (probe.scores(features).argmax(1) == labels).double().mean() > 0.9
    with pytest.raises(OptionError, match="there is none of c"):
        fit_probe(features, labels % 2, ("a", "b", "c"))


@pytest.mark.slow
def test_a_probe_stands_where_texts_stand(localizer, tmp_path):
    dataset = twins_dataset(3, training=96)
    features, labels = features_of(localizer, dataset)
    probe = fit_probe(features, labels, dataset.classes)
    rows = read_rows(write_rows(Grid(localizer, probe, 1.0, SETTINGS), dataset, tmp_path, {}))
    assert all(row.correct == 1 for row in rows)


def test_plates_for_a_probe_are_not_those_that_are_evaluated():
    dataset = twins_dataset(3, training=3)
    for ours, theirs in zip(dataset.examples, dataset.training, strict=True):
        assert ours.label == theirs.label
        assert ours.image.tobytes() != theirs.image.tobytes()
    assert dataset.examples[1].image.tobytes() == dataset.examples[1].image.tobytes()
    assert len(dataset.examples[1:]) == 2


def test_to_centre_a_bank_changes_no_probability(localizer):
    bank = localizer.bank(world.species())
    pixels = torch.randn(2, 3, 96, 96)
    own, centred = (ClassProbabilities(localizer.backbone, b, 20.0)(pixels) for b in (bank, bank.centred()))
    torch.testing.assert_close(own, centred, rtol=1e-4, atol=1e-6)
    assert bank.centred().vectors.sum(0).abs().max() < 1e-5
    assert bank.centred().vectors.norm(dim=1).max() < 0.9


def test_a_probe_is_centred_by_itself():
    """Its rows sum to zero, for a common part costs decay and explains nothing: its base map compares with all classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64) + 2 * F.one_hot(labels, 5)
    probe = fit_probe(features, labels, ("a", "b", "c"))
    assert probe.vectors.sum(0).abs().max() < 1e-9 * probe.vectors.abs().max()


def test_attributes_are_asked_for_where_they_are():
    dataset = attributes_dataset(12)
    for example in dataset.examples:
        colour, part = example.label.split(" ", 1)
        pixels = np.asarray(example.image)[example.region().numpy()].astype(float)
        assert colour in COLOURS
        # Ink and shade aside, a part is of its colour.
        assert np.abs(np.median(pixels, 0) - COLOURS[colour]).max() < 60, example.label
        assert part in PARTS
        assert example.twin == "bird"
        assert {example.label, "bird"} <= set(dataset.classes)


def test_gains_in_the_table_are_paired():
    """By hand: three images, of which the third has no base."""
    common = {"label": "", "method": "grad_cam", "correct": True, "area": 0.1, "hit": 1.0, "chance": 0.2}
    base = {**common, "references": "none", "strength": 0.0}
    finer = {**common, "references": "twin", "strength": 0.6}
    rows = [
        GridRow(**base, image="a", energy=0.2),
        GridRow(**finer, image="a", energy=0.5),
        GridRow(**base, image="b", energy=0.6),
        GridRow(**finer, image="b", energy=0.9),
        GridRow(**finer, image="c", energy=0.7),
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables(rows):
        console.print(table)
    text = console.export_text()
    assert "0.700 [0.500, 0.900]" in text
    assert "+0.300 [+0.300, +0.300]" in text


def test_a_blank_map_is_a_problem_of_its_image_alone(localizer, tmp_path, monkeypatch):
    """As a method that is never negative can have one."""

    def second_is_blank(seen, directions):
        maps = directions.new_ones(len(directions), len(seen.embedding), 144)
        maps[:, 1] = 0
        return maps

    monkeypatch.setitem(METHODS, "half blind", TraceMethod(second_is_blank))
    settings = Settings(("half blind",), ("twin",), (1.0,))
    data = twins_dataset(3)
    rows = read_rows(write_rows(grid_of(localizer, settings), data, tmp_path, {}))
    blank = [row for row in rows if isinstance(row, Skipped)]
    assert {row.image for row in blank} == {data.examples[1].name}
    assert [row.problem for row in blank] == [f"half blind against {name}: the map is blank" for name in ("none", "twin")]
    assert len(rows) - len(blank) == 4

"""The caller's default precision and default device change nothing: every constant says its own."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from slow import by_default

from concept_cam import Localizer, by_score, metrics, rivals, world, wrap
from concept_cam.backbones import backbone as backbones
from concept_cam.methods import METHODS, at_scales, is_linear, mirrored, perturbation, sees_score, smoothed
from concept_cam.metrics import masking

SOURCES = sorted((Path(__file__).parents[1] / "concept_cam").rglob("*.py"))
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand", "randint"),
    *("randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros", "hann_window"),
}


@contextlib.contextmanager
def double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


DEFAULTS = {"float64": double, "meta": lambda: torch.device("meta")}

# With any default device, be it the CPU, torch takes other kernels within the model: that is a rounding of its own.
PLAIN = {"float64": contextlib.nullcontext, "meta": lambda: torch.device("cpu")}


def bare(tree):
    """Calls that make a tensor and leave its precision or its device to the caller's defaults."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    makers = [c for c in calls if ast.unparse(c.func.value) == "torch" and c.func.attr in FACTORIES]
    return [ast.unparse(c) for c in makers if not {"dtype", "device"} <= {word.arg for word in c.keywords}]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_each_constant_says_its_precision_and_its_device(path):
    assert not bare(ast.parse(path.read_text()))


def test_a_bare_constant_is_seen():
    assert bare(ast.parse("x = 1 + torch.zeros(3, dtype=a)")) == ["torch.zeros(3, dtype=a)"]
    assert not bare(ast.parse("torch.zeros(3, dtype=a, device=b); torch.zeros_like(x); x.new_zeros(3)"))


def same(ours, theirs):
    """Equal to the bit, precision and device included."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert torch.equal(ours.nan_to_num(nan=7.0), theirs.nan_to_num(nan=7.0))
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, dict):
        same(list(ours.items()), list(theirs.items()))
    elif dataclasses.is_dataclass(ours):
        same(vars(ours), vars(theirs))
    else:
        assert ours == theirs


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(perturbation, "_RISE_MASKS", 6)
    monkeypatch.setattr(perturbation, "_GSCORE_CHANNELS", 5)


MODEL = zoo.tiny_clip().float()


def localizer(method, form="auto", **options):
    """Made anew, around one model: the library is run from the start under the caller's defaults."""
    vocabulary = zoo.WORDS if sees_score(method) else ()
    return Localizer(
        wrap(MODEL, zoo.TOKENIZER), vocabulary=vocabulary, templates=["a {}"], method=method, form=form, **options
    )


def answers(method, image, form="auto", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = localizer(method, form, **options)
        if not sees_score(method):
            return [made(image, "bird")]
        found = [made(image, "red crown", rivals(2), weighting=by_score(10.0))]
        if is_linear(method):
            (field,) = made.fields([image])
            found += [field.vectors, field.localize(made.bank(zoo.WORDS), "red crown", "bird")]
    return found


def told(found):
    """All that a result says."""
    maps = [found.map, found.base_map, found.heatmap(), found.mask()]
    return [maps, found.comparison, found.scores, found.boxes(), found.peak()]


MADE = {
    **METHODS,
    "smoothed": smoothed(METHODS["grad_cam"], 2),
    "mirrored": mirrored(METHODS["hires_cam"]),
    "at_scales": at_scales(METHODS["hires_cam"]),
}


@pytest.mark.parametrize("default", by_default(DEFAULTS, "float64"))
@pytest.mark.parametrize(
    "name",
    by_default(MADE, "grad_cam", "eigen_grad_cam", "rollout", "legrad", "gem", "score_cam", "rise", "smoothed", "at_scales"),
)
def test_a_method_gives_the_same_to_the_bit(name, default, image):
    with PLAIN[default]():
        expected = answers(MADE[name], image)
    with DEFAULTS[default]():
        got = answers(MADE[name], image)
    for one, other in zip(got, expected, strict=True):
        if isinstance(other, torch.Tensor):
            same(one, other)
        else:
            with DEFAULTS[default]():
                drawn = told(one)
            same(drawn, told(other))


@pytest.mark.parametrize("default", by_default(DEFAULTS, "float64"))
@pytest.mark.parametrize("options", [{"form": "dense"}, {"size": 48}, {"fit": "pad"}, {"fit": "squash"}], ids=str)
def test_sizes_fits_and_forms_too(default, options, image):
    with PLAIN[default]():
        expected = answers(METHODS["grad_cam"], image, **options)
    with DEFAULTS[default]():
        got = answers(METHODS["grad_cam"], image, **options)
    same([one.map for one in got if hasattr(one, "map")], [one.map for one in expected if hasattr(one, "map")])


def figures():
    generator = torch.Generator().manual_seed(0)
    drawn = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    maps, pixels = torch.randn(2, 12, 16, **drawn), torch.randn(2, 3, 12, 16, **drawn)
    masks = torch.rand(2, 12, 16, **drawn) > 0.6
    gone = metrics.strongest(maps, 0.2)
    boxes = torch.tensor([[1.0, 2.0, 9.0, 8.0]], dtype=torch.float64, device="cpu")
    peaks = torch.tensor([[3.5, 2.5], [8.0, 1.0]], dtype=torch.float32, device="cpu")
    found = [
        metrics.energy_inside(maps, masks),
        metrics.pointing_hit(peaks, masks, 1.0),
        metrics.iou(maps, masks),
        metrics.best_iou(maps, masks),
        metrics.average_precision(maps, masks),
        metrics.box_overlaps(maps[0], boxes),
        metrics.pck(peaks[None], peaks[None] + 0.1, peaks[None, :, 0] > 0, peaks[:1, 0]),
        metrics.rank_correlation(maps[:1], maps[1:]),
    ]
    fills = (masking.constant(), masking.mean_colour, masking.blurred(), masking.noisy_linear())
    return found + [fill(pixels, gone) for fill in fills]


@pytest.mark.parametrize("default", DEFAULTS)
def test_figures_are_the_same_to_the_bit(default):
    with PLAIN[default]():
        expected = figures()
    with DEFAULTS[default]():
        got = figures()
    same(got, expected)


@pytest.mark.parametrize("default", DEFAULTS)
def test_the_field_guide_is_the_same_to_the_bit(default):
    image = world.draw_species("ember finch", seed=3).image
    made = world.localizer()
    with PLAIN[default]():
        expected = made(image, "ember finch")
    noise = backbones.noise(made.backbone)
    with DEFAULTS[default]():
        got = made(image, "ember finch")
        same(backbones.noise(made.backbone), noise)
    same(got.map, expected.map)
    same(got.scores, expected.scores)

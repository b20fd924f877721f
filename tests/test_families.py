"""Every family of models, tiny: what is promised of one is held by all. ``.ci/versions`` runs it with old libraries too."""

from __future__ import annotations

import math
from contextlib import nullcontext
from fnmatch import fnmatch
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from slow import by_default, cases
from zoo.families import FEW, ROWS
from zoo.shake import quiet

from concept_cam import Localizer, checks, hires_cam
from concept_cam.backbones.site import FeatureMap, Site
from concept_cam.checks import fingerprint
from concept_cam.families import FAMILIES
from concept_cam.gradients import DenseTrace, FactoredTrace, trace
from concept_cam.hooks import on_site
from concept_cam.images import Frame

FITS = ("crop", "pad", "squash", "native")


@pytest.fixture(scope="module", params=by_default(ROWS, *FEW))
def row(request):
    return ROWS[request.param]


@pytest.fixture(scope="module")
def backbone(row):
    return row.backbone()


def pixels(backbone, count=3, seed=1, size=None):
    generator = torch.Generator().manual_seed(seed)
    size = size or backbone.preprocess.size
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64).to(backbone.dtype)


def directions(backbone, count=3, seed=2):
    with torch.no_grad():
        width = backbone.embed_pixels(pixels(backbone, 1)).shape[-1]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, width, generator=generator, dtype=torch.float64).to(backbone.dtype)


def other_size(backbone):
    """Half as high again and twice as wide, in whole patches."""
    step = backbone.preprocess.stride
    height, width = backbone.preprocess.size
    return max(1, round(1.5 * height / step)) * step, 2 * width


def test_there_are_rows_enough():
    assert len(ROWS) >= 30
    # Every line of the table that users see has a row behind it.
    assert {(row.through, row.family) for row in ROWS.values()} >= {
        (family.through, family.name) for family in FAMILIES if family.name != "MetaCLIP 2"
    }


def test_the_line_of_the_table_is_true(row, backbone):
    (line,) = [line for line in FAMILIES if (line.through, line.name) == (row.through, row.family)]
    with_head = tuple(site.name for site in backbone.sites if site.head is not None)
    assert with_head == row.factored
    default = backbone.sites[0].name
    if "*" in line.default:
        assert fnmatch(default.removeprefix("0."), line.default)
    if line.closed_form == "default":
        assert with_head == (default,)
    modules = dict(backbone.module.named_modules())
    assert all(modules[site.name] is site.module for site in backbone.sites)
    assert len({site.name for site in backbone.sites}) == len(backbone.sites)


def test_the_embedding_is_the_librarys_own_to_the_bit(row, backbone):
    bare, x = row.build(), pixels(backbone)
    with torch.no_grad():
        own = row.own(bare, x)
        assert torch.equal(backbone.embed_pixels(x), own)
        trace(backbone, x).gradient(directions(backbone)).mean()
        assert torch.equal(row.own(backbone.module, x), own)
    for form in ("auto", "dense"):
        # Not to the bit: with a graph torch takes another kernel for attention, and a closed form adds in another order.
        torch.testing.assert_close(trace(backbone, x, form=form).embedding, backbone.normalize(own), rtol=1e-9, atol=1e-11)


def test_another_size_is_the_librarys_own(row, backbone):
    """Where the library can be asked for that size itself; tests/test_sizes.py has the others."""
    size = other_size(backbone)
    x = pixels(backbone, size=size)
    before = {name: (id(t), t.clone()) for name, t in backbone.module.state_dict(keep_vars=True).items()}
    larger = backbone.at_size(size)
    with torch.no_grad():
        assert torch.equal(larger.embed_pixels(x), row.own(larger.module, x))
    assert larger.preprocess.size == size
    assert backbone.at_size(backbone.preprocess.size) is backbone
    assert larger.at_size(backbone.preprocess.size) is backbone
    assert backbone.at_size(size) is larger
    after = backbone.module.state_dict(keep_vars=True)
    assert all(
        id(after[name]) == i and torch.equal(after[name].nan_to_num(7), t.nan_to_num(7)) for name, (i, t) in before.items()
    )
    shared = {id(parameter) for parameter in backbone.module.parameters()}
    assert sum(id(parameter) not in shared for parameter in larger.module.parameters()) <= 8


def test_factored_equals_dense(row, backbone):
    for at in (backbone, backbone.at_size(other_size(backbone))):
        x, d = pixels(at, size=at.preprocess.size), directions(backbone)
        for name in row.factored:
            dense, factored = (trace(at, x, name, form) for form in ("dense", "factored"))
            assert isinstance(dense, DenseTrace)
            assert isinstance(factored, FactoredTrace)
            assert isinstance(trace(at, x, name), FactoredTrace)
            theirs, ours = dense.gradient(d), factored.gradient(d)
            scale = theirs.mean().abs().max()
            for question in ("mean", "dot_tokens", "mean_dot_tokens"):
                expected = getattr(theirs, question)()
                assert (getattr(ours, question)() - expected).norm() <= 1e-9 * expected.norm()
            torch.testing.assert_close(
                torch.stack(list(ours.dense())), torch.stack(list(theirs.dense())), rtol=1e-9, atol=1e-9 * float(scale)
            )


def test_a_pooling_gives_the_embedding(backbone):
    """Weights that sum to one, values and what follows, on the tokens that it pools."""
    pooling = backbone.pooling
    if pooling is None or (backbone.blocks and backbone.blocks[-1] is None):
        pytest.skip("it is not known")
    x, kept = pixels(backbone), []
    # What enters a norm that the pooling itself runs; else what is at the site.
    last = backbone.blocks[-1].module if backbone.blocks else None
    site = pooling.site if last is None else Site("last", last, backbone.sites[0].layout)
    with torch.no_grad(), on_site(site, lambda _, tensor: kept.append(tensor)):
        embedding = backbone.embed_pixels(x)
        tokens = site.layout.read(kept[0])[0]
        weights = pooling.weights(tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pooling.finish(pooling.gather(tokens, weights)), embedding, rtol=1e-9, atol=1e-11)
        # A token alone is embedded as if there were no other.
        alone = pooling.alone(tokens)
        assert alone.shape[:2] == tokens.shape[:2]
    fixed = torch.equal(pooling.weights(tokens), pooling.weights(tokens.flip(0)))
    assert fixed == (not pooling.attends)


def test_every_site_carries_a_gradient(backbone):
    x, d = pixels(backbone), directions(backbone)
    for site in backbone.sites:
        seen = trace(backbone, x, site.name, "dense")
        (*_, whole) = seen.gradient(d).dense()
        assert whole.shape == (3, seen.layout.patches, seen.tokens.shape[-1])
        assert whole.isfinite().all()
        assert (whole.abs().amax((1, 2)) > 1e-8).all()


def test_a_batch_of_three_is_three_singles(backbone):
    x, d = pixels(backbone), directions(backbone)
    for form in ("auto", "dense"):
        together = hires_cam(trace(backbone, x, form=form).gradient(d))
        for i in range(3):
            alone = hires_cam(trace(backbone, x[i : i + 1], form=form).gradient(d))
            torch.testing.assert_close(together[:, i : i + 1], alone, rtol=1e-7, atol=1e-9 * float(together.abs().max()))


@pytest.mark.parametrize("fit", by_default(FITS, "pad"))
def test_a_bright_square_moves_the_right_cell(row, fit):
    """On an image that is not square, in a model whose blocks hardly mix; the head asks for nothing but the square."""
    backbone = row.wrapped(quiet(row.build()))
    localizer = Localizer(backbone, fit=fit, size=other_size(backbone))
    generator = np.random.default_rng(0)
    grey = Image.fromarray(generator.integers(95, 105, (400, 520, 3), dtype=np.uint8))
    frame = Frame.of(grey, localizer.preprocess)
    at = backbone.at_size(frame.size)
    layout = trace(at, frame.pixels[None].to(at.dtype)).layout
    rows, cols = layout.rows, layout.cols
    # Kernels look at the upper left of their cell, and so does the square.
    start = -0.6 if isinstance(backbone.sites[0].layout, FeatureMap) else -0.5
    window = frame.placement.window
    first = (
        math.ceil(max(0, -window[0]) / (window[2] - window[0]) * cols),
        math.ceil(max(0, -window[1]) / (window[3] - window[1]) * rows),
    )
    for cell in ((rows // 2, first[0] + 1), (rows - 1 - first[1], cols // 2)):
        (left, top), (right, bottom) = (frame.placement.locate(cell[0] + e, cell[1] + e, (rows, cols)) for e in (start, 0.2))
        marked = grey.copy()
        marked.paste((125, 125, 125), tuple(round(side) for side in (left, top, right, bottom)))
        x = torch.stack([frame.pixels, Frame.of(marked, localizer.preprocess).pixels]).to(at.dtype)
        seen = trace(at, x)
        asks = (seen.embedding[1] - seen.embedding[0])[None, None]
        (whole,) = seen.gradient(asks).dense()
        # The head is held as it is without the square: what moves is what the square does to the tokens.
        moved = (whole[0] * (seen.tokens[1] - seen.tokens[0])).sum(-1).unflatten(0, (rows, cols))
        assert divmod(int(moved.abs().argmax()), cols) == cell


MODES = {"plain": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
@pytest.mark.parametrize(
    ("training", "fails"),
    cases(list(product(("eval", "train"), ("success", "failure"))), ("train", "failure")),
)
def test_no_trace_is_left(row, training, fails):
    training, fails = training == "train", fails == "failure"
    model = row.build().float().train(training)
    some = next(iter(model.parameters()))
    some.grad = torch.ones_like(some)
    before = fingerprint(model)
    backbone = row.wrapped(model)
    assert fingerprint(model) == before
    names = backbone.classes[:2] or ("red crown", "blue crown")
    templates = None if backbone.classes else ["a {}"]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))

    def method(gradient):
        maps = hires_cam(gradient)
        if fails:
            raise KeyboardInterrupt
        return maps

    for mode in MODES.values():
        for options in ({}, {"form": "dense"}, {"size": other_size(backbone)}, {"fit": "native"}):
            with mode(), pytest.raises(KeyboardInterrupt) if fails else nullcontext():
                inside = fingerprint(model)
                result = Localizer(backbone, templates=templates, method=method, **options)(image, names[0], names[1])
                assert result.map.isfinite().all()
                assert result.map.any()
                assert fingerprint(model) == inside
            assert fingerprint(model) == before


def test_the_check_command_finds_nothing(row):
    failed = [verdict for verdict in checks.check(row.wrapped(row.build().float())) if not verdict.passed]
    assert not failed


@pytest.mark.parametrize("dtype", by_default([torch.float32, torch.bfloat16], torch.bfloat16))
def test_lower_precision_gives_the_map(row, backbone, dtype):
    low = row.wrapped(row.build().to(dtype))
    x, d = pixels(backbone), directions(backbone, 1)
    exact = hires_cam(trace(backbone, x).gradient(d)).flatten(2)
    for form in ("auto", "dense"):
        rough = hires_cam(trace(low, x.to(low.dtype), form=form).gradient(d.to(dtype))).double().flatten(2)
        likeness = torch.nn.functional.cosine_similarity(exact, rough, dim=-1)
        assert (likeness > (0.999 if dtype == torch.float32 else 0.9)).all()


def test_a_blind_site_is_refused_and_others_are_named():
    backbone = ROWS["DINOv2 and a probe"].backbone()
    blind = Site("0.blocks.1", backbone.module[0].blocks[1], backbone.sites[0].layout)
    backbone.sites = (*backbone.sites, blind)
    with pytest.raises(RuntimeError, match=r"0\.blocks\.1 reaches .* Other sites of this model: 0\.blocks\.1\.norm1"):
        trace(backbone, pixels(backbone), blind.name).gradient(directions(backbone)).mean()


TAMPERED = {
    "SigLIP": lambda model: model.visual.trunk.attn_pool,
    "EVA-02": lambda model: model.visual.trunk.blocks[-1].attn,
    "CoCa": lambda model: model.visual.attn_pool.attn,
    "open_clip ResNet": lambda model: model.visual.attnpool,
    "transformers CLIP": lambda model: model.vision_model.encoder.layers[-1].self_attn,
    "DINOv2 and a probe": lambda model: model[0].blocks[-1].attn,
    "torchvision ViT": lambda model: model.encoder.layers[-1].self_attention,
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_head_is_caught_at_load(name):
    """Its attention answers otherwise than its parameters say: gradients come from autograd, and are right all the same."""
    row = ROWS[name]
    model = row.build()

    def louder(module, inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        return (first + first.square(), *output[1:]) if isinstance(output, tuple) else first + first.square()

    TAMPERED[name](model).register_forward_hook(louder)
    with pytest.warns(UserWarning, match="does not fit the model: its embedding is off .* Gradients come from autograd"):
        backbone = row.wrapped(model)
    x, d = pixels(backbone), directions(backbone, 1)
    seen = trace(backbone, x)
    assert isinstance(seen, DenseTrace)
    with torch.no_grad():
        torch.testing.assert_close(seen.embedding, backbone.normalize(row.own(model, x)), rtol=1e-9, atol=1e-11)
    # The right map: its slope along a small step of one patch's token.
    (whole,) = seen.gradient(d).dense()
    step = 1e-6 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def moved(sign):
        def add(module, inputs, output):
            tokens, layout = backbone.sites[0].layout.read(output)
            shifted = torch.cat([tokens[:, : layout.prefix], tokens[:, layout.prefix :] + sign * step], 1)
            return shifted if output.ndim == 3 else shifted.transpose(1, 2).unflatten(2, output.shape[2:])

        handle = backbone.sites[0].module.register_forward_hook(add)
        with torch.no_grad():
            score = (backbone.normalize(backbone.embed_pixels(x)) * d[0]).sum(-1)
        handle.remove()
        return score

    slope = (moved(1) - moved(-1)) / 2
    torch.testing.assert_close(slope, (whole * step).sum((1, 2)), rtol=1e-4, atol=1e-12)

"""Maps of every block: against the user's own model run with hooks, against sums by hand, and on towers of every library."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

import peft
import pytest
import torch
import zoo
from PIL import Image
from slow import by_default
from zoo import by_hand
from zoo.class_tokens import FEW, TOWERS, deeper, stream_maps, summands
from zoo.families import ROWS

from concept_cam import ConceptField, Localizer, trace, wrap
from concept_cam.checks import fingerprint
from concept_cam.errors import BackboneError, NoSpatialGradient, OptionError
from concept_cam.gradients import follow_class_token
from concept_cam.gradients.plain_mlp import PlainMLP
from concept_cam.methods import (
    by_block,
    class_stream,
    depth_of,
    direct,
    explain,
    field_vectors,
    last_blocks,
    name_of,
    shares_of,
)

BOTH = ("class_stream", "direct")
DEPTHS = (None, 1, 2)


class World:
    """A tower of three blocks: with two, what the class token does to patches reaches nobody."""

    def __init__(self, name):
        self.row = TOWERS[name]
        self.model = deeper(self.row.build())
        self.backbone = self.row.wrapped(self.model)
        self.pixels = pixels_of(self.backbone)
        self.seen = trace(self.backbone, self.pixels)
        self.directions = directions_of(self.seen)


def pixels_of(backbone, count=2):
    generator = torch.Generator().manual_seed(1)
    size = backbone.preprocess.size
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64).to(backbone.dtype)


def directions_of(seen, count=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 1, seen.embedding.shape[-1], generator=generator, dtype=torch.float64).to(seen.embedding)


def by_field(method, seen, directions):
    """The maps, from the vectors of each patch: another way of computing than that of few directions."""
    return torch.einsum("bne,kbe->kbn", field_vectors(method, seen), directions.expand(-1, len(seen.pixels), -1))


def off(got, expected):
    return float((got - expected).detach().norm() / expected.detach().norm())


@pytest.fixture(scope="module", params=by_default(TOWERS, *FEW))
def world(request):
    return World(request.param)


@pytest.fixture(scope="module")
def plain():
    return World("open_clip ViT")


# ---- against the user's model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_class_stream_is_the_gradient_while_other_tokens_are_held(world, depth):
    method = class_stream if depth is None else last_blocks(class_stream, depth)
    got = explain(method, world.seen, world.directions).flatten(2)
    count = world.seen.layout.patches
    expected = stream_maps(world.row, world.model, world.pixels, world.directions, count, depth)
    assert off(got, expected) <= 1e-9
    # Where two more blocks follow, patches that move would be seen.
    moved = stream_maps(world.row, world.model, world.pixels, world.directions, count, depth, hold=False)
    assert (off(moved, expected) > 5e-3) == (depth is None)


@pytest.mark.parametrize("depth", DEPTHS)
def test_direct_shares_are_those_by_hand_and_sum_to_the_score(world, depth):
    shares = shares_of(world.seen, world.directions, depth)
    expected, score = summands(world.row, world.model, world.pixels, world.directions, depth)
    assert off(torch.cat([shares.prefix, shares.patches], 3), expected.pop("tokens")) <= 1e-9
    for name, summand in expected.items():
        assert off(getattr(shares, name), summand) <= 1e-9
    assert off(shares.score, score) <= 1e-9
    assert off(score, (world.seen.embedding * world.directions).sum(-1)) <= 1e-9
    method = direct if depth is None else last_blocks(direct, depth)
    assert off(explain(method, world.seen, world.directions).flatten(2), shares.patches.sum((0, 4))) <= 1e-9


def test_no_summand_can_be_left_out(world):
    shares = shares_of(world.seen, world.directions)
    for name, summand in vars(shares).items():
        # Blocks come first, then directions and images, then tokens and heads.
        total = summand if summand.ndim == 2 else summand.sum((0, *range(3, summand.ndim)))
        left = shares.score - total
        assert off(left, shares.score) > 1e-2, name


def test_at_another_size(world):
    stride, (height, width) = world.backbone.preprocess.stride, world.backbone.preprocess.size
    larger = world.backbone.at_size((height + stride, width + 2 * stride))
    pixels = pixels_of(larger)
    seen = trace(larger, pixels)
    assert seen.layout.patches > world.seen.layout.patches
    got = explain("class_stream", seen, world.directions).flatten(2)
    assert off(got, stream_maps(world.row, larger.module, pixels, world.directions, seen.layout.patches)) <= 1e-9
    expected, _ = summands(world.row, larger.module, pixels, world.directions)
    own = expected["tokens"][..., -seen.layout.patches :, :].sum((0, 4))
    assert off(explain("direct", seen, world.directions).flatten(2), own) <= 1e-9


def test_by_block_sums_to_the_map(world):
    for method in BOTH:
        for depth in DEPTHS:
            blocks = by_block(world.seen, world.directions, method, depth)
            assert len(blocks) == (depth or 3)
            assert (blocks.flatten(1).norm(dim=1) > 0).all()
            chosen = method if depth is None else last_blocks(method, depth)
            assert off(blocks.sum((0, -1)), explain(chosen, world.seen, world.directions)) <= 1e-10


def test_of_one_block_it_is_value_attribution(world):
    own = explain("value_attribution", world.seen, world.directions)
    assert off(explain(last_blocks("class_stream", 1), world.seen, world.directions), own) <= 1e-9
    assert off(explain("class_stream", world.seen, world.directions), own) > 0.1


@pytest.mark.parametrize("method", BOTH)
def test_a_field_gives_the_maps(world, method, monkeypatch):
    maps = explain(method, world.seen, world.directions)
    fields = ConceptField.of(world.seen, method)
    assert off(torch.stack([field(world.directions[:, 0]) for field in fields], 1), maps) <= 1e-9
    # Many directions go through the field by themselves.
    many = world.directions.repeat(world.seen.layout.patches, 1, 1)
    assert off(explain(method, world.seen, many)[-3:], maps) <= 1e-9

    def cannot(*_):
        raise NotImplementedError("forward differentiation of a user's own layer")

    monkeypatch.setattr("torch.func.jvp", cannot)
    assert off(explain(method, world.seen, many)[-3:], maps) <= 1e-9


@pytest.mark.parametrize("method", BOTH)
def test_linear_in_the_direction(world, method):
    first, second, _ = world.directions
    one, other, both = explain(method, world.seen, torch.stack([first, second, first - 0.6 * second]))
    assert off(both, one - 0.6 * other) <= 1e-10


@pytest.mark.parametrize("method", BOTH)
def test_a_batch_is_its_images_and_each_may_have_its_own_direction(world, method):
    maps = explain(method, world.seen, world.directions)
    for image in range(2):
        alone = explain(method, trace(world.backbone, world.pixels[image : image + 1]), world.directions)
        assert off(maps[:, image : image + 1], alone) <= 1e-9
    own = explain(method, world.seen, world.directions[:2].transpose(0, 1))
    assert off(own[0], torch.stack([maps[0, 0], maps[1, 1]])) <= 1e-9


# ---- by hand -----------------------------------------------------------------------------------------------------------


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def by_weights(values, factors):
    """Each block: attention that looks everywhere alike, its values times one number; x plus another number times x."""
    model = zoo.tiny_clip(layers=len(values))
    for block, value, factor in zip(blocks(model), values, factors, strict=True):
        width = block.attn.embed_dim
        block.attn.in_proj_weight.data.zero_()[2 * width :] = value * torch.eye(width)
        block.attn.in_proj_bias.data.zero_()
        block.attn.out_proj.weight.data = torch.eye(width, dtype=torch.float64)
        block.attn.out_proj.bias.data.zero_()
        block.ln_2, block.mlp = torch.nn.Identity(), Times(factor)
    return model, wrap(model, zoo.TOKENIZER, name="by weights")


@pytest.mark.filterwarnings("ignore:.*every map would be blank:UserWarning")
def test_what_the_class_token_takes_in_the_first_block_is_on_the_map():
    """The second block takes nothing: of it alone a map is blank. Where nothing follows, both maps are a sixteenth v . w."""
    model, backbone = by_weights((1.0, 0.0), (0.0, 0.0))
    pixels, directions = zoo.pixels(backbone, 1), zoo.directions(backbone, 1)
    seen = trace(backbone, pixels)
    steps, _ = by_hand.run(model, pixels[0])
    moving, still = by_hand.slopes(model, steps[-1].left[0], directions[0, 0])
    taken = steps[0].normed[1:] / 16
    assert off(explain("class_stream", seen, directions).flatten(), taken @ moving) <= 1e-9
    assert off(explain("direct", seen, directions).flatten(), taken @ still) <= 1e-9
    assert off(taken @ still, taken @ moving) > 1e-2
    for last in BOTH:
        assert not explain(last_blocks(last, 1), seen, directions).any()
    with pytest.raises(NoSpatialGradient, match=r"resblocks\.1\.ln_1 reaches the embedding"):
        explain("hires_cam", seen, directions)


@pytest.mark.filterwarnings("ignore:.*every map would be blank:UserWarning")
def test_where_a_later_block_turns_it_round_only_the_stream_turns():
    """The second block makes -x of x: what was taken counts against the score, and its direct share still for it."""
    model, backbone = by_weights((1.0, 0.0), (0.0, -2.0))
    pixels, directions = zoo.pixels(backbone, 1), zoo.directions(backbone, 1)
    seen = trace(backbone, pixels)
    steps, _ = by_hand.run(model, pixels[0])
    assert torch.equal(steps[1].left, -steps[0].left)
    moving, still = by_hand.slopes(model, steps[-1].left[0], directions[0, 0])
    taken = steps[0].normed[1:] / 16
    stream, share = (explain(method, seen, directions).flatten() for method in BOTH)
    assert off(stream, -taken @ moving) <= 1e-9
    assert off(share, taken @ still) <= 1e-9
    assert torch.nn.functional.cosine_similarity(stream, share, dim=0) < -0.5
    # The share of the second MLP is minus twice all that the class token held.
    shares = shares_of(seen, directions)
    assert shares.mlps.flatten().tolist() == pytest.approx([0, (-2 * steps[0].left[0] @ still).item()], abs=1e-12)
    assert shares.entered.item() == pytest.approx((steps[0].entered[0] @ still).item())


def test_a_second_block_takes_as_much_again():
    """Values twice as large in the second block, where the class token has changed: the parts are told by block."""
    model, backbone = by_weights((1.0, 2.0), (0.0, 0.5))
    pixels, directions = zoo.pixels(backbone, 1), zoo.directions(backbone, 1)
    seen = trace(backbone, pixels)
    steps, _ = by_hand.run(model, pixels[0])
    moving, still = by_hand.slopes(model, steps[-1].left[0], directions[0, 0])
    later = 2 * steps[1].normed[1:] / 16
    _, share = by_block(seen, directions, "direct").sum(-1).flatten(1)
    assert off(share, later @ still) <= 1e-9
    # Through the residual and through its own value, which is a sixteenth of what it takes; then by 1.5.
    c = steps[1].entered[0].detach().requires_grad_()
    (through,) = torch.autograd.grad((c + 2 * blocks(model)[1].ln_1(c) / 16) @ (1.5 * moving), c)
    first, second = by_block(seen, directions).sum(-1).flatten(1)
    assert off(second, later @ (1.5 * moving)) <= 1e-9
    assert off(first, steps[0].normed[1:] / 16 @ through) <= 1e-9
    assert off(first, steps[0].normed[1:] / 16 @ (1.5 * moving)) > 1e-2


def test_what_the_class_token_asks_next_is_part_of_its_stream(plain):
    """With its attention held as it was, the gradient is another."""
    stream = follow_class_token(plain.seen)
    first = stream.steps[0].output.clone().requires_grad_()
    x = stream.steps[0].entered
    with torch.enable_grad():
        for step in stream.steps:
            x = step.block.finish(first if step is stream.steps[0] else step.output, x)
        score = (plain.backbone.normalize(stream.pooling.finish(x)) * plain.directions[0]).sum()
        (held,) = torch.autograd.grad(score, first)
    assert off(held, stream.pull(plain.directions[:1])[0][0]) > 1e-2


# ---- what a trace keeps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_trace_that_keeps_the_blocks_saves_a_pass(world, depth):
    runs = []
    layer = next(one for one in world.model.modules() if isinstance(one, torch.nn.Conv2d))
    handle = layer.register_forward_hook(lambda *_: runs.append(1))
    try:
        trace(world.backbone, world.pixels)  # A hook is a change: the closed form is tried again.
        for method in BOTH:
            chosen = method if depth is None else last_blocks(method, depth)
            runs.clear()
            kept = trace(world.backbone, world.pixels, depth=depth_of(chosen))
            maps = explain(chosen, kept, world.directions)
            assert len(runs) == 1
            assert off(maps, explain(chosen, trace(world.backbone, world.pixels), world.directions)) <= 1e-10
            assert len(runs) == 3
            # Kept for more blocks or fewer than are asked for, and with a graph.
            for other in (trace(world.backbone, world.pixels, depth=3 if depth else 1), dense(world)):
                assert off(explain(chosen, other, world.directions), maps) <= 1e-9
            again = kept.again(world.pixels)
            runs.clear()
            assert off(explain(chosen, again, world.directions), maps) <= 1e-10
            assert not runs
    finally:
        handle.remove()


def dense(world):
    return trace(world.backbone, world.pixels, form="dense")


def test_more_blocks_than_there_are_are_all(plain):
    expected = explain("class_stream", plain.seen, plain.directions)
    assert torch.equal(explain(last_blocks("class_stream", 99), plain.seen, plain.directions), expected)
    assert name_of(last_blocks("direct", 99)) == "direct:99"


# ---- precision and the caller's modes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("dtype", by_default([torch.float32, torch.bfloat16, torch.float16], torch.bfloat16))
def test_lower_precision_follows_float64(world, method, dtype):
    low = world.row.wrapped(deeper(world.row.build()).to(dtype))
    most = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.015}[dtype]
    fine = explain(method, world.seen, world.directions)
    for depth in (0, None):
        seen = trace(low, world.pixels.to(dtype), depth=depth)
        assert off(explain(method, seen, world.directions).double(), fine) <= most
    (field, _) = ConceptField.of(seen, method)
    assert off(field(world.directions[:, 0]).double(), fine[:, 0]) <= most


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_open_clips_own_half_precision(method, precision):
    exact, low = zoo.backbone("class token"), wrap(zoo.half(precision), zoo.TOKENIZER, name="low")
    fine = explain(method, trace(exact, zoo.pixels(exact)), zoo.directions(exact))
    rough = explain(method, trace(low, zoo.pixels(low)), zoo.directions(low)).double()
    assert off(rough, fine) <= (0.06 if precision == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_biases_do_not_round_off_what_a_patch_adds(method, dtype):
    """A patch adds a small part of what its bias is; the difference of two numbers of that size would be rounding."""
    row = TOWERS["open_clip ViT"]
    model = deeper(row.build())
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for block in blocks(model):
            block.attn.out_proj.bias.normal_(std=10)
    exact, low = (row.wrapped(copy.deepcopy(model).to(one)) for one in (torch.float64, dtype))
    pixels = pixels_of(exact)
    fine, rough = (trace(one, pixels.to(one.dtype)) for one in (exact, low))
    directions = directions_of(fine)
    expected = explain(method, fine, directions).flatten(2)
    few = off(explain(method, rough, directions.to(dtype)).double().flatten(2), expected)
    many = off(by_field(method, rough, directions.to(dtype)).double(), expected)
    assert max(few, many) <= (0.15 if dtype == torch.bfloat16 else 0.02)


@torch.no_grad()
def test_a_large_channel_does_not_overflow_in_half_precision():
    row = TOWERS["open_clip ViT"]
    model = deeper(row.build())
    blocks(model)[0].ln_2.weight.fill_(100)  # so that the MLP has a part in what comes out, to be seen beside rounding
    block, low = (row.wrapped(copy.deepcopy(model).to(dtype)).blocks[0] for dtype in (torch.float64, torch.float16))
    generator = torch.Generator().manual_seed(3)
    at = torch.randn(2, 32, generator=generator, dtype=torch.float64)
    at[:, 5] = 600
    changes = torch.randn(2, 4, 32, generator=generator, dtype=torch.float64)
    at, changes = at.half().double(), changes.half().double()
    fine, rough = (PlainMLP.of(one, at.to(dtype)) for one, dtype in ((block, torch.float64), (low, torch.float16)))
    expected = fine.along(at, changes)
    assert off(changes, expected) > 0.2
    assert off(rough.along(at.half(), changes.half()).double(), expected) <= 0.005


def test_an_image_that_overflows_leaves_the_others_their_maps(plain):
    pixels = plain.pixels.clone()
    pixels[1] *= 1e308
    seen = trace(plain.backbone, pixels)
    for method in BOTH:
        found = explain(method, seen, plain.directions)
        assert off(found[:, 0], explain(method, plain.seen, plain.directions)[:, 0]) <= 1e-9
        assert not found[:, 1].isfinite().any()


@pytest.mark.parametrize("depth", [0, None])
@pytest.mark.parametrize("form", ["auto", "dense"])
@pytest.mark.parametrize("method", [*BOTH, "legrad"])
def test_a_trace_made_under_autocast_is_of_use_outside_and_inside(method, form, depth):
    """Those that run pieces of the model again compare them in the precision that the model ran in."""
    backbone = wrap(zoo.tiny_clip(layers=3).float(), zoo.TOKENIZER, name="single")
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    expected = explain(method, trace(backbone, pixels), directions)
    with torch.autocast("cpu", torch.bfloat16):
        seen = trace(backbone, pixels, form=form, depth=depth)
        inside = explain(method, seen, directions)
    assert off(inside, expected) <= 0.05
    assert off(explain(method, seen, directions), expected) <= 0.05


MODES = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def trainable(training):
    """With dropout where it would be seen, a gradient of the user's, and one of the user's flags."""
    model = deeper(zoo.openclip_models.vit(patch_dropout=0.5)).float()
    for block in model.visual.transformer.resblocks:
        block.mlp = torch.nn.Sequential(block.mlp, torch.nn.Dropout(0.5))
    model.visual.proj.grad = torch.ones_like(model.visual.proj)
    model.visual.class_embedding.requires_grad_(False)
    return model.train(training)


@pytest.mark.parametrize("training", by_default([True, False], True))
@pytest.mark.parametrize("mode", MODES)
def test_no_trace_is_left_and_the_map_is_the_same(mode, training):
    plain = wrap(trainable(False), zoo.TOKENIZER)
    pixels = pixels_of(plain)
    directions = directions_of(trace(plain, pixels))
    model = trainable(training)
    backbone = wrap(model, zoo.TOKENIZER)
    before = fingerprint(model)
    for method in BOTH:
        expected = explain(method, trace(plain, pixels), directions)
        for depth in (0, None):
            with MODES[mode]():
                inside = fingerprint(model)
                maps = explain(method, trace(backbone, pixels.clone(), depth=depth), directions.clone())
                assert fingerprint(model) == inside
            assert fingerprint(model) == before
            assert not maps.requires_grad
            assert not maps.is_inference()
            assert off(maps, expected) <= (0.05 if mode == "autocast" else 1e-5)


def test_the_stream_asked_by_itself_runs_the_model_in_evaluation_mode():
    backbone = wrap(trainable(True), zoo.TOKENIZER)
    pixels = pixels_of(backbone)
    seen = trace(backbone, pixels)
    expected = follow_class_token(trace(wrap(trainable(False), zoo.TOKENIZER), pixels)).pull(directions_of(seen))
    with torch.autocast("cpu", torch.bfloat16):
        stream = follow_class_token(seen)
        gammas, vectors = stream.pull(directions_of(seen)), stream.push()
    for gamma, own in zip(gammas, expected, strict=True):
        assert off(gamma, own) <= 1e-4
    maps = torch.einsum("bne,ke->kbn", vectors, directions_of(seen)[:, 0])
    assert off(maps, explain("class_stream", seen, directions_of(seen)).flatten(2)) <= 1e-4


class Boom(Exception):
    pass


@pytest.mark.parametrize("where", ["trunk", "stream"])
@pytest.mark.parametrize("method", BOTH)
def test_no_trace_is_left_after_an_exception(method, where):
    model = trainable(True)
    backbone = wrap(model, zoo.TOKENIZER)
    pixels = pixels_of(backbone)

    def explode(module, inputs, output):
        # The class token alone, and not all tokens, is a matrix.
        if armed and (where == "trunk") == (output.ndim == 3):
            raise Boom

    armed = []
    model.visual.transformer.resblocks[1].ln_2.register_forward_hook(explode)
    seen = trace(backbone, pixels)
    before = fingerprint(model)
    armed.append(True)
    with pytest.raises(Boom):
        explain(method, seen, directions_of(seen))
    assert fingerprint(model) == before


# ---- models that change, and models that it is not for ----------------------------------------------------------------


def doubled(module, inputs, output):
    return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


def class_token_doubled(module, inputs, output):
    return torch.cat([2 * output[:, :1], output[:, 1:]], 1)


def patches_doubled(module, inputs, output):
    return torch.cat([output[:, :1], 2 * output[:, 1:]], 1) if output.ndim == 3 else output


class Twice(torch.nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        return doubled(self, args, super().forward(*args, **kwargs))


class Shifted(torch.nn.LayerNorm):
    def forward(self, x):
        return super().forward(x).tanh()


def blocks(model):
    return model.visual.transformer.resblocks


UNSEEN = {
    "what the heads give": lambda model: blocks(model)[0].attn.register_forward_hook(doubled),
    "what a block gives": lambda model: blocks(model)[0].register_forward_hook(class_token_doubled),
    "what enters an MLP, by a method": lambda model: setattr(blocks(model)[1], "forward", lambda x, **_: 1.5 * x),
    "an attention of another class": lambda model: setattr(blocks(model)[0].attn, "__class__", Twice),
    "the last attention": lambda model: blocks(model)[2].attn.register_forward_hook(doubled),
    "the last norm, of many tokens": lambda model: model.visual.ln_post.register_forward_hook(
        lambda module, inputs, output: output.square() if output.ndim > 2 else output
    ),
}

AT_THE_END = {"the last attention", "the last norm, of many tokens"}

SEEN = {
    "what an MLP gives": lambda model: blocks(model)[0].mlp.register_forward_hook(doubled),
    "patches between blocks": lambda model: blocks(model)[0].register_forward_hook(patches_doubled),
    "what the second norm gives": lambda model: blocks(model)[1].ln_2.register_forward_hook(doubled),
    "what the first norm gives": lambda model: blocks(model)[1].ln_1.register_forward_hook(doubled),
    "the forward of an MLP": lambda model: setattr(blocks(model)[1].mlp, "forward", lambda x: x.sin()),
    "what an MLP is scaled by": lambda model: blocks(model)[1].ls_2.register_forward_hook(doubled),
    "a second norm of one's own": lambda model: setattr(blocks(model)[1], "ln_2", Shifted(32).double()),
    "weights": lambda model: blocks(model)[1].attn.in_proj_weight.data.mul_(1.5),
    "a block of its own kind": lambda model: blocks(model).__setitem__(0, blocks(zoo.openclip_models.vit())[1]),
}


@pytest.mark.filterwarnings("ignore:.*does not fit the model:UserWarning")
@pytest.mark.parametrize("when", by_default(["before it is wrapped", "afterwards", "after the trace"], "afterwards"))
@pytest.mark.parametrize("change", UNSEEN)
def test_a_change_that_the_formulas_do_not_see_is_refused(change, when, plain):
    world = changed(UNSEEN[change], when)
    for method in BOTH:
        if when == "after the trace" and change in AT_THE_END:
            # The trace is of the model as it was, and what is asked of it runs none of these.
            assert off(explain(method, world.seen, world.directions), explain(method, plain.seen, plain.directions)) <= 1e-12
            continue
        with pytest.raises(
            BackboneError,
            match=r"se a method of one block, such as hires_cam(; own_streams also .*)?\.$",
        ) as caught:
            explain(method, world.seen, world.directions)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*does not fit the model:UserWarning")
@pytest.mark.parametrize("when", by_default(["before it is wrapped", "afterwards"], "afterwards"))
@pytest.mark.parametrize("change", SEEN)
def test_after_a_change_that_they_see_the_map_is_that_of_the_model(change, when):
    world = changed(SEEN[change], when)
    got = explain("class_stream", world.seen, world.directions).flatten(2)
    assert off(got, stream_maps(world.row, world.model, world.pixels, world.directions, 15)) <= 1e-9
    assert off(by_field("class_stream", world.seen, world.directions), got) <= 1e-9
    unchanged = explain("class_stream", World("open_clip ViT").seen, world.directions)
    assert off(got, unchanged.flatten(2)) > 1e-3
    expected, _ = summands(world.row, world.model, world.pixels, world.directions)
    for shares in (
        explain("direct", world.seen, world.directions).flatten(2),
        by_field("direct", world.seen, world.directions),
    ):
        assert off(shares, expected["tokens"][..., 1:, :].sum((0, 4))) <= 1e-9


def changed(change, when):
    world = World("open_clip ViT")
    if when == "before it is wrapped":
        world.model = deeper(world.row.build())
    change(world.model)
    if when == "before it is wrapped":
        world.backbone = world.row.wrapped(world.model)
    if when != "after the trace":
        world.seen = trace(world.backbone, world.pixels)
    return world


def test_weights_that_change_after_the_trace_are_refused(plain):
    world = World("open_clip ViT")
    seen = trace(world.backbone, world.pixels, depth=None)
    blocks(world.model)[0].attn.in_proj_weight.data.mul_(1.5)
    for one in (world.seen, seen):
        with pytest.raises(BackboneError, match="a block computes something else than expected"):
            explain("class_stream", one, world.directions)


class Bent(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


BENT = {
    "an output projection": ("timm ViT", lambda model: vars(model.blocks[0].attn)["_modules"].update(proj=bent(32, 32))),
    "a projection to the embedding": (
        "EVA-02",
        lambda model: vars(model.visual)["_modules"].update(head=torch.nn.Sequential(bent(24, 24), bent(24, 24))),
    ),
}


def bent(*size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Bent(*size).double()


@pytest.mark.parametrize("case", BENT)
def test_where_a_layer_bends_the_stream_goes_on_and_shares_are_refused(case):
    name, change = BENT[case]
    row = TOWERS[name]
    model = deeper(row.build())
    change(model)
    backbone = row.wrapped(model)
    pixels = pixels_of(backbone)
    seen = trace(backbone, pixels)
    directions = directions_of(seen)
    got = explain("class_stream", seen, directions).flatten(2)
    assert off(got, stream_maps(row, model, pixels, directions, seen.layout.patches)) <= 1e-9
    assert off(by_field("class_stream", seen, directions), got) <= 1e-9
    for ask in (lambda: explain("direct", seen, directions), lambda: shares_of(seen, directions)):
        with pytest.raises(
            BackboneError, match=r"need linear layers after the attention .*; .* has others\. Use class_stream\.$"
        ):
            ask()


@pytest.mark.parametrize("norm", [Shifted, torch.nn.RMSNorm])
def test_after_a_norm_of_another_kind_shares_are_refused(norm):
    row = TOWERS["timm ViT"]
    model = row.build()
    model.norm = norm(32).double()
    backbone = row.wrapped(model)
    pixels = pixels_of(backbone)
    seen = trace(backbone, pixels)
    directions = directions_of(seen)
    got = explain("class_stream", seen, directions).flatten(2)
    assert off(got, stream_maps(row, model, pixels, directions, seen.layout.patches)) <= 1e-9
    with pytest.raises(BackboneError, match=r"need a (plain )?LayerNorm, but this .*\. Use class_stream\.$"):
        explain("direct", seen, directions)


class OfThreeAxes(torch.nn.Module):
    """An MLP that one token without a sequence is no input of."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        batch, tokens, width = x.shape
        return self.mlp(x.reshape(batch * tokens, width)).view(batch, tokens, width)


def test_where_the_stream_cannot_run_the_last_block_is_read():
    row = TOWERS["open_clip ViT"]
    model = deeper(row.build())
    blocks(model)[0].mlp = OfThreeAxes(blocks(model)[0].mlp)
    localizer = Localizer(row.wrapped(model), templates=["a {}"])
    assert name_of(localizer.method) == "hires_cam"
    assert localizer(Image.new("RGB", (40, 24)), "red crown", strength=0).map.abs().sum() > 0
    seen = trace(localizer.backbone, pixels_of(localizer.backbone))
    with pytest.raises(BackboneError, match=r"cannot run through the blocks alone \(not enough values .*hires_cam"):
        explain("class_stream", seen, directions_of(seen))


def test_the_usual_method_follows_site_and_form(plain):
    localizer = Localizer(plain.backbone, templates=["a {}"])
    assert name_of(localizer.method) == "class_stream"
    localizer.form = "dense"
    assert name_of(localizer.method) == "hires_cam"
    localizer.form, localizer.site = "auto", plain.backbone.sites[1].name
    assert name_of(localizer.method) == "hires_cam"


@pytest.mark.parametrize("method", [*BOTH, "own_streams", "class_stream:2"])
def test_a_localizer_with_such_a_method_pickles(plain, method):
    localizer = Localizer(plain.backbone, templates=["a {}"], method=method)
    copied = pickle.loads(pickle.dumps(localizer))
    pixels = plain.pixels[:1]
    assert torch.equal(copied(pixels, "bird", strength=0).map, localizer(pixels, "bird", strength=0).map)


OTHERS = tuple(name for name in ROWS if name not in TOWERS)


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
@pytest.mark.parametrize("name", by_default(OTHERS, "open_clip ViT, average", "CoCa", "EVA-02 E", "timm ResNet"))
def test_of_other_towers_it_says_in_one_line_what_to_use(name):
    backbone = ROWS[name].backbone()
    seen = trace(backbone, pixels_of(backbone, 1), depth=None)
    for method in (*BOTH, last_blocks("class_stream", 2)):
        with pytest.raises(
            BackboneError,
            match=r"has no class token that .*\. Use a method of one block, such as hires_cam; own_streams also .*\.$",
        ):
            explain(method, seen, directions_of(seen))
    with pytest.raises(BackboneError, match="has no class token"):
        by_block(seen, directions_of(seen))


@pytest.mark.parametrize("depth", [0, -1])
def test_depths_below_one_are_refused(plain, depth):
    asks = (
        lambda: last_blocks("direct", depth),
        lambda: by_block(plain.seen, plain.directions, depth=depth),
        lambda: shares_of(plain.seen, plain.directions, depth),
        lambda: follow_class_token(plain.seen, depth),
    )
    for ask in asks:
        with pytest.raises(OptionError, match=rf"depth is {depth}; expected a number of blocks, 1 or more"):
            ask()


def test_a_trace_keeps_no_negative_number_of_blocks(plain):
    for form in ("auto", "dense"):
        with pytest.raises(OptionError, match="depth is -1; expected a number of blocks"):
            trace(plain.backbone, plain.pixels, form=form, depth=-1)


@pytest.mark.parametrize("ask", [lambda _, method: last_blocks(method, 2), lambda s, m: by_block(s.seen, s.directions, m)])
@pytest.mark.parametrize("method", ["hires_cam", "legrad", last_blocks("class_stream", 1)])
def test_other_methods_have_no_depth(plain, ask, method):
    with pytest.raises(OptionError, match=r"has no maps by block; expected class_stream or direct"):
        ask(plain, method)


def adapted(model, layers):
    config = peft.LoraConfig(target_modules=layers, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(model, config).double()


ADAPTED = {
    "timm": ("timm ViT", ["qkv"]),
    "open_clip": ("open_clip ViT", ["attn"]),
    "transformers": ("transformers CLIP", ["q_proj", "v_proj"]),
    "torchvision": ("torchvision ViT", ["self_attention"]),
}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:.*does not fit the model:UserWarning")
@pytest.mark.parametrize("case", by_default(ADAPTED, "timm", "transformers"))
def test_adapters_are_named_with_their_cure(case):
    name, layers = ADAPTED[case]
    row = TOWERS[name]
    model = adapted(row.build(), layers)
    backbone = row.wrapped(model.base_model.model)
    pixels = pixels_of(backbone)
    seen = trace(backbone, pixels)
    directions = directions_of(seen)
    for method in (*BOTH, "legrad"):
        with pytest.raises(
            BackboneError, match=r"It holds adapters of peft .*: merge them .*merge_and_unload\(\).*\.$"
        ) as caught:
            explain(method, seen, directions)
        assert "\n" not in str(caught.value)
    own = row.wrapped(model.merge_and_unload())
    again = trace(own, pixels)
    assert off(again.embedding, seen.embedding) <= 1e-6
    expected = stream_maps(row, own.module, pixels, directions, again.layout.patches)
    assert off(explain("class_stream", again, directions).flatten(2), expected) <= 1e-9

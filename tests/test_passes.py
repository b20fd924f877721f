"""A pass is frames of one size through the model, once, whatever modes the caller is in."""

from __future__ import annotations

import pytest
import torch
import zoo
from slow import by_default

from concept_cam import Localizer, trace, world
from concept_cam.evaluation import Grid, Settings, own_scale
from concept_cam.images import Frame, Placement
from concept_cam.methods import at_scales, depth_of, explain, mirrored, smoothed
from concept_cam.parts import find_parts, read_parts
from concept_cam.passes import Pass, each_frame, embedded, ordinary, run
from concept_cam.world.dataset import twins_dataset

MODES = {
    "plain": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


def frame(height, width, seed=0):
    pixels = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    return Frame(pixels, Placement((0.0, 0.0, float(width), float(height)), (height, width)))


def test_frames_of_each_size_go_together_and_come_back_in_order(localizer):
    frames = [frame(96, 96, 0), frame(96, 128, 1), frame(96, 96, 2), frame(128, 96, 3), frame(96, 128, 4)]
    seen = list(localizer.passes(frames))
    assert [(one.which, tuple(one.pixels.shape)) for one in seen] == [
        ((0, 2), (2, 3, 96, 96)),
        ((1, 4), (2, 3, 96, 128)),
        ((3,), (1, 3, 128, 96)),
    ]
    order = each_frame(seen, lambda one: [(i, one.placements[b].image_size) for b, i in enumerate(one.which)])
    assert order == [(i, one.placement.image_size) for i, one in enumerate(frames)]
    with pytest.raises(ValueError, match="zip"):
        each_frame(seen, lambda one: [1])


@pytest.mark.parametrize("mode", MODES)
def test_scores_and_maps_are_ordinary_in_every_mode(localizer, mode):
    bank = localizer.bank(["ember finch", "frost finch"])
    frames = [frame(96, 96, seed) for seed in range(2)]
    (plain,) = localizer.passes(frames)
    expected = plain.scores(bank), plain.maps("hires_cam", bank.vectors[:, None]).stacked

    def work(seen):
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        return [seen.maps("hires_cam", bank.vectors[:, None]).stacked[:, b] for b in range(2)]

    with MODES[mode]():
        (seen,) = localizer.passes(frames)
        scores, maps = seen.scores(bank), seen.maps("hires_cam", bank.vectors[:, None]).stacked
        found = each_frame([seen], work)
    for tensor in (scores, maps, *found):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    # The model itself ran in the caller's autocast, as the caller's own call would have.
    loose = {"rtol": 0.1, "atol": 0.05} if mode == "autocast" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(scores, expected[0], **loose)
    if mode != "autocast":
        torch.testing.assert_close(maps, expected[1], **loose)
        torch.testing.assert_close(torch.stack(found, 1), expected[1], **loose)
    else:
        assert not torch.equal(scores, expected[0])


def test_pixels_of_any_size_on_any_device_and_in_any_precision(localizer):
    pixels = torch.randn(2, 3, 96, 144, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = Pass.of(localizer.backbone, pixels)
    assert (seen.layout.rows, seen.layout.cols) == (12, 18)
    assert seen.placements[1].window == (0.0, 0.0, 144.0, 96.0)
    torch.testing.assert_close(embedded(localizer.backbone, pixels), seen.embedding, rtol=1e-4, atol=1e-5)
    half = seen.again(pixels[:, :, :, :96])
    assert (half.layout.rows, half.layout.cols, half.form) == (12, 12, "auto")
    assert half.trace.site.name == seen.trace.site.name


@pytest.mark.parametrize("form", ["factored", "dense"])
def test_other_pixels_at_the_same_site_in_the_same_form(form):
    backbone = zoo.backbone("class token")
    pixels = zoo.pixels(backbone, 2)
    seen = trace(backbone, pixels, form=form)
    again = seen.again(pixels.flip(-1))
    assert (again.form, again.site.name) == (form, seen.site.name)
    direct = trace(backbone, pixels.flip(-1), form=form)
    directions = zoo.directions(backbone, 2)
    assert torch.equal(explain("hires_cam", again, directions), explain("hires_cam", direct, directions))


def test_the_gradient_at_the_pixels_is_pooled_onto_the_cells(localizer):
    (seen,) = localizer.passes([frame(96, 96)])
    pooled = seen.pixel_gradient(localizer.bank(["ember finch"]).vectors[:, None])
    assert pooled.shape == (1, 1, 12, 12)
    assert pooled.min() >= 0
    assert pooled.max() > 0


def test_out_of_the_callers_modes_but_not_of_autocast_unless_a_device_is_named():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with ordinary():
            assert (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")) == (False, True)
        with ordinary(torch.device("cpu")):
            assert not torch.is_autocast_enabled("cpu")
    assert list(run(world.localizer().backbone, [])) == []


# ---- passes of methods that read every block ---------------------------------------------------------------------------


@pytest.fixture
def embedded_batches(localizer, monkeypatch):
    """The batches that the model is given, one number of images for each of its passes."""
    batches = []
    kind = type(localizer.backbone)
    own = kind.embed_pixels
    monkeypatch.setattr(kind, "embed_pixels", lambda self, pixels: batches.append(len(pixels)) or own(self, pixels))
    return batches


def localized(localizer, methods):
    for method in methods:
        Localizer(localizer.backbone, method=method)(world.draw_species("ember finch").image, "ember finch", "frost finch")


def with_parts(localizer, methods):
    for method in methods:
        found = Localizer(localizer.backbone, method=method, templates=localizer.templates)
        find_parts(found, world.draw_species("ember finch").image, read_parts("world-parts"))


def evaluated(localizer, methods):
    bank = localizer.bank(world.species())
    Grid(localizer, bank, own_scale(localizer.backbone), Settings(methods, sanity=True)).rows(twins_dataset(2).examples)


def with_averages(localizer, methods):
    for method in methods:
        for average in (mirrored, smoothed, lambda one: at_scales(one, (1, 1.5))):
            localized(localizer, [average(method)])


@pytest.mark.parametrize("job", by_default([localized, with_parts, evaluated, with_averages], localized))
def test_methods_of_every_block_make_no_pass_of_their_own(localizer, embedded_batches, job):
    """Nor do those of fewer blocks beside them."""
    last, all_blocks = ("hires_cam", "grad_cam", "value_attribution"), ("class_stream", "direct:2", "class_stream:4")
    job(localizer, last)  # The closed form is tried at its first use.
    embedded_batches.clear()
    job(localizer, last)
    expected = embedded_batches.copy()
    embedded_batches.clear()
    job(localizer, all_blocks)
    assert embedded_batches == expected
    assert len(expected) >= 3


def test_one_image_takes_one_pass_by_a_method_of_every_block(localizer, embedded_batches):
    localized(localizer, ["class_stream"])
    embedded_batches.clear()
    localized(localizer, ["class_stream"])
    assert embedded_batches == [1]


def test_a_pass_that_kept_nothing_is_made_once_more_and_gives_the_same_maps(localizer, embedded_batches):
    bank = localizer.bank(["ember finch", "frost finch"])
    frames = [frame(96, 96, seed) for seed in range(2)]
    (kept,) = localizer.passes(frames, ["class_stream"])
    (bare,) = localizer.passes(frames, ["hires_cam"])
    (four,) = localizer.passes(frames, ["hires_cam", "class_stream:4"])
    assert (kept.depth, bare.depth, four.depth) == (None, 0, 4)
    embedded_batches.clear()
    assert (kept.again(kept.pixels).depth, embedded_batches) == (None, [2])
    embedded_batches.clear()
    for method in ("class_stream:4", "direct:4"):
        maps = [seen.maps(method, bank.vectors[:, None]).stacked for seen in (four, kept, bare)]
        for others in maps[1:]:
            torch.testing.assert_close(others, maps[0], rtol=1e-4, atol=1e-6)
    assert embedded_batches == [2, 2]


@pytest.mark.parametrize(
    ("methods", "depth"),
    [
        ((), 0),
        (("hires_cam", "rollout"), 0),
        (("hires_cam", "class_stream:4", "direct:2"), 4),
        (("class_stream:4", "direct"), None),
        ((mirrored("class_stream:3"),), 3),
    ],
)
def test_the_depth_of_several_methods_is_that_of_the_deepest(methods, depth):
    assert depth_of(*methods) == depth

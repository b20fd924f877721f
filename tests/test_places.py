"""Where the cells of a site look: a square changes, and the cells that say so lie there, or the site is not offered."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from slow import by_default
from torch import nn
from zoo.families import FEW, ROWS
from zoo.shake import quiet, shaken

from concept_cam import Localizer, grad_cam, hires_cam, trace, wrap
from concept_cam.backbones import Backbone, FeatureMap, Site
from concept_cam.backbones.axis import Axis
from concept_cam.backbones.receptive import receptive_fields
from concept_cam.backbones.tents import Fit, fit, tents
from concept_cam.errors import BackboneError, NoSpatialGradient
from concept_cam.images import Frame, Placement, Preprocess
from concept_cam.methods import at_scales, explain

CLASSES = ["ant", "bee", "wasp"]
SIZE = (96, 128)
CORNERS = ((0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9), (0.9, 0.9))


def wrapped(model, size=SIZE):
    return wrap(model, preprocess=Preprocess(size, (0.5,) * 3, (0.5,) * 3), classes=CLASSES)


def assert_in_place(backbone, most=0.5):
    """Of every site: squares of one and a half cells, in the corners and the middle of an image that is cropped."""
    generator = np.random.default_rng(0)
    height, width = backbone.preprocess.size
    image = generator.integers(90, 110, (2 * height + 40, 2 * width, 3), dtype=np.uint8)
    preprocess = backbone.preprocess.fitted("crop")
    frame = Frame.of(Image.fromarray(image), preprocess)
    left, top, right, bottom = frame.placement.window
    for site in backbone.sites:
        placement = frame.placement.covering(site.layout.span)
        pixels = [frame.pixels]
        layout = trace(backbone, frame.pixels[None].to(backbone.device, backbone.dtype), site.name, "dense").layout
        tall, wide = placement.cell_size((layout.rows, layout.cols))
        places = [(left + x * (right - left), top + y * (bottom - top)) for x, y in CORNERS]
        for x, y in places:
            # What does not answer to one mark may answer to the other; kernels of mean zero see no grey.
            for mark in ((80, -80, 80), (-80, 80, -80)):
                marked = image.copy()
                marked[
                    rounded(y - 0.75 * tall) : rounded(y + 0.75 * tall), rounded(x - 0.75 * wide) : rounded(x + 0.75 * wide)
                ] += np.array(mark).astype(np.uint8)
                pixels.append(Frame.of(Image.fromarray(marked), preprocess).pixels)
        tokens = trace(backbone, torch.stack(pixels).to(backbone.dtype), site.name, "dense").tokens.double()
        moved = (
            (tokens[1:] - tokens[:1]).square().sum(-1).unflatten(1, (layout.rows, layout.cols)).unflatten(0, (-1, 2)).sum(1)
        )
        for (x, y), change in zip(places, moved, strict=True):
            assert change.any(), (site.name, x, y)
            row, column = middle(change)
            grid = layout.rows, layout.cols
            found_x, found_y = placement.locate(row, column, grid)
            # Nothing looks further out than the outermost cells.
            (first_x, first_y), (last_x, last_y) = (
                placement.locate(0, 0, grid),
                placement.locate(grid[0] - 1, grid[1] - 1, grid),
            )
            off = abs(found_x - min(max(x, first_x), last_x)) / wide, abs(found_y - min(max(y, first_y), last_y)) / tall
            assert max(off) <= most, (site.name, (x, y), off)


def middle(change):
    """Of what changed most, in cells; a squeeze and excitation changes all cells a little."""
    here = (change - change.median()).clamp(min=0)
    row, column = divmod(int(here.argmax()), here.shape[1])
    top, left = max(0, row - 1), max(0, column - 1)
    near = here[top : row + 2, left : column + 2]
    down, across = near.sum(1) / near.sum(), near.sum(0) / near.sum()
    return top + float(down @ torch.arange(len(down)).to(down)), left + float(across @ torch.arange(len(across)).to(across))


def rounded(edge):
    return max(0, round(edge))


@pytest.mark.parametrize("name", by_default(ROWS, *FEW))
def test_squares_come_out_at_their_places_in_every_family(name):
    row = ROWS[name]
    assert_in_place(row.wrapped(quiet(row.build())))


CNNS = [
    *by_default(["resnet18", "tf_efficientnet_b0", "densenet121", "convnext_atto", "resnet26d"]),
    *(
        pytest.param(name, marks=pytest.mark.full)
        for name in (
            "vgg11_bn",
            "efficientnet_b0",
            "mobilenetv4_conv_small",
            "regnety_002",
            "ghostnet_100",
            "hrnet_w18_small",
            "inception_v3",
            "xception41",
            "nfnet_f0",
            "repvgg_a0",
            "fastvit_t8",
            "edgenext_xx_small",
            "mixnet_s",
            "rexnet_100",
            "hardcorenas_a",
            "selecsls42b",
            "resnet50_gn",
            "skresnet18",
        )
    ),
]


@pytest.mark.parametrize("name", CNNS)
def test_squares_come_out_at_their_places_in_timms_cnns(name):
    model = quiet(shaken(lambda: timm.create_model(name, num_classes=3)))
    assert_in_place(wrapped(model, (160, 224)))


# ---- towers made by hand ----------------------------------------------------------------------------------------------


class Tower(nn.Module):
    """Patches of 8 pixels, what a case makes of them, the mean, and three classes."""

    def __init__(self, between=lambda x: x, width=16, stem=None):
        super().__init__()
        self.stem = stem or nn.Conv2d(3, width, 8, stride=8)
        self.mix = nn.Conv2d(width, width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, 3)
        self.between = between

    def forward(self, pixels):
        return self.head(self.pool(self.mix(self.between(self.stem(pixels)))).flatten(1))


class Windowed(nn.Module):
    """Tokens in windows of 4 x 4 patches, one window after the other, in a sequence or laid out as a map."""

    def __init__(self, as_map):
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, 16), nn.Linear(16, 3)
        self.as_map = as_map
        self.norm1 = nn.Identity() if as_map else nn.LayerNorm(16)

    def forward(self, pixels):
        x = self.stem(pixels)
        count, width, rows, cols = x.shape
        x = x.reshape(count, width, rows // 4, 4, cols // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(count, rows * cols, width)
        x = self.mix(x.unflatten(1, (rows, cols)) if self.as_map else self.norm1(x))
        return self.head(x.flatten(1, -2).mean(1))


class Shared(nn.Module):
    """One activation for all layers, in place or not; the last use of it makes the map that is pooled."""

    def __init__(self, inplace, pool=True):
        super().__init__()
        self.act = nn.ReLU(inplace=inplace)
        self.first, self.second = nn.Conv2d(3, 16, 8, stride=8), nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1) if pool else None
        self.head = nn.Linear(16, 3)

    def forward(self, pixels):
        x = self.act(self.second(self.act(self.first(pixels))))
        return self.head(self.pool(x).flatten(1) if self.pool else x.mean((2, 3)))


class Auxiliary(nn.Module):
    """Another head makes a finer map after the pooling, and nobody asks for it."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 2, stride=2)
        self.head, self.decode = nn.Linear(16, 3), nn.ConvTranspose2d(16, 4, 2, stride=2)

    def forward(self, pixels):
        x = self.body(self.stem(pixels))
        scores = self.head(x.mean((2, 3)))
        self.kept = self.decode(x)
        return scores


def shifted_by(right, down, cells_x, cells_y, size=SIZE, stride=8):
    """The span of a grid whose first cell begins at a pixel."""
    return (
        right / size[1],
        down / size[0],
        (right + cells_x * stride) / size[1],
        (down + cells_y * stride) / size[0],
    )


WHOLE = (0, 0, 1, 1)
TOWERS = {
    "plain": (Tower, WHOLE),
    "padded by hand": (lambda: Tower(lambda x: F.pad(x, (1, 1, 1, 1))), shifted_by(-8, -8, 18, 14)),
    "padded at one side": (lambda: Tower(lambda x: F.pad(x, (2, 0, 0, 1))), shifted_by(-16, 0, 18, 13)),
    "padded by a layer": (lambda: Tower(nn.ZeroPad2d(1)), shifted_by(-8, -8, 18, 14)),
    "cropped": (lambda: Tower(lambda x: x[:, :, 1:-1, 1:-1]), shifted_by(8, 8, 14, 10)),
    "cropped at one side": (lambda: Tower(lambda x: x[:, :, 2:, :-1]), shifted_by(0, 16, 15, 10)),
    "valid convolution": (lambda: Tower(nn.Conv2d(16, 16, 3)), shifted_by(8, 8, 14, 10)),
    "half a cell up and left": (
        lambda: Tower(stem=nn.Conv2d(3, 16, 7, stride=8, padding=3)),
        shifted_by(-3.5, -3.5, 16, 12),
    ),
    "a stride that does not divide": (
        lambda: Tower(stem=nn.Conv2d(3, 16, 10, stride=10)),
        shifted_by(0, 0, 12, 9, stride=10),
    ),
    "resized": (lambda: Tower(lambda x: F.interpolate(x, (9, 12), mode="bilinear", align_corners=False)), WHOLE),
    "enlarged": (lambda: Tower(lambda x: F.interpolate(x, scale_factor=2.0)), WHOLE),
    "channels last": (lambda: Tower(lambda x: F.layer_norm(x.movedim(1, -1), (16,)).movedim(-1, 1)), WHOLE),
    "functional activation": (lambda: Tower(F.gelu), WHOLE),
    "rolled by nothing": (lambda: Tower(lambda x: x.roll(0, 2)), WHOLE),
}


@pytest.mark.parametrize(
    "name",
    by_default(TOWERS, "plain", "padded by a layer", "cropped at one side", "a stride that does not divide", "channels last"),
)
def test_the_default_site_of_a_tower_lies_where_its_layers_put_it(name):
    build, span = TOWERS[name]
    backbone = wrapped(shaken(build))
    assert backbone.sites[0].name == "mix"
    assert backbone.sites[0].layout.span == pytest.approx(span, abs=0.25 / 12)
    assert backbone.preprocess.stride == {"a stride that does not divide": 10, "enlarged": 4, "resized": 11}.get(name, 8)
    # An enlarged map has four cells for one that looks.
    assert_in_place(wrapped(quiet(shaken(build))), 1.0 if name == "enlarged" else 0.5)


def test_a_padded_map_is_laid_over_the_image_without_its_padding():
    """In the pixels of the image: the patch at row 3, column 10 of the image is row 4, column 11 of the map."""
    backbone = wrapped(shaken(TOWERS["padded by hand"][0]))
    result = Localizer(backbone)(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (192, 256, 3), dtype=np.uint8)), "ant"
    )
    assert result.placement.window == (0, 0, 256, 192)
    assert result.placement.cells == pytest.approx((-16, -16, 272, 208), abs=1)
    assert result.placement.locate(4, 11, result.map.shape) == pytest.approx((10.5 * 16, 3.5 * 16), abs=1)
    heatmap = result.heatmap()
    assert float(heatmap[3 * 16 + 8, 10 * 16 + 8]) == pytest.approx(
        float(result.map[4, 11]), abs=0.1 * float(result.map.abs().max())
    )


@pytest.mark.parametrize("name", ["padded by hand", "cropped", "half a cell up and left"])
def test_scales_of_a_map_that_covers_more_or_less_are_of_the_input(name):
    backbone = wrapped(shaken(TOWERS[name][0]))
    pixels = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(backbone.dtype)
    seen = trace(backbone, pixels, form="dense")
    directions = torch.randn(1, 1, seen.embedding.shape[1], generator=torch.Generator().manual_seed(1)).to(backbone.dtype)
    own = explain(hires_cam, seen, directions)
    torch.testing.assert_close(explain(at_scales(hires_cam, (1.0,)), seen, directions), own)
    larger = trace(
        backbone.at_size((192, 256)), F.interpolate(pixels, (192, 256), mode="bicubic", antialias=True), form="dense"
    )
    expected = (own + larger.layout.moved(explain(hires_cam, larger, directions), seen.layout)) / 2
    torch.testing.assert_close(explain(at_scales(hires_cam, (1.0, 2.0)), seen, directions), expected)


ELSEWHERE = {
    "axes exchanged": lambda: Tower(lambda x: x.transpose(2, 3)),
    "upside down": lambda: Tower(lambda x: x.flip(2)),
    "mirrored": lambda: Tower(lambda x: x.flip(3)),
    "rolled": lambda: Tower(lambda x: x.roll((3, 5), (2, 3))),
    "rows exchanged": lambda: Tower(lambda x: x[:, :, torch.arange(x.shape[2]).view(-1, 2).flip(1).flatten()]),
    "shuffled": lambda: Tower(
        lambda x: x.flatten(2)[..., torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(0))].view_as(x)
    ),
}


@pytest.mark.parametrize("name", by_default(ELSEWHERE, "axes exchanged", "shuffled"))
def test_a_map_in_another_order_is_not_offered(name):
    backbone = wrapped(shaken(ELSEWHERE[name]), (96, 96))
    assert [site.name for site in backbone.sites] == ["stem"]
    assert_in_place(backbone)


@pytest.mark.slow
def test_tokens_in_windows_are_not_offered_in_any_layout():
    backbone = wrapped(shaken(lambda: Windowed(as_map=True)))
    assert "stem" in [site.name for site in backbone.sites]
    assert "mix" not in [site.name for site in backbone.sites]
    backbone = wrapped(shaken(lambda: Windowed(as_map=False)))
    assert "norm1" not in [site.name for site in backbone.sites]
    assert_in_place(backbone)


def test_a_model_without_any_place_is_refused_with_the_reason():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.all, self.head = nn.Linear(96 * 96 * 3, 8 * 12 * 12), nn.Linear(8, 3)
            self.map = nn.Conv2d(8, 8, 1)

        def forward(self, pixels):
            return self.head(self.map(self.all(pixels.flatten(1)).view(-1, 8, 12, 12)).mean((2, 3)))

    with pytest.raises(
        BackboneError, match=r"no site whose cells lie in order on the image \(map: each of its cells sees the whole"
    ):
        wrapped(shaken(Mixed), (96, 96))


# ---- the map that enters the pooling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True], ids=["", "in place"])
@pytest.mark.parametrize("pool", [True, False], ids=["a layer pools", "a function pools"])
def test_an_activation_that_is_used_twice_is_part_of_the_map(inplace, pool):
    backbone = wrapped(shaken(lambda: Shared(inplace, pool)))
    site = backbone.sites[0]
    assert site.name == ("pool:input" if pool else "act:2")
    assert site.head is not None
    seen = trace(backbone, torch.randn(2, 3, *SIZE, dtype=torch.float64))
    model = backbone.module
    expected = torch.relu(model.second(torch.relu(model.first(seen.pixels)))).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen.tokens, expected)
    torch.testing.assert_close(seen.embedding, expected.mean(1))


@pytest.mark.parametrize("form", ["factored", "dense"])
@pytest.mark.parametrize(
    "build",
    [
        lambda: Shared(False),
        lambda: Shared(True, False),
        pytest.param(lambda: timm.create_model("resnet18", num_classes=3), marks=pytest.mark.slow),
    ],
    ids=["entering a layer", "second call", "resnet"],
)
def test_cam_grad_cam_and_hires_cam_are_one_at_the_map_that_enters_the_pooling(build, form):
    backbone = wrapped(shaken(build))
    model, pixels = backbone.module, torch.randn(2, 3, *SIZE, dtype=torch.float64)
    seen = trace(backbone, pixels, form=form)
    rows = backbone.embed_texts(CLASSES)[:, None]
    gradient = seen.gradient(rows)
    # CAM by hand: the class's row of the last layer at each cell of the map that is averaged.
    cells = seen.tokens.unflatten(1, (seen.layout.rows, seen.layout.cols))
    cam = torch.einsum("ke,bije->kbij", rows[:, 0], cells) / (seen.layout.rows * seen.layout.cols)
    bias = list(model.modules())[-1].bias if isinstance(list(model.modules())[-1], nn.Linear) else model.fc.bias
    torch.testing.assert_close(cam.sum((2, 3)).T + bias, model(pixels))
    for method in (grad_cam, hires_cam):
        torch.testing.assert_close(method(gradient), cam, rtol=1e-6, atol=1e-9)


def test_a_map_that_does_not_reach_the_embedding_is_no_site():
    backbone = wrapped(shaken(Auxiliary))
    assert [site.name for site in backbone.sites] == ["body", "stem"]
    assert backbone.sites[0].head is not None


def test_sites_are_in_the_order_in_which_maps_were_last_made():
    """A finer map again after a coarse one: it is the one that is pooled."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.down = nn.Conv2d(3, 16, 8, stride=8), nn.Conv2d(16, 16, 2, stride=2)
            self.up, self.head = nn.ConvTranspose2d(16, 16, 2, stride=2), nn.Linear(16, 3)

        def forward(self, pixels):
            return self.head(self.up(self.down(self.stem(pixels))).mean((2, 3)))

    backbone = wrapped(shaken(Decoder))
    assert [site.name for site in backbone.sites] == ["up", "down"]
    assert backbone.sites[0].head is not None


# ---- units at rest ----------------------------------------------------------------------------------------------------


class Resting(nn.Module):
    """Behind the mean a ReLU, two of whose units are at rest whatever the image."""

    def __init__(self, resting=2):
        super().__init__()
        self.stem, self.hidden, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 5), nn.Linear(5, 3)
        self.resting = resting

    def forward(self, pixels):
        bias = torch.tensor([-1e3] * self.resting + [1.0] * (5 - self.resting)).to(pixels)
        return self.head(torch.relu(self.hidden(self.stem(pixels).mean((2, 3))) + bias))


def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))


def test_a_unit_at_rest_has_no_evidence_and_stops_no_field():
    backbone = wrapped(shaken(Resting))
    (field,) = Localizer(backbone, form="dense").fields([image()])
    assert not field.vectors[..., :2].any()
    assert field.vectors[..., 2:].flatten(0, 1).any(0).all()
    result = Localizer(backbone, form="dense")(image(), "bee")
    torch.testing.assert_close(field(backbone.embed_texts(["bee"])[0]).float(), result.base_map, rtol=1e-5, atol=1e-9)


def test_where_every_unit_is_at_rest_the_message_says_so_and_not_that_the_site_is_blind():
    backbone = wrapped(shaken(Resting))
    seen = trace(backbone, torch.randn(1, 3, *SIZE, dtype=torch.float64), form="dense")
    with pytest.raises(NoSpatialGradient, match=r"Nothing at stem moves the score .* at rest"):
        seen.gradient(torch.eye(5, dtype=torch.float64)[:2, None]).mean()


# ---- the parts --------------------------------------------------------------------------------------------------------


def test_tents_add_up_to_one_and_peak_in_turn():
    of = tents(12, 4)
    torch.testing.assert_close(of.sum(0), torch.ones(12, dtype=torch.float64))
    assert of.argmax(1).tolist()[::3] == [0, 11]


@pytest.mark.parametrize(
    ("middle", "stride", "floor"), [(0.5, 1 / 7, 0.0), (0.43, 1 / 7, 0.1), (0.5, 1.28 / 7, 0.0), (0.52, 0.8 / 7, 0.6)]
)
def test_a_fit_finds_what_was_put_in(middle, stride, floor):
    put_in = Fit(middle, stride, 1.2 / 7, floor)
    found = fit(put_in.shares(7, 4), np.arange(7))
    assert (found.middle, found.stride) == pytest.approx((middle, stride), abs=0.15 / 7)


def test_receptive_fields_by_the_numbers_of_layers():
    model = timm.create_model("resnet18").eval()
    with torch.no_grad():
        known = receptive_fields(model, lambda: model(torch.zeros(1, 3, 64, 96)), (64, 96))
    # Each halving with an odd kernel and half its width of padding starts at the first pixel.
    assert known[2, 3] == (Axis(0.5, 32.0), Axis(0.5, 32.0))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, dilation=2), nn.AvgPool2d(3, 2))
    known = receptive_fields(pooled, lambda: pooled(torch.zeros(1, 3, 20, 20)), (20, 20))
    assert known[2, 2] == (Axis(1.0 + 2 * 2 + 2.0, 4.0),) * 2


def test_a_placement_is_put_back_by_what_its_cells_cover():
    """Two frames of one window; the second has a cell of padding around its map."""
    bare = Placement((10.0, 20.0, 90.0, 60.0), (80, 100))
    padded = bare.covering((-0.25, -0.5, 1.25, 1.5))
    assert padded.cells == (-10.0, 0.0, 110.0, 80.0)
    inner = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    outer = F.pad(inner, (1, 1, 1, 1))
    assert padded.locate(1, 1, outer.shape) == bare.locate(0, 0, inner.shape)
    assert padded.shown(outer.shape)[1:-1, 1:-1].all()
    assert not padded.shown(outer.shape)[0].any()
    # Between the centres of the inner cells both are the same, and what the model did not see stays unseen.
    ours, theirs = padded.project(outer), bare.project(inner)
    torch.testing.assert_close(ours[30:50, 20:80], theirs[30:50, 20:80])
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert padded.scaled((160, 200)).cells == (-20.0, 0.0, 220.0, 160.0)


def test_the_field_guides_encoder_lies_as_it_is():
    from concept_cam import world

    assert all(site.layout.span == WHOLE for site in world.localizer().backbone.sites)


class _Adapter(Backbone):
    """A user's own adapter, which says where tokens are read and is believed no more than any other."""

    name, family, dtype = "own", "a map of 6 x 6 cells", torch.float64
    preprocess = Preprocess((48, 48), (0.5,) * 3, (0.5,) * 3, stride=8)

    def __init__(self, between) -> None:
        self.versions = {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Conv2d(3, 32, 8, 8), between, nn.Conv2d(32, 32, 1)).double().eval()
        self.sites = (Site("2", self.module[2], FeatureMap()),)

    def embed_pixels(self, pixels):
        return self.module(pixels).mean((2, 3))

    def embed_texts(self, sentences):
        return torch.eye(32, dtype=torch.float64)[: len(sentences)]


class _Moved(nn.Module):
    def __init__(self, move) -> None:
        super().__init__()
        self.move = move

    def forward(self, x):
        return self.move(x)


def test_an_adapter_that_states_its_sites_is_measured_too():
    plain, padded = _Adapter(nn.Identity()), _Adapter(nn.ZeroPad2d(1))
    assert trace(plain, torch.zeros(1, 3, 48, 48, dtype=torch.float64)).layout.span == (0, 0, 1, 1)
    span = trace(padded, torch.zeros(1, 3, 48, 48, dtype=torch.float64)).layout.span
    assert span == pytest.approx((-1 / 6, -1 / 6, 7 / 6, 7 / 6), abs=1 / 24)
    turned = _Adapter(_Moved(lambda x: x.transpose(2, 3)))
    with pytest.raises(BackboneError, match="no site whose cells lie in order"):
        trace(turned, torch.zeros(1, 3, 48, 48, dtype=torch.float64))

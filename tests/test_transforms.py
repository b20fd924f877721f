"""A user's own preprocessing, read or run: the model gets the pixels that it makes, and its window is where marks come out."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
import transformers
from open_clip.transform import image_transform
from PIL import Image, ImageFilter, ImageOps
from slow import by_default
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torchvision import models, transforms as v1
from torchvision.transforms import v2

from concept_cam import Localizer, wrap
from concept_cam.backbones.transforms import read_transform
from concept_cam.backbones.usertransform import UserTransform
from concept_cam.errors import BackboneError, ImageError, OptionError
from concept_cam.images import Frame, Preprocess

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

SHAPES = [(301, 260), (211, 402), (640, 300)]
"""Width and height: nearly square, portrait, landscape."""

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
BICUBIC, NEAREST, BOX = v1.InterpolationMode.BICUBIC, v1.InterpolationMode.NEAREST, v1.InterpolationMode.BOX


def texture(width, height):
    return _texture(width, height).copy()


@cache
def _texture(width, height):
    rng = np.random.default_rng([width, height])
    coarse = Image.fromarray(rng.integers(60, 190, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8))
    values = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((values + rng.integers(-30, 30, values.shape)).clip(0, 255).astype(np.uint8))


def as_called(transform, image):
    return transform(image)


def as_processor(processor, image):
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


def as_albumentations(transform, image):
    shown = transform(image=np.array(image))["image"]
    return shown if isinstance(shown, torch.Tensor) else torch.from_numpy(shown).permute(2, 0, 1)


def torchvision(*steps, normalize=True, library=v1):
    return library.Compose([*steps, *([library.Normalize(MEAN, STD)] if normalize else [])])


def timms(name, **changes):
    return timm.data.create_transform(**timm.data.resolve_data_config(changes, model=timm.create_model(name)))


def albumentations(*names):
    """Steps by name and arguments; Normalize at the end."""
    A = pytest.importorskip("albumentations")
    return A.Compose([*(getattr(A, name)(**arguments) for name, arguments in names), A.Normalize(MEAN, STD)])


def _convert_image_to_rgb(image):
    """As in OpenAI's clip."""
    return image.convert("RGB")


def letterbox(image):
    """Fit in, on grey, at the left top: as YOLO's."""
    scale = 128 / max(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (128, 128), (114, 114, 114))
    canvas.paste(small, (0, 0))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1) / 255


def off_centre(image):
    """The right bottom three quarters."""
    width, height = image.size
    part = image.crop((width // 4, height // 4, width, height)).resize((112, 96))
    return v1.functional.to_tensor(part)


def as_opencv(image):
    """Without antialiasing, blue first, grey levels."""
    cv2 = pytest.importorskip("cv2")
    return cv2.resize(np.array(image), (120, 120)).astype(np.float32)[:, :, ::-1]


def fixed_aspect(image):
    return {"pixel_values": [np.array(image.resize((90, 60))).transpose(2, 0, 1) / 255]}


def blurred(image):
    return v1.functional.to_tensor(image.filter(ImageFilter.GaussianBlur(2)).resize((80, 80)))


def negative(image):
    return v1.functional.to_tensor(ImageOps.invert(image).resize((80, 80)))


def repeated_border(image):
    """Padded by its own last rows, to a square."""
    side = max(image.size)
    left, top = ((side - length) // 2 for length in image.size)
    padding = [left, top, side - image.width - left, side - image.height - top]
    return v1.functional.to_tensor(v1.functional.pad(image, padding, padding_mode="edge").resize((120, 120)))


def first_channel(image):
    values = v1.functional.to_tensor(image.resize((64, 64)))
    return torch.stack([values[1], torch.zeros(64, 64), 1 - values[2]])


class Own:
    """A transform with a state, that writes into what it gets and into what it gave."""

    def __init__(self):
        self.held = torch.zeros(3, 70, 70)

    def __call__(self, image):
        image.thumbnail((300, 300))
        self.held.copy_(v1.functional.to_tensor(image.resize((70, 70))))
        return self.held


def CLIP(kind="", **changes):  # noqa: N802
    return getattr(transformers, f"CLIPImageProcessor{kind}")(**changes)


PIL_KIND = "Pil" if hasattr(transformers, "CLIPImageProcessorPil") else ""


def of_transformers(name, kind=PIL_KIND, **changes):
    return getattr(transformers, f"{name}ImageProcessor{kind}")(**changes)


class Row(NamedTuple):
    make: Callable[[], Any]
    read: bool
    call: Callable[[Any, Image.Image], Any] = as_called


Norm = v2.Normalize(MEAN, STD)
ROWS = {
    # torchvision, first generation
    "v1, shorter side": Row(lambda: torchvision(v1.Resize(116), v1.CenterCrop(96), v1.ToTensor()), True),
    "v1, both sides": Row(lambda: torchvision(v1.Resize((96, 128)), v1.ToTensor()), True),
    "v1, nearest": Row(lambda: torchvision(v1.Resize((96, 96), NEAREST), v1.ToTensor()), True),
    "v1, filter of Pillow alone": Row(lambda: torchvision(v1.Resize((96, 96), BOX), v1.ToTensor()), False),
    "v1, cropped, then resized": Row(lambda: torchvision(v1.CenterCrop(180), v1.Resize(96), v1.ToTensor()), False),
    "v1, cropped before and after": Row(
        lambda: torchvision(v1.CenterCrop(200), v1.Resize(110), v1.CenterCrop(96), v1.ToTensor()), False
    ),
    "v1, resized twice": Row(lambda: torchvision(v1.Resize((200, 90)), v1.Resize((96, 96)), v1.ToTensor()), False),
    "v1, longest side": Row(lambda: torchvision(v1.Resize(90, max_size=100), v1.ToTensor()), False),
    "v1, shorter side, not cropped": Row(lambda: torchvision(v1.Resize(80), v1.ToTensor()), False),
    "v1, tensors": Row(lambda: torchvision(v1.ToTensor(), v1.Resize(116), v1.CenterCrop(96)), False),
    "v1, tensors, not smoothed": Row(lambda: torchvision(v1.ToTensor(), v1.Resize((96, 96), antialias=False)), False),
    "v1, tensors, nearest": Row(lambda: torchvision(v1.ToTensor(), v1.Resize((96, 90), NEAREST)), False),
    "v1, grey": Row(lambda: torchvision(v1.Resize((96, 96)), v1.Grayscale(3), v1.ToTensor()), False),
    "v1, padded first": Row(lambda: torchvision(v1.Pad((30, 10), 77), v1.Resize((96, 96)), v1.ToTensor()), False),
    "v1, padded last": Row(lambda: torchvision(v1.Resize((80, 80)), v1.ToTensor(), v1.Pad((3, 9, 1, 2))), False),
    "v1, normalised twice": Row(lambda: torchvision(v1.Resize((96, 96)), v1.ToTensor(), v1.Normalize(MEAN, STD)), False),
    "v1, not normalised": Row(lambda: torchvision(v1.Resize((96, 96)), v1.ToTensor(), normalize=False), False),
    "v1, grey levels": Row(lambda: torchvision(v1.Resize((96, 96)), v1.PILToTensor(), normalize=False), False),
    "v1, larger crop than image": Row(lambda: torchvision(v1.CenterCrop((330, 500)), v1.ToTensor()), False),
    "v1, crop larger than resize": Row(lambda: torchvision(v1.Resize(80), v1.CenterCrop(96), v1.ToTensor()), False),
    "v1, inner compose": Row(lambda: torchvision(v1.Compose([v1.Resize(116), v1.CenterCrop(96)]), v1.ToTensor()), False),
    "v1, preset": Row(models.ResNet50_Weights.IMAGENET1K_V2.transforms, True),
    "v1, preset of Swin": Row(models.Swin_T_Weights.IMAGENET1K_V1.transforms, True),
    # torchvision, second generation
    "v2, of images": Row(
        lambda: v2.Compose([v2.Resize(116), v2.CenterCrop(96), v2.ToImage(), v2.ToDtype(torch.float32, True), Norm]), True
    ),
    "v2, of tensors": Row(
        lambda: v2.Compose([v2.ToImage(), v2.Resize(116), v2.CenterCrop(96), v2.ToDtype(torch.float32, True), Norm]), False
    ),
    "v2, not scaled": Row(lambda: v2.Compose([v2.Resize((96, 96)), v2.ToImage(), v2.ToDtype(torch.float32), Norm]), False),
    "v2, half precision": Row(lambda: v2.Compose([v2.Resize((96, 96)), v2.ToImage(), v2.ToDtype(torch.float16, True)]), False),
    "v2, longest side alone": Row(lambda: v2.Compose([v2.Resize(None, max_size=100), v2.ToImage()]), False),
    "v2, a step not known": Row(
        lambda: v2.Compose([v2.Resize((96, 64)), v2.ToImage(), v2.ToDtype(torch.float32, True), v2.ToPureTensor(), Norm]),
        False,
    ),
    # timm and open_clip
    "timm, resnet18": Row(lambda: timms("resnet18"), True),
    "timm, SigLIP": Row(lambda: timms("vit_base_patch16_siglip_224"), True),
    "timm, border": Row(lambda: timms("resnet18", crop_mode="border", crop_pct=0.9), False),
    "timm, not square": Row(lambda: timms("resnet18", input_size=(3, 160, 224)), False),
    "timm, half of the way": Row(
        lambda: torchvision(ResizeKeepRatio(96, longest=0.5), CenterCropOrPad(96), v1.ToTensor()), False
    ),
    "open_clip, shortest": Row(lambda: image_transform(224, is_train=False, resize_mode="shortest"), True),
    "open_clip, longest": Row(lambda: image_transform(224, is_train=False, resize_mode="longest", fill_color=9), True),
    "open_clip, squash": Row(lambda: image_transform(224, is_train=False, resize_mode="squash"), True),
    "open_clip, not square": Row(lambda: image_transform((160, 224), is_train=False, resize_mode="shortest"), True),
    # OpenAI's clip
    "clip": Row(lambda: torchvision(v1.Resize(112, BICUBIC), v1.CenterCrop(112), _convert_image_to_rgb, v1.ToTensor()), False),
    "clip, with a lambda": Row(
        lambda: torchvision(v1.Resize(112, BICUBIC), v1.CenterCrop(112), lambda i: i.convert("RGB"), v1.ToTensor()), False
    ),
    # transformers
    "CLIP": Row(lambda: of_transformers("CLIP"), False, as_processor),
    "CLIP by torchvision": Row(lambda: of_transformers("CLIP", ""), False, as_processor),
    "CLIP, not cropped": Row(lambda: of_transformers("CLIP", do_center_crop=False), False, as_processor),
    "CLIP, not resized": Row(lambda: of_transformers("CLIP", do_resize=False), False, as_processor),
    "CLIP, neither": Row(lambda: of_transformers("CLIP", do_resize=False, do_center_crop=False), False, as_processor),
    "CLIP, not rescaled": Row(lambda: of_transformers("CLIP", do_rescale=False), False, as_processor),
    "CLIP, not normalised": Row(lambda: of_transformers("CLIP", do_normalize=False), False, as_processor),
    "CLIP, a crop of one number": Row(lambda: of_transformers("CLIP", crop_size=200), False, as_processor),
    "CLIP, crop larger than resize": Row(lambda: of_transformers("CLIP", crop_size=240), False, as_processor),
    "CLIP, not square": Row(lambda: of_transformers("CLIP", crop_size={"height": 160, "width": 200}), False, as_processor),
    "CLIP, both sides": Row(
        lambda: of_transformers("CLIP", size={"height": 240, "width": 300}, crop_size=224), False, as_processor
    ),
    "SigLIP": Row(lambda: of_transformers("Siglip"), True, as_processor),
    "SigLIP by torchvision": Row(lambda: of_transformers("Siglip", ""), False, as_processor),
    "ViT": Row(lambda: of_transformers("ViT"), True, as_processor),
    "ConvNeXt": Row(lambda: of_transformers("ConvNext", size={"shortest_edge": 224}), False, as_processor),
    "EfficientNet": Row(lambda: of_transformers("EfficientNet"), True, as_processor),
    "BLIP": Row(lambda: of_transformers("Blip"), True, as_processor),
    "ViLT, the longest side bounded": Row(
        lambda: of_transformers("Vilt", size={"shortest_edge": 96}, size_divisor=8), False, as_processor
    ),
    "DETR, padded": Row(lambda: of_transformers("Detr", size={"shortest_edge": 90, "longest_edge": 120}), False, as_processor),
    "a function around a processor": Row(
        lambda: lambda image: of_transformers("CLIP")(image, return_tensors="np"), False, lambda f, i: f(i)["pixel_values"][0]
    ),
    # albumentations
    "albumentations, both sides": Row(
        lambda: albumentations(("Resize", {"height": 96, "width": 112})), False, as_albumentations
    ),
    "albumentations, shorter side": Row(
        lambda: albumentations(("SmallestMaxSize", {"max_size": 116}), ("CenterCrop", {"height": 96, "width": 90})),
        False,
        as_albumentations,
    ),
    "albumentations, padded": Row(
        lambda: albumentations(
            ("LongestMaxSize", {"max_size": 96}), ("PadIfNeeded", {"min_height": 96, "min_width": 96, "border_mode": 0})
        ),
        False,
        as_albumentations,
    ),
    "albumentations, a crop by numbers": Row(
        lambda: albumentations(("Crop", {"x_min": 20, "y_min": 31, "x_max": 180, "y_max": 240})), False, as_albumentations
    ),
    # own functions
    "letterbox": Row(lambda: letterbox, False),
    "off centre": Row(lambda: off_centre, False),
    "opencv": Row(lambda: as_opencv, False, lambda f, i: torch.from_numpy(f(i).copy()).permute(2, 0, 1)),
    "a dict of lists": Row(lambda: fixed_aspect, False, lambda f, i: torch.from_numpy(f(i)["pixel_values"][0])),
    "blurred": Row(lambda: blurred, False),
    "negative": Row(lambda: negative, False),
    "its border repeated": Row(lambda: repeated_border, False),
    "channels changed": Row(lambda: first_channel, False),
    "with a state": Row(Own, False, lambda t, i: t(i.copy()).clone()),
}


FEW = (
    *("v1, shorter side", "v1, both sides", "v1, cropped, then resized", "v1, tensors", "v1, padded last", "v1, preset"),
    *("v2, of images", "v2, of tensors", "v2, longest side alone", "timm, resnet18", "timm, border", "open_clip, longest"),
    *("open_clip, squash", "clip", "CLIP", "CLIP, not cropped", "ViT", "DETR, padded", "albumentations, padded", "letterbox"),
    *("off centre", "opencv", "a dict of lists", "with a state"),
)


@pytest.fixture(scope="module", params=by_default(ROWS, *FEW))
def row(request):
    row = ROWS[request.param]
    transform = row.make()
    return row, transform, read_transform(transform)


def test_what_is_read_and_what_is_run(row):
    row, _, preparation = row
    assert isinstance(preparation, Preprocess) == row.read


def grey_levels(preparation, off):
    """A difference of pixels: of what was read in grey levels."""
    if isinstance(preparation, Preprocess):
        return off * torch.tensor(preparation.std)[:, None, None] * 255
    return off


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_pixels_are_those_of_the_transform(row, shape):
    """To the bit where it is run; to the rounding of single precision where it was read."""
    row, transform, preparation = row
    ours, theirs = Frame.of(texture(*shape), preparation).pixels, torch.as_tensor(row.call(transform, texture(*shape)))
    assert ours.shape == theirs.shape
    off = grey_levels(preparation, (ours - theirs.as_subclass(torch.Tensor)).abs())
    assert float(off.max()) <= (0.01 if row.read else 0)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_mark_on_the_image_comes_out_where_the_window_says(row, shape):
    """Near each corner of what is shown: the change that a mark makes has its centre where the window puts it."""
    row, transform, preparation = row
    frame = Frame.of(texture(*shape), preparation)
    left, top, right, bottom = frame.placement.window
    seen_left, seen_top = max(0, left), max(0, top)
    seen_right, seen_bottom = min(shape[0], right), min(shape[1], bottom)
    step = (right - left) / frame.size[1], (bottom - top) / frame.size[0]
    plain = torch.as_tensor(row.call(transform, texture(*shape))).double()
    for share_x in (0.12, 0.88):
        for share_y in (0.12, 0.88):
            centre = seen_left + share_x * (seen_right - seen_left), seen_top + share_y * (seen_bottom - seen_top)
            bump = np.ones((shape[1], shape[0], 1))
            for axis, reach in enumerate(((seen_bottom - seen_top) / 12, (seen_right - seen_left) / 12)):
                away = (np.arange(bump.shape[axis]) + 0.5 - centre[1 - axis]) / max(reach, 2)
                line = np.cos(np.pi / 2 * away.clip(-1, 1)) ** 2
                bump = bump * np.expand_dims(line, [k for k in range(3) if k != axis])
            values = np.array(texture(*shape)) + np.round(60 * bump)
            marked = torch.as_tensor(row.call(transform, Image.fromarray(values.astype(np.uint8)))).double()
            change = (marked - plain).as_subclass(torch.Tensor).abs().sum(0)
            change[change < 0.1 * change.max()] = 0
            found = [
                float((change.sum(axis) * (torch.arange(change.shape[1 - axis]) + 0.5)).sum() / change.sum())
                for axis in (0, 1)
            ]
            where = left + found[0] * step[0], top + found[1] * step[1]
            for axis in (0, 1):
                assert abs(where[axis] - centre[axis]) <= 1, (where, centre, step)


# ---- refused ----------------------------------------------------------------------------------------------------------


def compose(*steps):
    return lambda: torchvision(*steps)


def own_generator():
    generator = np.random.default_rng(0)
    return lambda image: v1.functional.to_tensor(ImageOps.mirror(image) if generator.random() < 0.5 else image)


def trimmed(image):
    """Its black border cut off."""
    box = Image.fromarray(np.where(np.array(image.convert("L")) > 40, 255, 0).astype(np.uint8)).getbbox() or (0, 0, 9, 9)
    return v1.functional.to_tensor(image.crop(box).resize((64, 64)))


def trimmed_or_whole(image):
    box = Image.fromarray(np.where(np.array(image.convert("L")) > 40, 255, 0).astype(np.uint8)).getbbox()
    return v1.functional.to_tensor(image.crop(box).resize((64, 64)))


def standardised(image):
    values = v1.functional.to_tensor(image.resize((64, 64)))
    return (values - values.mean()) / (values.std() + 1e-6)


def turned_if_tall(image):
    image = image.transpose(Image.Transpose.ROTATE_90) if image.height > image.width else image
    return v1.functional.to_tensor(image.resize((64, 64)))


def not_finite(image):
    return torch.log(v1.functional.to_tensor(image) - 0.5)


tensor = v1.ToTensor()
REFUSED = {
    "random crop": (compose(v1.Resize(96), v1.RandomCrop(90), tensor), "is random"),
    "random flip": (compose(v1.Resize((96, 96)), v1.RandomHorizontalFlip(), tensor), "is random"),
    "random resized crop": (lambda: v2.Compose([v2.RandomResizedCrop(96), v2.ToImage()]), "is random"),
    "random erasing": (compose(v1.Resize((96, 96)), tensor, v1.RandomErasing(0.01)), "is random"),
    "colour jitter": (compose(v1.Resize((96, 96)), v1.ColorJitter(0.1), tensor), "is random"),
    "training transform of open_clip": (lambda: image_transform(96, is_train=True), "is random"),
    "generator of its own": (own_generator, "is random"),
    "albumentations, flip": (
        lambda: albumentations(("Resize", {"height": 96, "width": 96}), ("HorizontalFlip", {"p": 0.01})),
        "is random",
    ),
    "albumentations, random crop": (lambda: albumentations(("RandomCrop", {"height": 96, "width": 96})), "is random"),
    "five crops": (lambda: torchvision(v1.FiveCrop(96), normalize=False), "gives a tuple of 5; expected one tensor"),
    "five crops, stacked": (
        compose(v1.FiveCrop(96), lambda crops: torch.stack([tensor(crop) for crop in crops])),
        "gives a tensor of 5 x 3 x 96 x 96",
    ),
    "mirrored": (compose(v1.functional.hflip, v1.Resize((96, 96)), tensor), "mirrors or turns it"),
    "upside down": (compose(v1.Resize((96, 96)), v1.functional.vflip, tensor), "mirrors or turns it"),
    "turned": (compose(lambda image: image.rotate(90, expand=True), v1.Resize((96, 96)), tensor), "mirrors or turns it"),
    "turned by 180": (compose(lambda image: image.rotate(180), v1.Resize((96, 96)), tensor), "mirrors or turns it"),
    "turned by 3": (compose(lambda image: image.rotate(3), v1.Resize((96, 96)), tensor), "warps"),
    "transposed": (compose(v1.Resize((96, 96)), tensor, lambda pixels: pixels.mT), "mirrors or turns it"),
    "turned if tall": (lambda: turned_if_tall, r"an image of 500 x 375, mirrors or turns"),
    "warped": (
        compose(
            v1.Resize((96, 96)),
            lambda i: v1.functional.perspective(i, [[0, 0], [96, 0], [96, 96], [0, 96]], [[0, 0], [90, 9], [96, 96], [0, 96]]),
            tensor,
        ),
        "warps",
    ),
    "reflected": (compose(v1.Resize((96, 96)), v1.Pad(40, padding_mode="reflect"), tensor), "repeats"),
    "tiled": (compose(v1.Resize((48, 48)), tensor, lambda pixels: pixels.repeat(1, 2, 2)), "repeats"),
    "cropped, then padded": (
        compose(v1.CenterCrop(200), v1.Resize((96, 96)), v1.Pad(8), tensor),
        "covers a part of it by padding",
    ),
    "cropped, its border repeated": (
        compose(v1.CenterCrop(200), v1.Resize((96, 96)), v1.Pad(9, padding_mode="edge"), tensor),
        "covers a part of it by padding",
    ),
    "gamma": (compose(v1.Resize((96, 96)), lambda image: v1.functional.adjust_gamma(image, 2), tensor), "other than linearly"),
    "autocontrast": (compose(v1.Resize((96, 96)), ImageOps.autocontrast, tensor), "depending on what is on it"),
    "trimmed": (lambda: trimmed, "another window of it"),
    "trimmed or whole": (lambda: trimmed_or_whole, "another window of it"),
    "standardised": (lambda: standardised, "contrast depending on what is on it"),
    "constant": (lambda: lambda image: torch.zeros(3, 9, 9), "the same for a bright image as for a dark one"),
    "not finite": (lambda: not_finite, "not finite"),
    "one channel": (lambda: torchvision(v1.Grayscale(), tensor, normalize=False), "gives a tensor of 1 x 431 x 640"),
    "no tensor": (lambda: torchvision(v1.Resize(96), normalize=False), "gives a Image; expected one tensor"),
    "nothing": (lambda: lambda image: None, "gives a NoneType"),
    "another dict": (lambda: lambda image: {"x": 1, "y": 2}, "gives a dict of x, y; expected pixel_values or image"),
    "for tensors": (lambda: torch.nn.Sequential(v1.Normalize(MEAN, STD)), r"fails \(TypeError.*RGB image of PIL"),
    "a string": (lambda: "resize", "str is no preprocessing"),
    "empty": (lambda: v1.Compose([]), "gives a Image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_gives_no_window_is_refused_in_a_line(name):
    make, message = REFUSED[name]
    torch.manual_seed(0)  # with this one the crops of open_clip's show what else is wrong first
    with pytest.raises(BackboneError, match=message) as error:
        read_transform(make())
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# ---- in use -----------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """A CNN for inputs of any size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 8, 8)
        self.linear = torch.nn.Linear(8, 3)

    def forward(self, pixels):
        return self.linear(self.conv(pixels).relu().mean((2, 3)))


def wrapped(transform):
    return wrap(Net(), preprocess=transform, classes=["a", "b", "c"])


def test_the_model_gets_what_the_transform_gives():
    transform = v1.Compose([v1.CenterCrop(160), v1.Resize(64), v1.ToTensor()])
    localizer = Localizer(wrapped(transform))
    image = texture(220, 180)
    assert torch.equal(localizer.frame(image).pixels, transform(image))
    assert localizer.frame(image).placement.window == pytest.approx((30, 10, 190, 170), abs=0.2)
    heat = localizer(image, "a", strength=0).heatmap()
    assert heat[:, 31:189][11:169].isfinite().all()
    assert heat[:, :29].isnan().all()
    assert heat[172:].isnan().all()


def test_inputs_of_the_images_own_aspect():
    """What a transform gives may be of another size for each image: each goes through the model at its own."""
    transform = v1.Compose([v1.Resize(64), lambda image: image.crop((0, 0, image.width // 8 * 8, 64)), v1.ToTensor()])
    localizer = Localizer(wrapped(transform))
    results = localizer.batch([texture(200, 100), texture(100, 100)], "a", strength=0)
    assert [tuple(result.map.shape) for result in results] == [(8, 16), (8, 8)]
    assert localizer.preprocess.size == (64, 64)


@pytest.mark.parametrize("options", [{"size": 96}, {"size": (64, 96)}, {"fit": "pad"}, {"size": 64, "fit": "crop"}])
def test_other_sizes_of_a_transform_that_is_run_are_refused(options):
    backbone = wrapped(v1.Compose([v1.CenterCrop(160), v1.Resize(64), v1.ToTensor()]))
    with pytest.raises(OptionError, match="the transform Compose is run as it is; change the transform") as error:
        Localizer(backbone, **options)
    assert "\n" not in str(error.value)
    assert Localizer(backbone, size=64).preprocess is backbone.preprocess
    assert Localizer(backbone, size=(64, 64), fit=None).preprocess is backbone.preprocess


def test_other_sizes_of_what_differs_by_a_few_grey_levels():
    """As processors of transformers that resize by torchvision: they are run, but what was read has other sizes and fits."""
    steps = [v2.ToImage(), v2.Resize(72), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    backbone = wrapped(v2.Compose(steps))
    assert isinstance(backbone.preprocess, UserTransform)
    larger = Localizer(backbone, size=128).preprocess
    assert larger == Preprocess((128, 128), MEAN, STD, interpolation="bilinear", shortest=144, stride=larger.stride)
    padded = Localizer(backbone, fit="pad").preprocess
    assert (padded.size, padded.fit, padded.shortest) == ((64, 64), "pad", None)


def test_what_is_refused_for_one_image_alone():
    def turned_if_long(image):
        if image.width > 3 * image.height:
            image = image.transpose(Image.Transpose.ROTATE_90)
        return v1.functional.to_tensor(image.resize((64, 64)))

    localizer = Localizer(wrapped(turned_if_long))
    failed = []
    images = [texture(90, 80), texture(400, 80), texture(80, 90)]
    results = localizer.stream(images, "a", strength=0, on_error=lambda image, error: failed.append((image, str(error))))
    seen = [image for image, _ in results]
    assert seen == [images[0], images[2]]
    assert [image for image, _ in failed] == [images[1]]
    assert "given an image of 80 x 400, mirrors or turns it" in failed[0][1]


@pytest.mark.parametrize(
    "shape", by_default([(1, 1), (1, 9), (9, 1), (3, 40), (5, 5), (7, 30), (12, 12), (40, 2), (900, 20), (1, 5000)], (3, 40))
)
def test_windows_of_small_and_narrow_images(shape):
    """Nobody can see where an image of a pixel begins and ends: to a pixel all the same."""
    squashed = read_transform(lambda image: v1.functional.to_tensor(image.resize((64, 48))))
    window = Frame.of(texture(*shape), squashed).placement.window
    assert window == pytest.approx((0, 0, *shape), abs=0.5)
    padded = read_transform(
        torchvision(v1.ToTensor(), lambda pixels: v1.functional.pad(pixels, [8, 4, 8, 4]), normalize=False)
    )
    frame = Frame.of(texture(*shape), padded)
    assert frame.placement.window == pytest.approx((-8, -4, shape[0] + 8, shape[1] + 4), abs=0.2)


def test_of_a_narrow_image_the_window_is_right_or_none_is_given():
    preparation = read_transform(torchvision(v1.CenterCrop(170), v1.Resize(96), v1.CenterCrop(96), v1.ToTensor()))
    window = Frame.of(texture(20, 2000), preparation).placement.window
    assert window == pytest.approx((-75, 915, 95, 1085), abs=1)
    with pytest.raises(ImageError, match="given an image of 2000 x 1, shows too little of it to find its window; crop"):
        Frame.of(texture(1, 2000), preparation)


def test_a_window_is_found_once_for_a_size():
    runs = []

    def counted(image):
        runs.append(image.size)
        return v1.functional.to_tensor(image.resize((64, 64)))

    preparation = read_transform(counted)
    del runs[:]
    for _ in range(3):
        Frame.of(texture(200, 100), preparation)
    Frame.of(texture(100, 200), preparation)
    assert runs == [(200, 100)] * (1 + 5 + 2) + [(100, 200)] * (1 + 5)


def test_what_is_changed_later_is_not_seen():
    """One transform, one window: a copy is taken."""
    transform = v1.Compose([v1.CenterCrop(100), v1.Resize((64, 64)), v1.ToTensor()])
    preparation, image = read_transform(transform), texture(200, 150)
    before = Frame.of(image, preparation)
    transform.transforms[0].size = (50, 50)
    after = Frame.of(image, preparation)
    assert torch.equal(before.pixels, after.pixels)
    assert before.placement.window == pytest.approx((50, 25, 150, 125), abs=0.2)


def test_the_image_and_the_generators_are_left_as_they_were():
    image = texture(90, 80)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    Frame.of(image, read_transform(Own()))
    with pytest.raises(BackboneError):
        read_transform(v1.Compose([v1.RandomCrop(50), v1.ToTensor()]))
    assert image.tobytes() == texture(90, 80).tobytes()
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


def test_it_pickles_as_its_transform_does():
    preparation = read_transform(v1.Compose([v1.CenterCrop(100), v1.Resize((64, 64)), v1.ToTensor()]))
    other = pickle.loads(pickle.dumps(preparation))
    ours, theirs = (Frame.of(texture(200, 150), one) for one in (preparation, other))
    assert torch.equal(ours.pixels, theirs.pixels)
    assert ours.placement == theirs.placement


def test_a_preprocess_is_taken_as_it_is():
    given = Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3)
    assert read_transform(given) is given
    run = read_transform(letterbox)
    assert read_transform(run) is run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 96)}, r"size is \(0, 96\); expected \(height, width\)"),
        ({"mean": (0.5,)}, r"mean is \(0.5,\); expected three finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "expected three finite numbers"),
        ({"std": (0.5,) * 4}, "std is .* expected three finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "expected no zero"),
        ({"shortest": 95}, "shortest is 95; expected at least 96"),
        ({"fill": 256}, "expected a grey level from 0 to 255"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_a_preprocess_of_senseless_values_is_refused(changes, message):
    with pytest.raises(OptionError, match=message) as error:
        Preprocess(**{"size": (96, 96), "mean": (0.5,) * 3, "std": (0.5,) * 3} | changes)
    assert "\n" not in str(error.value)

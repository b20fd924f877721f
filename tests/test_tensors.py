"""Images that are tensors already: the model's input as they are. Maps that stay where the model is."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from slow import by_default
from zoo import classifiers, families

from concept_cam import Localization, Localizer, world, wrap
from concept_cam.drawing import overlay
from concept_cam.errors import BackboneError, ImageError, OptionError
from concept_cam.methods import grad_cam, hires_cam
from concept_cam.parts import find_parts, read_parts

# The embeddings of models that have learnt nothing are not alike.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no more like:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not say how its images are prepared:UserWarning"),
]

PAIR = ("ember finch", "frost finch")


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def localizer():
    return Localizer(zoo.backbone("class token"), vocabulary=zoo.WORDS, templates=["a {}"])


@pytest.fixture(scope="module")
def pixels(localizer):
    return torch.stack([localizer.frame(noise(seed)).pixels for seed in range(3)])


def test_a_tensor_is_the_input_of_the_model_as_it_is(localizer, pixels):
    """As of the image that it was made of, in every way to ask; the same values, the same map."""
    expected = [localizer(noise(seed), "red crown", "bird") for seed in range(3)]
    several = [pixels, list(pixels), [pixels[:1], noise(1), pixels[2]]]
    found = [result for given in several for result in localizer.batch(given, "red crown", "bird")]
    found += [localizer(one, "red crown", "bird") for one in pixels]
    found += [localizer(pixels[i : i + 1], "red crown", "bird") for i in range(3)]
    found += [result for _, result in localizer.stream(pixels, "red crown", "bird", batch_size=2)]
    found += [localizer.sweep(one, "red crown", "bird", strengths=[0.6])[0] for one in pixels]
    found += [localizer.against_each(one, "red crown", "bird", strength=0.6)[0] for one in pixels]
    bank = localizer.bank(["red crown", "bird"])
    found += [field.localize(bank, "red crown", "bird") for field in localizer.fields(pixels)]
    for result, own in zip(found, expected * 9, strict=True):
        torch.testing.assert_close(result.map, own.map, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(result.base_map, own.base_map, rtol=1e-5, atol=1e-8)
        assert result.scores == pytest.approx(own.scores, abs=1e-6)
    assert len(localizer.batch(pixels[0], "bird", strength=0)) == 1


def test_its_map_lies_in_its_own_pixels(localizer, pixels):
    result = localizer(pixels[0], "red crown", "bird")
    assert result.heatmap().shape == (24, 40)
    assert not result.heatmap().isnan().any()
    row, col = divmod(int(result.map.argmax()), 5)
    x, y = result.peak()  # within a patch of the centre of the strongest
    assert abs(x - (8 * col + 4)) < 8
    assert abs(y - (8 * row + 4)) < 8
    assert overlay(result, noise(0)).size == (40, 24)


def test_precision_device_and_graph_are_the_models_affair(localizer, pixels):
    expected = localizer(pixels[0], "red crown", "bird")
    with torch.inference_mode():
        frozen = pixels[0].clone()
    asked = pixels[0].clone().requires_grad_()
    for given in (pixels[0].double(), frozen, asked, pixels[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        result = localizer(given, "red crown", "bird")
        torch.testing.assert_close(result.map, expected.map, rtol=1e-5, atol=1e-8)
        assert not result.map.requires_grad
    assert asked.grad is None
    rough = localizer(pixels[0].bfloat16(), "red crown", "bird")
    assert 0 < (rough.map - expected.map).norm() < 0.05 * expected.map.norm()
    before = pixels.clone()
    localizer.batch(pixels, "red crown", "bird")
    assert torch.equal(before, pixels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(24, 40), r"shape \(24, 40\) is no image; expected \(3, height, width\)"),
        (torch.zeros(1, 24, 40), r"expected \(3, height, width\)"),
        (torch.zeros(4, 24, 40), r"expected \(3, height, width\)"),
        (torch.zeros(24, 40, 3), "channels come first: permute it"),
        (torch.zeros(1, 24, 40, 3), "channels come first: permute it"),
        (torch.zeros(2, 3, 24, 40), "is 2 images; give it to batch"),
        (torch.zeros(0, 3, 24, 40), "is 0 images"),
        (torch.zeros(3, 0, 40), "is no image"),
        (torch.zeros(1, 1, 3, 24, 40), "is no image"),
        (torch.zeros(3, 24, 40, dtype=torch.uint8), "torch.uint8 is no input of a model; normalise it"),
        (torch.zeros(3, 24, 40, dtype=torch.int64), "torch.int64 is no input"),
        (torch.zeros(3, 24, 40, dtype=torch.bool), "torch.bool is no input"),
        (torch.zeros(3, 24, 40, dtype=torch.complex64), "torch.complex64 is no input"),
        (torch.full((3, 24, 40), float("nan")), "not finite"),
        (torch.full((3, 24, 40), float("-inf")), "not finite"),
        (np.zeros((3, 24, 40), dtype=np.float32), "ndarray is no image"),
    ],
)
def test_what_is_no_input_is_refused(localizer, given, message):
    for call in (lambda: localizer(given, "bird", strength=0), lambda: next(localizer.stream([given], "bird", strength=0))):
        with pytest.raises(ImageError, match=message):
            call()


def test_in_a_batch_too(localizer):
    for given in (torch.zeros(2, 1, 24, 40), [torch.zeros(2, 3, 24, 40)], torch.zeros(24, 40), [torch.zeros(24, 40)]):
        with pytest.raises(ImageError, match="shape"):
            localizer.batch(given, "bird", strength=0)
        with pytest.raises(ImageError, match="shape"):
            localizer.fields(given)
    found = list(localizer.stream([torch.zeros(24, 40), torch.ones(3, 24, 40)], "bird", strength=0, on_error=lambda *_: None))
    assert len(found) == 1


def test_values_that_were_hardly_normalised_are_told(localizer):
    bright = 255 * torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="values up to 25.; .* was it normalised"):
        localizer(bright, "bird", strength=0)


def test_a_size_is_taken_or_refused(localizer):
    result = localizer(torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0)), "red crown", "bird")
    assert result.map.shape == (4, 6)
    assert result.provenance["input"]["size"] == [32, 48]
    with pytest.raises(BackboneError, match="25"):
        localizer(torch.zeros(3, 25, 40), "red crown", "bird")


FEW = ("open_clip ViT", "open_clip ResNet", "ConvNeXt", "transformers CLIP", "transformers SigLIP 2 NaFlex", "timm Swin")


@pytest.mark.parametrize(
    "name", by_default([*FEW, "torchvision ViT", "timm ResNet", "a user's own"], "open_clip ViT", "a user's own")
)
def test_of_every_kind_of_model(name):
    """As of the image at the model's own size; at any other a map in the tensor's own pixels, or one line."""
    row = families.ROWS[name]
    backbone = row.wrapped(row.build())
    own = Localizer(backbone, templates=None if backbone.classes else ["a {}"])
    height, width = backbone.preprocess.size
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    target = backbone.classes[0] if backbone.classes else "bird"
    given = own.frame(image).pixels
    assert torch.equal(own(given, target, strength=0).map, own(image, target, strength=0).map)
    for size in ((height + 1, width), (2 * height, 2 * width), (4, 4), (1, 1)):
        with suppress(BackboneError):
            result = own(torch.randn(3, *size, generator=torch.Generator().manual_seed(0)), target, strength=0)
            assert result.heatmap().shape == size


@pytest.mark.parametrize("options", [{"size": (32, 48)}, {"fit": "pad"}, {"fit": "pad", "size": (32, 48)}])
def test_what_was_chosen_for_images_is_not_dropped(localizer, options):
    own = Localizer(localizer.backbone, templates=["a {}"], **options)
    with pytest.raises(OptionError, match=f"was told a {' and a '.join(sorted(options))}, but a tensor of 24 x 40"):
        own(torch.zeros(3, 24, 40), "bird", strength=0)
    if "fit" not in options:
        grid = own(torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0)), "bird", strength=0).map.shape
        assert grid == (4, 6)


@pytest.mark.slow
def test_of_a_classifier():
    model = classifiers.timm_resnet()
    localizer = Localizer(wrap(model, classes=classifiers.CLASSES), method=grad_cam)
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(pixels.double())
    for result, row in zip(localizer.batch(pixels), logits, strict=True):
        assert result.comparison.target == classifiers.CLASSES[int(row.argmax())]
        assert result.scores[result.comparison.target] == pytest.approx(float(row.max()), rel=1e-4)


@pytest.mark.slow
def test_parts_of_a_tensor():
    guide, birds = world.localizer(), read_parts("world-parts")
    plate = world.draw_species(PAIR[0], seed=3).image.resize((96, 96), Image.Resampling.BICUBIC)
    ours, theirs = find_parts(guide, guide.frame(plate).pixels, birds), find_parts(guide, plate, birds)
    assert [part.visible for part in ours.parts] == [part.visible for part in theirs.parts]
    assert ours["crown"].keypoint == pytest.approx(theirs["crown"].keypoint, abs=1e-3)


# ---- maps that stay ---------------------------------------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", by_default(["auto", "dense"], "auto"))
def test_maps_stay_on_the_device_in_the_precision_of_the_model(device, dtype, form, tmp_path):
    model = zoo.half(dtype) if dtype is torch.bfloat16 else zoo.tiny_clip().to(dtype)
    backbone = wrap(model.to(device), zoo.TOKENIZER)
    usual = Localizer(backbone, templates=["a {}"], method=hires_cam, form=form)
    staying = Localizer(backbone, templates=["a {}"], method=hires_cam, form=form, on_device=True)
    own, kept = (one(noise(0), "red crown", "bird") for one in (usual, staying))
    assert (own.map.device.type, own.map.dtype) == ("cpu", torch.float32)
    for map_ in (kept.map, kept.base_map):
        assert (map_.device.type, map_.dtype) == (device, dtype)
    assert torch.equal(kept.map.float().cpu(), own.map)
    assert torch.equal(kept.base_map.float().cpu(), own.base_map)
    assert kept.heatmap().device.type == device
    torch.testing.assert_close(kept.heatmap().float().cpu(), own.heatmap(), rtol=1e-5, atol=1e-7)
    assert torch.equal(kept.mask(0.4).cpu(), own.mask(0.4))
    assert (kept.peak(), kept.boxes(0.4)) == (pytest.approx(own.peak()), own.boxes(0.4))
    assert overlay(kept, noise(0)).tobytes() == overlay(own, noise(0)).tobytes()
    read = Localization.load(kept.save(tmp_path / "kept.safetensors"))
    assert torch.equal(read.map, kept.map.cpu())
    assert torch.equal(read.base_map, kept.base_map.cpu())

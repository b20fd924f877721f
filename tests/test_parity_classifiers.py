"""A classifier's maps are those of the packages that people use now: same references, same logits, in float64."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam import GradCAM
from slow import by_default
from zoo.shake import shaken

from concept_cam import Localizer, compare, embed, grad_cam, nearest, trace, wrap
from concept_cam.comparison import Comparison
from concept_cam.images import Preprocess

CLASSES = tuple(f"class {i}" for i in range(10))
MODELS = {
    "torchvision ResNet": (lambda: torchvision.models.resnet18(num_classes=10), (64, 96)),
    "timm ViT": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10), (224, 224)),
    "timm ViT, average": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10, global_pool="avg"), (224, 224)),
}


@pytest.fixture(scope="module", params=by_default(MODELS, "torchvision ResNet"))
def world(request):
    """A full-size classifier, wrapped; two images; the bank of its classes."""
    build, size = MODELS[request.param]
    backbone = wrap(shaken(build), None, Preprocess(size, (0.5,) * 3, (0.5,) * 3), classes=CLASSES)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return backbone, pixels, embed(backbone, CLASSES, ["{}"])


def reshape(backbone):
    """What the packages need to know of tokens; maps they know themselves."""
    if backbone.sites[0].name == "layer4":
        return None
    layout = backbone.sites[0].layout
    return lambda tokens: tokens[:, layout.prefix :].unflatten(1, (layout.rows, layout.cols)).permute(0, 3, 1, 2)


def ours(backbone, pixels, direction, form):
    return grad_cam(trace(backbone, pixels, form=form).gradient(direction[None, None]))[0]


def forms(backbone):
    return ("dense", "factored") if backbone.sites[0].head else ("dense",)


def test_scores_are_the_models_logits(world):
    backbone, pixels, bank = world
    with torch.no_grad():
        logits = backbone.module(pixels)
    torch.testing.assert_close(bank.scores(trace(backbone, pixels).embedding), logits, rtol=1e-10, atol=1e-10)


def test_equals_the_grad_cam_package(world):
    backbone, pixels, bank = world
    raw = []

    class Unscaled(GradCAM):
        def get_cam_image(self, *args, **kwargs):
            raw.append(torch.from_numpy(super().get_cam_image(*args, **kwargs)))
            return raw[-1].numpy()

    with Unscaled(backbone.module, [backbone.sites[0].module], reshape_transform=reshape(backbone)) as cam:
        cam(pixels.clone(), targets=[lambda out: out[2]] * 2)
    for form in forms(backbone):
        got = ours(backbone, pixels, bank.vectors[2], form)
        assert (got - raw[0]).norm() <= 1e-10 * raw[0].norm()


@pytest.mark.parametrize("strength", by_default([0.6, 1.0], 0.6))
def test_equals_the_finer_cam_of_torchcam(world, strength):
    # torch-cam asks for Python 3.11; everywhere else this runs.
    methods = pytest.importorskip("torchcam.methods")
    backbone, pixels, bank = world
    options = {} if reshape(backbone) is None else {"reshape_transform": reshape(backbone)}
    shape = tuple(pixels.shape[1:])
    seen = 0
    for target in range(4):
        comparison = compare(bank, CLASSES[target], nearest(3), torch.zeros(10, dtype=torch.float64), strength)
        indices = [bank.index(name) for name in comparison.references]
        with methods.FinerCAM(backbone.module, backbone.sites[0].module, shape, gamma=strength, **options) as cam:
            scores = backbone.module(pixels.clone().requires_grad_())
            (expected,) = cam(target, scores, comparison_idx=indices, normalized=False)
        for form in forms(backbone):
            got = ours(backbone, pixels, comparison.direction(bank), form)
            # torch-cam clips: of a map that is negative all over it keeps nothing.
            assert (got.clamp(min=0) - expected.reshape(got.shape)).norm() <= 1e-9 * got.norm()
        seen += bool(expected.any())
    assert seen > 0


def test_references_are_the_nearest_rows(world):
    """The paper's first setting: classes are alike as their rows are; biases have no say in it."""
    backbone, _, bank = world
    rows = backbone.module.get_classifier().weight if hasattr(backbone.module, "get_classifier") else backbone.module.fc.weight
    cosines = torch.nn.functional.cosine_similarity(rows[2][None], rows).detach()
    cosines[2] = -2
    expected = tuple(CLASSES[i] for i in cosines.topk(3).indices)
    assert bank.neighbours(CLASSES[2], 3) == expected
    plain = bank.similarities(CLASSES[2])
    torch.testing.assert_close(plain[bank.index(expected[0])], cosines.max())


def test_the_one_call_gives_the_same_map(world):
    backbone, _, bank = world
    image = Image.effect_noise((300, 200), 60).convert("RGB")
    localizer = Localizer(backbone, method=grad_cam)
    assert localizer.vocabulary == CLASSES
    result = localizer(image, CLASSES[2], strength=0.6)
    assert result.comparison.references == bank.neighbours(CLASSES[2], 3)
    from concept_cam.images import Frame

    frame = Frame.of(image, backbone.preprocess)
    comparison = Comparison(CLASSES[2], result.comparison.references, (1 / 3,) * 3, (0.0,) * 3, 0.6)
    expected = ours(backbone, frame.pixels[None].double(), comparison.direction(bank), "dense")[0].float()
    torch.testing.assert_close(result.map, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    with torch.no_grad():
        logits = backbone.module(frame.pixels[None].double())[0]
    assert result.scores[CLASSES[2]] == pytest.approx(float(logits[2]))

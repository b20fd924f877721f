"""The same numbers as the packages that people use now, in float64, before anything is normalised."""

from __future__ import annotations

import warnings

import open_clip
import pytest
import torch
import torch.nn.functional as F
import zoo
from pytorch_grad_cam import EigenGradCAM, GradCAM, GradCAMElementWise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from slow import by_default
from torch import nn

from concept_cam import compare, grad_cam, hires_cam, layer_cam, nearest, trace, uniform, wrap
from concept_cam.backbones import TokenLayout
from concept_cam.comparison import Comparison
from concept_cam.concepts import ConceptBank
from concept_cam.gradients import WholeGradient
from concept_cam.methods import eigen_grad_cam, grad_cam_elementwise, grad_cam_plus_plus, xgrad_cam

CLASSES = 6


class ZeroShot(nn.Module):
    """A dual encoder as the classifier that the peers need: the scores are its logits."""

    def __init__(self, model: nn.Module, texts: torch.Tensor) -> None:
        super().__init__()
        self.model, self.texts = model, texts

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.model.encode_image(pixels), dim=-1) @ self.texts.T


def full_size() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model("ViT-B-32", pretrained=None).double().eval()


@pytest.fixture(scope="module", params=by_default(["tiny", "ViT-B-32"], "tiny"))
def world(request):
    """A wrapped model, its classifier, two images, and the grid of the last block's first norm."""
    model = zoo.tiny_clip() if request.param == "tiny" else full_size()
    # A random full-size model is nearly symmetric in its patches: a larger last norm makes its maps speak.
    backbone = wrap(model, zoo.TOKENIZER, name=request.param)
    generator = torch.Generator().manual_seed(5)
    width = model.visual.output_dim
    texts = F.normalize(torch.randn(CLASSES, width, generator=generator, dtype=torch.float64), dim=-1)
    return backbone, ZeroShot(model, texts).eval(), zoo.pixels(backbone, 2), texts


def reshape(backbone):
    layout = backbone.sites[0].layout
    return lambda tokens: tokens[:, 1:].unflatten(1, (layout.rows, layout.cols)).permute(0, 3, 1, 2)


def grad_cam_package(method, backbone, classifier, pixels, targets):
    """The package's own map before it is scaled: its signed sum over channels."""
    raw = []

    class Unscaled(method):
        def get_cam_image(self, *args, **kwargs):
            raw.append(torch.from_numpy(super().get_cam_image(*args, **kwargs)))
            return raw[-1].numpy()

    with Unscaled(classifier, [backbone.sites[0].module], reshape_transform=reshape(backbone)) as cam:
        cam(pixels.clone(), targets=targets)
    return raw[0]


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(grad_cam, GradCAM), (hires_cam, HiResCAM), (layer_cam, LayerCAM)], ids=lambda m: m.__name__
)
def test_equals_the_grad_cam_package(world, ours, theirs, form):
    backbone, classifier, pixels, texts = world
    target = 2
    expected = grad_cam_package(theirs, backbone, classifier, pixels, [lambda out: out[target]] * len(pixels))
    got = ours(trace(backbone, pixels, form=form).gradient(texts[[target]][:, None]))[0]
    assert expected.abs().max() > 0
    assert (got - expected).norm() <= 1e-6 * expected.norm()
    # The package computes in float64 as well: what is left is rounding.
    assert (got - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize(
    ("ours", "theirs", "scale", "within"),
    [
        (grad_cam_elementwise, GradCAMElementWise, 1, 1e-10),
        # The package adds 1e-7 to a sum, which may be small.
        (xgrad_cam, XGradCAM, 1, 1e-4),
        (eigen_grad_cam, EigenGradCAM, 1, 1e-9),
    ],
    ids=lambda m: getattr(m, "__name__", ""),
)
def test_the_others_equal_it_where_it_is_well_defined(world, ours, theirs, scale, within):
    backbone, classifier, pixels, texts = world
    expected = grad_cam_package(theirs, backbone, classifier, pixels, [lambda out: scale * out[2]] * len(pixels))
    got = ours(trace(backbone, pixels).gradient(scale * texts[[2]][:, None]))[0]
    if ours is eigen_grad_cam:
        # Its sign is that of a singular vector, which is nobody's choice; and it gives maps as numbers of 32 bits.
        signs = (got * expected).sum((1, 2), keepdim=True).sign()
        assert (got - signs * expected).norm() <= 1e-6 * expected.norm()
        within = 1e-6
        expected = signs * expected
    assert expected.abs().max() > 0
    assert (got - expected).norm() <= within * expected.norm()


def plus_plus_of_the_package(tokens, whole):
    """(N, D) each, on a grid of one row."""
    rows = [part.T[None, :, None].numpy() for part in (tokens, whole)]
    with GradCAMPlusPlus(nn.Linear(1, 1), []) as cam:
        return torch.from_numpy(cam.get_cam_weights(None, None, None, *rows))[0] @ tokens.T


def test_grad_cam_plus_plus_equals_it_where_activations_and_gradients_are_as_in_the_paper():
    """Activations that are not negative and gradients of the size of logits': no denominator is near zero."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    whole = 20 * torch.rand(6, 4, generator=generator, dtype=torch.float64) + 1
    ours = grad_cam_plus_plus(WholeGradient(tokens[None], TokenLayout(0, 1, 6), whole[None, None]))[0, 0, 0]
    torch.testing.assert_close(ours, plus_plus_of_the_package(tokens, whole), rtol=1e-6, atol=0)


def test_of_small_gradients_the_package_forgets_what_speaks_for_the_score():
    """On purpose: 1e-6 in a denominator of G squared is nothing at G = 1 and everything at 1e-4, the size of a cosine's."""
    tokens, whole = torch.ones(2, 1), torch.tensor([[1e-4], [0.0]])
    ours = grad_cam_plus_plus(WholeGradient(tokens[None], TokenLayout(0, 1, 2), whole[None, None]))
    assert ours[0, 0, 0, 0].item() == pytest.approx(1e-4 / 2, rel=1e-3)
    assert plus_plus_of_the_package(tokens, whole)[0].item() == pytest.approx(1e-4 * 1e-8 / (2e-8 + 1e-6), rel=1e-3)


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_finer_equals_the_finer_cam_of_torchcam(world, strength, form):
    # torch-cam asks for Python 3.11; everywhere else this runs.
    methods = pytest.importorskip("torchcam.methods")
    backbone, classifier, pixels, texts = world
    target, references = 2, [0, 1, 4]
    shape = tuple(pixels.shape[1:])
    site = backbone.sites[0].module
    with methods.FinerCAM(classifier, site, shape, gamma=strength, reshape_transform=reshape(backbone)) as cam:
        scores = classifier(pixels.clone().requires_grad_())
        (expected,) = cam(target, scores, comparison_idx=references, normalized=False)
    names = tuple(f"class {i}" for i in range(CLASSES))
    comparison = Comparison(names[target], tuple(names[i] for i in references), (1 / 3,) * 3, (0.0,) * 3, strength)
    direction = comparison.direction(ConceptBank(names, texts))
    got = grad_cam(trace(backbone, pixels, form=form).gradient(direction[None, None]))[0].clamp(min=0)
    assert expected.abs().max() > 0
    assert (got - expected.reshape(got.shape)).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("method", [grad_cam, hires_cam, layer_cam], ids=lambda m: m.__name__)
def test_strength_zero_is_the_base_bit_for_bit(world, method, form):
    backbone, _, pixels, texts = world
    names = tuple(f"class {i}" for i in range(CLASSES))
    bank = ConceptBank(names, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zero = compare(bank, names[2], nearest(3), torch.zeros(CLASSES, dtype=torch.float64), 0.0, uniform)
    assert zero.references
    seen = trace(backbone, pixels, form=form)
    finer = method(seen.gradient(zero.direction(bank)[None, None]))
    assert torch.equal(finer, method(seen.gradient(texts[[2]][:, None])))

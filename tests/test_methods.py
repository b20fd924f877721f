"""Each method again as slow loops over its equation, and toys small enough to do by hand."""

from __future__ import annotations

import pytest
import torch
import zoo

from concept_cam import trace
from concept_cam.backbones.site import TokenLayout
from concept_cam.gradients import WholeGradient
from concept_cam.methods import (
    CARDS,
    METHODS,
    eigen_grad_cam,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)

GRADIENT = {name: card.method for name, card in CARDS.items() if card.kind == "gradient" and callable(card.method)}


def slow_grad_cam(tokens, gradient):
    patches, width = tokens.shape
    weights = [sum(gradient[n, c] for n in range(patches)) / patches for c in range(width)]
    return [sum(weights[c] * tokens[n, c] for c in range(width)) for n in range(patches)]


def slow_hires_cam(tokens, gradient):
    return [sum(gradient[n, c] * tokens[n, c] for c in range(tokens.shape[1])) for n in range(len(tokens))]


def slow_layer_cam(tokens, gradient):
    return [sum(max(gradient[n, c], 0) * tokens[n, c] for c in range(tokens.shape[1])) for n in range(len(tokens))]


def slow_grad_cam_elementwise(tokens, gradient):
    return [sum(max(gradient[n, c] * tokens[n, c], 0) for c in range(tokens.shape[1])) for n in range(len(tokens))]


def slow_grad_cam_plus_plus(tokens, gradient):
    patches, width = tokens.shape
    weights = []
    for c in range(width):
        total = sum(tokens[n, c] for n in range(patches))
        alphas = [g**2 / (2 * g**2 + total * g**3) for g in gradient[:, c]]
        weights.append(sum(alpha * max(g, 0) for alpha, g in zip(alphas, gradient[:, c], strict=True)))
    return [sum(weights[c] * tokens[n, c] for c in range(width)) for n in range(patches)]


def slow_xgrad_cam(tokens, gradient):
    patches, width = tokens.shape
    weights = [sum(gradient[:, c] * tokens[:, c]) / sum(tokens[:, c]) for c in range(width)]
    return [sum(weights[c] * tokens[n, c] for c in range(width)) for n in range(patches)]


def slow_eigen_grad_cam(tokens, gradient):
    product = tokens * gradient
    centred = product - product.mean(0)
    # The direction of most variance is the first eigenvector of the covariance.
    first = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    projected = centred @ first
    return list(projected if projected @ centred.sum(1) >= 0 else -projected)


ORACLES = {name.removeprefix("slow_"): oracle for name, oracle in list(globals().items()) if name.startswith("slow_")}


def test_every_gradient_method_has_an_oracle():
    assert set(ORACLES) == set(GRADIENT)


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("case", ["class token", "average"])
@pytest.mark.parametrize("form", ["auto", "dense"])
def test_equals_its_oracle(name, case, form):
    backbone = zoo.backbone(case)
    gradient = trace(backbone, zoo.pixels(backbone, 2), form=form).gradient(zoo.directions(backbone, 2))
    maps = METHODS[name](gradient)
    for k, whole in enumerate(gradient.dense()):
        for b in range(2):
            expected = ORACLES[name](gradient.tokens[b], whole[b])
            torch.testing.assert_close(
                maps[k, b].flatten(), torch.stack(list(map(torch.as_tensor, expected))), rtol=1e-8, atol=1e-14
            )


def test_by_hand_and_apart():
    """Two patches, two channels, chosen so that the methods and their likely confusions all differ."""
    tokens = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]])
    whole = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]])
    gradient = WholeGradient(tokens, TokenLayout(0, 1, 2), whole)
    assert grad_cam(gradient).tolist() == [[[[2 * 2 + 1 * -1, 1 * 3]]]]
    assert hires_cam(gradient).tolist() == [[[[1 * 2 + -2 * -1, 4 * 3]]]]
    assert layer_cam(gradient).tolist() == [[[[1 * 2, 4 * 3]]]]
    assert grad_cam_elementwise(gradient).tolist() == [[[[1 * 2 + -2 * -1, 4 * 3]]]]
    # Weights: the first channel's a is 1 / (2 + 2 * 1) and 9 / (18 + 2 * 27), the second's last is 16 / (32 + 2 * 64).
    weights = 1 / 4 * 1 + 1 / 8 * 3, 1 / 10 * 4
    expected = torch.tensor([weights[0] * 2 - weights[1], weights[1] * 3])
    torch.testing.assert_close(grad_cam_plus_plus(gradient).flatten(), expected)
    assert xgrad_cam(gradient).tolist() == [[[[1 * 2 + 14 / 2 * -1, 14 / 2 * 3]]]]


def test_a_vanishing_denominator_keeps_maps_finite():
    """Tokens of both signs: sums of zero, and 2 G^2 + G^3 sum A = 0 for G = -1 and a sum of 2."""
    tokens = torch.tensor([[[1.0, 3.0], [-1.0, -1.0]]])
    gradient = WholeGradient(tokens, TokenLayout(0, 1, 2), torch.tensor([[[[1.0, -1.0], [0.0, 2.0]]]]))
    for method in GRADIENT.values():
        assert torch.isfinite(method(gradient)).all()


def test_the_sign_of_the_first_direction_is_that_of_hires_cam():
    """The decomposition may give v or -v: the map must not care, and must turn when the score turns."""
    torch.manual_seed(0)
    tokens, whole = torch.randn(1, 6, 4), torch.randn(1, 1, 6, 4)
    gradient, against = (WholeGradient(tokens, TokenLayout(0, 2, 3), sign * whole) for sign in (1, -1))
    maps, hires = eigen_grad_cam(gradient), hires_cam(gradient)
    assert ((hires - hires.mean()) * maps).sum() > 0
    torch.testing.assert_close(eigen_grad_cam(against), -maps)


def test_the_grid_is_rows_by_columns():
    tokens = torch.zeros(1, 15, 1)
    tokens[0, 1 * 5 + 3] = 1
    gradient = WholeGradient(tokens, TokenLayout(0, 3, 5), torch.ones(1, 1, 15, 1))
    for method in (grad_cam, hires_cam, layer_cam, grad_cam_elementwise, grad_cam_plus_plus, xgrad_cam):
        spot = method(gradient)[0, 0].nonzero()
        assert spot.tolist() == [[1, 3]]


def test_references_are_combined_before_any_relu():
    """One weight, two references: combined first, the target's evidence is cancelled exactly; clipped first, it is not.

    The target's gradient is 1, the references' are 3 and -1: their mean is 1. LayerCAM clips each gradient, so the mean of
    two separate maps would be (3 + 0) / 2 = 1.5 and leave -0.5.
    """
    tokens = torch.ones(1, 1, 1)
    target, first, second = 1.0, 3.0, -1.0
    combined = torch.tensor([[[[target - (first + second) / 2]]]])
    assert layer_cam(WholeGradient(tokens, TokenLayout(0, 1, 1), combined)).item() == 0
    apart = [
        layer_cam(WholeGradient(tokens, TokenLayout(0, 1, 1), torch.tensor([[[[g]]]]))).item() for g in (target, first, second)
    ]
    assert apart[0] - (apart[1] + apart[2]) / 2 == -0.5


def test_doubled_direction_doubles_the_map():
    backbone = zoo.backbone("class token")
    seen = trace(backbone, zoo.pixels(backbone))
    d = zoo.directions(backbone, 1)
    for name in set(GRADIENT) - {"grad_cam_plus_plus"}:
        method = METHODS[name]
        torch.testing.assert_close(method(seen.gradient(2 * d)), 2 * method(seen.gradient(d)), rtol=1e-9, atol=1e-15)

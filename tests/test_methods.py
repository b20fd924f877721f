"""Each method again as slow loops over its equation, and toys small enough to do by hand."""

from __future__ import annotations

import pytest
import torch
import zoo

from concept_cam import trace
from concept_cam.backbones.backbone import TokenLayout
from concept_cam.gradients import WholeGradient
from concept_cam.methods import METHODS, grad_cam, hires_cam, layer_cam


def slow_grad_cam(tokens, gradient):
    patches, width = tokens.shape
    weights = [sum(gradient[n, c] for n in range(patches)) / patches for c in range(width)]
    return [sum(weights[c] * tokens[n, c] for c in range(width)) for n in range(patches)]


def slow_hires_cam(tokens, gradient):
    return [sum(gradient[n, c] * tokens[n, c] for c in range(tokens.shape[1])) for n in range(len(tokens))]


def slow_layer_cam(tokens, gradient):
    return [sum(max(gradient[n, c], 0) * tokens[n, c] for c in range(tokens.shape[1])) for n in range(len(tokens))]


ORACLES = {"grad_cam": slow_grad_cam, "hires_cam": slow_hires_cam, "layer_cam": slow_layer_cam}


@pytest.mark.parametrize("name", METHODS)
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
    """Two patches, two channels, chosen so that the three methods and their likely confusions all differ."""
    tokens = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]])
    whole = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]])
    gradient = WholeGradient(tokens, TokenLayout(0, 1, 2), whole)
    assert grad_cam(gradient).tolist() == [[[[2 * 2 + 1 * -1, 1 * 3]]]]
    assert hires_cam(gradient).tolist() == [[[[1 * 2 + -2 * -1, 4 * 3]]]]
    assert layer_cam(gradient).tolist() == [[[[1 * 2, 4 * 3]]]]


def test_the_grid_is_rows_by_columns():
    tokens = torch.zeros(1, 15, 1)
    tokens[0, 1 * 5 + 3] = 1
    gradient = WholeGradient(tokens, TokenLayout(0, 3, 5), torch.ones(1, 1, 15, 1))
    for method in METHODS.values():
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
    for method in METHODS.values():
        torch.testing.assert_close(method(seen.gradient(2 * d)), 2 * method(seen.gradient(d)), rtol=1e-12, atol=1e-15)

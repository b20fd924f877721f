"""The gradient at the pixels, through the whole model, with which maps at a site are compared."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone


def pixel_gradient(
    backbone: Backbone, pixels: Float[Tensor, "B 3 height width"], direction: Float[Tensor, "B E"]
) -> Float[Tensor, "B 3 height width"]:
    """The gradient of <normalised embedding, direction> with respect to the input pixels; the model is left unchanged.

    Args:
        backbone: the model.
        pixels: its input.
        direction: one for each image.

    Example:
        >>> import torch
        >>> from concept_cam import world
        >>> backbone, pixels = world.localizer().backbone, torch.zeros(1, 3, 96, 96)
        >>> pixel_gradient(backbone, pixels, torch.ones(1, 192)).shape
        torch.Size([1, 3, 96, 96])
    """
    with backbone.evaluating(), torch.enable_grad():
        leaf = pixels.detach().clone().requires_grad_()
        score = (backbone.normalize(backbone.embed_pixels(leaf)) * direction.to(leaf.dtype)).sum()
        (gradient,) = torch.autograd.grad(score, leaf)
    return gradient

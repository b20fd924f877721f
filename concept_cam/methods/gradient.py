"""Gradient x activation: signed maps from the gradient at the patch tokens.

Each takes K scores of B pictures and gives K x B maps. None clips, scales or upsamples: the ReLU that ends each method in its
paper is a separate, last step here, because what speaks against a concept is evidence too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import TokenGradient


def grad_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """sum_c w_c A_nc with w_c = mean_n G_nc. Linear in the direction.

    Source: Selvaraju et al., Grad-CAM (arXiv 1610.02391), Eqs. 1 and 2, without the final ReLU.

    Example:
        >>> import torch
        >>> from concept_cam import fieldguide, grad_cam, trace
        >>> seen = trace(fieldguide.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> grad_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    return _on_grid(gradient.mean_dot_tokens(), gradient)


def hires_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """sum_c G_nc A_nc. Linear in the direction.

    Source: Draelos and Carin, HiResCAM (arXiv 2011.08891), Eq. 5, without the final ReLU.

    Example:
        >>> import torch
        >>> from concept_cam import fieldguide, hires_cam, trace
        >>> seen = trace(fieldguide.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> hires_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    return _on_grid(gradient.dot_tokens(), gradient)


def layer_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """sum_c ReLU(G_nc) A_nc. Not linear in the direction.

    Source: Jiang et al., LayerCAM (IEEE TIP 2021), Eqs. 5 and 6, without the final ReLU. The paper's activations are those
    of a CNN, not negative; tokens of a transformer have both signs, and so has the map.

    Example:
        >>> import torch
        >>> from concept_cam import fieldguide, layer_cam, trace
        >>> seen = trace(fieldguide.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> layer_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    maps = [(one.clamp(min=0) * gradient.tokens).sum(-1) for one in gradient.dense()]
    return _on_grid(torch.stack(maps), gradient)


def _on_grid(values: Float[Tensor, "K B N"], gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    return values.reshape(*values.shape[:-1], gradient.layout.rows, gradient.layout.cols)

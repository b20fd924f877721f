"""Gradient x activation: signed maps from the gradient at the patch tokens.

Each function maps K directions and B images to K x B maps. In formulas, A_nc is channel c of the token of patch n and G_nc the
gradient of the score with respect to it. No function clips, scales or upsamples: the ReLU that ends each method in its paper
is a separate, last step here, because evidence against a concept is evidence too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import TokenGradient


def grad_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """Grad-CAM, sum_c w_c A_nc with w_c = mean_n G_nc. Linear in the direction.

    Source: Selvaraju et al., Grad-CAM (arXiv 1610.02391), Eqs. 1 and 2, without the final ReLU.

    Example:
        >>> import torch
        >>> from concept_cam import world, grad_cam, trace
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> grad_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    return _on_grid(gradient.mean_dot_tokens(), gradient)


def hires_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """HiResCAM, sum_c G_nc A_nc. Linear in the direction.

    Source: Draelos and Carin, HiResCAM (arXiv 2011.08891), Eq. 5, without the final ReLU.

    Example:
        >>> import torch
        >>> from concept_cam import world, hires_cam, trace
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> hires_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    return _on_grid(gradient.dot_tokens(), gradient)


def layer_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """LayerCAM, sum_c ReLU(G_nc) A_nc. Not linear in the direction.

    Source: Jiang et al., LayerCAM (IEEE TIP 2021), Eqs. 5 and 6, without the final ReLU. In the paper,
    activations are those of a CNN and never negative; tokens of a transformer have both signs, and so has the map.

    Example:
        >>> import torch
        >>> from concept_cam import world, layer_cam, trace
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> layer_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    return _of_each(gradient, lambda whole, tokens: (whole.clamp(min=0) * tokens).sum(-1))


def grad_cam_elementwise(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """Elementwise Grad-CAM, sum_c ReLU(G_nc A_nc): positive evidence only. Not linear in the direction, and never negative.

    Source: the pytorch-grad-cam package (GradCAMElementWise); there is no paper.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import grad_cam_elementwise
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> grad_cam_elementwise(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """
    return _of_each(gradient, lambda whole, tokens: (whole * tokens).clamp(min=0).sum(-1))


def grad_cam_plus_plus(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """Grad-CAM++, sum_c w_c A_nc with w_c = sum_n a_nc ReLU(G_nc), a = G^2 / (2 G^2 + G^3 sum_m A_mc).

    Not linear in the direction.

    Source: Chattopadhyay et al., Grad-CAM++ (arXiv 1710.11063), for a score behind an exponential, without the final ReLU.
    Departures: where G is zero, a is zero. The paper's activations are never negative; with tokens of both signs the
    denominator can vanish, so its magnitude is at least 1e-7 of that of its terms.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import grad_cam_plus_plus
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> grad_cam_plus_plus(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """

    def weighted(whole: Tensor, tokens: Tensor) -> Tensor:
        # Divided by G^2: the square of the gradient of a cosine underflows in half precision.
        cubed = whole * tokens.sum(1, keepdim=True)
        denominator = 2 + cubed
        least = 1e-7 * (2 + cubed.abs())
        denominator = torch.where(denominator.abs() < least, least, denominator)
        weights = (whole.clamp(min=0) / denominator).sum(1, keepdim=True)
        return (weights * tokens).sum(-1)

    return _of_each(gradient, weighted)


def xgrad_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """XGrad-CAM, sum_c w_c A_nc with w_c = sum_n G_nc A_nc / sum_n A_nc. Linear in the direction.

    Source: Fu et al., Axiom-based Grad-CAM (arXiv 2008.02312), without the final ReLU. The method assumes activations that are
    never negative: tokens after a LayerNorm have sums near zero, so that a few channels dominate the map. Departure: the
    magnitude of a sum is at least 1e-7 of that of its terms.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import xgrad_cam
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> xgrad_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """

    def weighted(whole: Tensor, tokens: Tensor) -> Tensor:
        sums = tokens.sum(1, keepdim=True)
        least = 1e-7 * tokens.abs().sum(1, keepdim=True).clamp(min=torch.finfo(tokens.dtype).tiny)
        sums = torch.where(sums.abs() < least, least, sums)
        return ((whole * tokens).sum(1, keepdim=True) / sums * tokens).sum(-1)

    return _of_each(gradient, weighted)


def eigen_grad_cam(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    """Eigen-Grad-CAM, (Z - mean of Z) v with Z = G * A and v the first principal component of Z. Not linear in the direction.

    Source: the pytorch-grad-cam package (EigenGradCAM), after Muhammad and Yeasin, Eigen-CAM (arXiv 2008.00299). Departure:
    the sign of v, which is arbitrary there, is the one for which the map correlates with that of HiResCAM.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import eigen_grad_cam
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> eigen_grad_cam(seen.gradient(torch.ones(1, 1, 192))).shape
        torch.Size([1, 2, 12, 12])
    """

    def projected(whole: Tensor, tokens: Tensor) -> Tensor:
        product = (whole * tokens).to(torch.promote_types(tokens.dtype, torch.float32))
        centred = product - product.mean(1, keepdim=True)
        first = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]
        maps = (centred @ first[..., None])[..., 0]
        along = ((product.sum(-1) - product.sum(-1).mean(1, keepdim=True)) * maps).sum(1, keepdim=True)
        return torch.where(along < 0, -maps, maps).to(tokens.dtype)

    return _of_each(gradient, projected)


def _of_each(gradient: TokenGradient, function: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "K B rows cols"]:
    """Process one direction at a time, so that no (K, B, N, D) tensor is held."""
    return _on_grid(torch.stack([function(whole, gradient.tokens) for whole in gradient.dense()]), gradient)


def _on_grid(values: Float[Tensor, "K B N"], gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
    return values.reshape(*values.shape[:-1], gradient.layout.rows, gradient.layout.cols)

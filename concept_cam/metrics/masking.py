"""Masking: which pixels a map ranks highest, and what replaces them (imputation)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.errors import OptionError
from concept_cam.metrics.shapes import check_shapes

Imputation: TypeAlias = Callable[
    [Float[Tensor, "B 3 height width"], Bool[Tensor, "B height width"]], Float[Tensor, "B 3 height width"]
]
"""A function from pixels and a mask of those to replace, to pixels in which they are replaced."""

_NEIGHBOURS = (
    (1 / 12, 1 / 6, 1 / 12),
    (1 / 6, 0.0, 1 / 6),
    (1 / 12, 1 / 6, 1 / 12),
)
"""ROAD, section 4: neighbours at a side count twice as much as those at a corner."""


def strongest(heatmaps: Float[Tensor, "*batch height width"], share: float) -> Bool[Tensor, "*batch height width"]:
    """Mask of the strongest pixels of a map, ``round(share * pixels)`` of them.

    Among equal values the first in reading order are chosen; pixels that the model did not see (NaN) come last.

    Args:
        heatmaps: signed maps.
        share: share of the pixels, 0 to 1.

    Raises:
        OptionError: the share is out of range.

    Example:
        >>> import torch
        >>> strongest(torch.tensor([[0.1, 0.9], [-2.0, 0.5]]), 0.5)
        tensor([[False,  True],
                [False,  True]])
    """
    if not 0 <= share <= 1:
        raise OptionError(f"share is {share}; expected a part of the pixels, 0 to 1.")
    order = heatmaps.nan_to_num(nan=-math.inf).flatten(-2).argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen.scatter_(-1, order[..., : round(share * order.shape[-1])], value=True)
    return chosen.reshape(heatmaps.shape)


def constant(value: float = 0.0) -> Imputation:
    """Replace masked pixels by one value; 0 is the mean colour of the images that the model was trained on.

    Example:
        >>> import torch
        >>> pixels, removed = torch.tensor([2.0, 4.0]).expand(1, 3, 1, 2), torch.tensor([[[True, False]]])
        >>> constant()(pixels, removed)[0, 0]
        tensor([[0., 4.]])
    """

    def fill(pixels: Tensor, removed: Tensor) -> Tensor:
        return pixels.masked_fill(removed[:, None], value)

    return fill


def mean_colour(
    pixels: Float[Tensor, "B 3 height width"], removed: Bool[Tensor, "B height width"]
) -> Float[Tensor, "B 3 height width"]:
    """Replace masked pixels by the mean colour of their image (ROAD's fixed-value imputation).

    Example:
        >>> import torch
        >>> pixels, removed = torch.tensor([2.0, 4.0]).expand(1, 3, 1, 2), torch.tensor([[[True, False]]])
        >>> mean_colour(pixels, removed)[0, 0]
        tensor([[3., 4.]])
    """
    check_shapes(pixels=(pixels, "B channels height width"), removed=(removed, "B height width"))
    return torch.where(removed[:, None], pixels.mean((2, 3), keepdim=True), pixels)


def blurred(sigma: float = 5.0) -> Imputation:
    """Replace masked pixels by those of the blurred image; RISE inserts pixels into such an image.

    Args:
        sigma: standard deviation of the Gaussian in pixels; the kernel is cut off at 3 sigma.

    Example:
        >>> import torch
        >>> pixels, removed = torch.tensor([2.0, 4.0]).expand(1, 3, 1, 2), torch.tensor([[[True, False]]])
        >>> blurred(sigma=10.0)(pixels, removed)[0, 0].round(decimals=2)
        tensor([[3., 4.]])
    """
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()

    def fill(pixels: Tensor, removed: Tensor) -> Tensor:
        weights = kernel.to(pixels)
        channels = pixels.flatten(0, 1)[:, None]
        # Weights of what lies on the image alone, so that borders do not darken.
        ones = torch.ones_like(channels[:1])
        for shape, padding in (((1, 1, -1, 1), (radius, 0)), ((1, 1, 1, -1), (0, radius))):
            along = weights.reshape(shape)
            channels, ones = (F.conv2d(x, along, padding=padding) for x in (channels, ones))
        return torch.where(removed[:, None], (channels / ones).reshape(pixels.shape), pixels)

    return fill


def noisy_linear(noise: float = 0.01, seed: int = 0) -> Imputation:
    """Replace each masked pixel by the weighted mean of its neighbours, solved for all at once, plus a little noise.

    Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ROAD, arXiv 2202.00449),
    section 4.2. The equations are those of a Laplacian, solved by conjugate gradients to a relative residual of 1e-5. If all
    pixels are masked, the result is noise around zero.

    Args:
        noise: standard deviation of the noise.
        seed: of the noise, which is drawn anew in each call.

    Example:
        >>> import torch
        >>> pixels, removed = torch.tensor([2.0, 4.0]).expand(1, 3, 1, 2), torch.tensor([[[True, False]]])
        >>> noisy_linear(noise=0)(pixels, removed)[0, 0].round(decimals=2)
        tensor([[4., 4.]])
    """

    def fill(pixels: Tensor, removed: Tensor) -> Tensor:
        smooth = _harmonic(pixels, removed)
        drawn = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu").to(
            pixels
        )
        return torch.where(removed[:, None], smooth + noise * drawn, pixels)

    return fill


def _harmonic(
    pixels: Float[Tensor, "B 3 height width"], removed: Bool[Tensor, "B height width"]
) -> Float[Tensor, "B 3 height width"]:
    """Replace each masked pixel by the weighted mean of its neighbours."""
    inside = removed[:, None].to(pixels)
    kernel = torch.tensor(_NEIGHBOURS, dtype=torch.float32, device="cpu").to(pixels).expand(3, 1, 3, 3)

    def gathered(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, padding=1, groups=3)

    degree = gathered(torch.ones_like(pixels))

    def laplacian(x: Tensor) -> Tensor:
        return inside * (degree * x - gathered(x))

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    known = pixels * (1 - inside)
    wanted = inside * gathered(known)
    x = torch.zeros_like(pixels)
    residual, tiny = wanted, torch.finfo(pixels.dtype).tiny
    step, norm = residual, inner(residual, residual)
    enough = 1e-10 * inner(wanted, wanted)
    for _ in range(removed.shape[-1] * removed.shape[-2]):
        if bool((norm <= enough).all()):
            break
        moved = laplacian(step)
        length = norm / inner(step, moved).clamp(min=tiny)
        x, residual = x + length * step, residual - length * moved
        norm, before = inner(residual, residual), norm
        step = residual + norm / before.clamp(min=tiny) * step
    return x

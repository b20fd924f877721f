"""Perturbation metrics: does a map predict how the score changes with the input, and is it stable under small changes?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.metrics.sanity import Explain
from concept_cam.metrics.shapes import check_shapes


def infidelity(
    score: Callable[[Float[Tensor, "B 3 height width"]], Float[Tensor, " B"]],
    pixels: Float[Tensor, "B 3 height width"],
    attributions: Float[Tensor, "B 3 height width"],
    perturbations: Float[Tensor, "S B 3 height width"],
) -> Float[Tensor, " B"]:
    """Infidelity, the mean over perturbations I of (<I, attribution> - (f(x) - f(x - I)))^2: 0 or more, lower is better.

    Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations (arXiv 1901.09392), Definition 2.1.

    Args:
        score: the function f, one number for each image.
        pixels: the images x.
        attributions: one for each value of the input. A map has none for single channels: expand it.
        perturbations: S perturbations I of every image; the caller chooses them.

    Raises:
        OptionError: the arguments differ in shape.

    Example:
        >>> import torch
        >>> pixels, change = torch.ones(1, 3, 2, 2), torch.full((1, 1, 3, 2, 2), 0.5)
        >>> infidelity(lambda x: x.sum((1, 2, 3)), pixels, attributions=torch.ones(1, 3, 2, 2), perturbations=change)
        tensor([0.])
    """
    axes = "B channels height width"
    check_shapes(pixels=(pixels, axes), attributions=(attributions, axes), perturbations=(perturbations, f"S {axes}"))
    before = score(pixels)
    off = [(i * attributions).sum((1, 2, 3)) - (before - score(pixels - i)) for i in perturbations]
    return torch.stack(off).square().mean(0)


def max_sensitivity(
    explain: Explain,
    pixels: Float[Tensor, "B 3 height width"],
    perturbations: Float[Tensor, "S B 3 height width"],
) -> Float[Tensor, " B"]:
    """Largest change of a map under small changes of the input, relative to its norm: 0 or more, lower is better.

    Source: Yeh et al. (arXiv 1901.09392), Definition 3.1, divided by the norm of the map, as captum does. A blank map has an
    infinite sensitivity.

    Args:
        explain: makes maps of pixels.
        pixels: the images.
        perturbations: S perturbations of every image; the caller chooses them.

    Raises:
        OptionError: images and perturbations differ in shape.

    Example:
        >>> import torch
        >>> pixels, change = torch.ones(1, 3, 2, 2), torch.full((1, 1, 3, 2, 2), 0.5)
        >>> max_sensitivity(lambda x: x.mean(1), pixels, perturbations=change)
        tensor([0.5000])
    """
    axes = "B channels height width"
    check_shapes(pixels=(pixels, axes), perturbations=(perturbations, f"S {axes}"))
    own = explain(pixels)
    moved = torch.stack([(explain(pixels + change) - own).flatten(1).norm(dim=1) for change in perturbations])
    sensitivity: Tensor = moved.amax(0) / own.flatten(1).norm(dim=1)
    return sensitivity

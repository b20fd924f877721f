"""Does the score rest on what the map points at? Pixels go in the order of the map, and the model is asked again.

``confidence`` is the model as these metrics see it: probabilities (B, K) of a declared set of labels, from pixels. Maps are
signed and as large as the pixels; higher values go first. All functions are batched over images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concept_cam.metrics.masking import Imputation, constant, noisy_linear, strongest
from concept_cam.metrics.sanity import Explain

Confidence: TypeAlias = Callable[[Float[Tensor, "B 3 height width"]], Float[Tensor, "B K"]]
"""Probabilities of K labels."""

_GREY, _LINEAR = constant(), noisy_linear()
_RATIONALES = (0.01, 0.05, 0.1, 0.2, 0.5)
_ROAD = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def relative_drop(
    before: Float[Tensor, "B K"], after: Float[Tensor, "B K"], target: Int[Tensor, " B"], reference: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """RD = (p_c - p*_c) - (p_d - p*_d): what the target loses more than the reference when the strongest pixels go.

    From -2 to 2, higher is better; a map that knows nothing has about 0. Source: Finer-CAM (arXiv 2501.11309), Eq. 10, with
    the most similar class for d and 5 or 10 % of the pixels. The paper does not state what comes in their place.

    Args:
        before: confidence in all labels.
        after: the same of ``fill(pixels, strongest(heatmaps, 0.05))``.
        target: index of the label c.
        reference: index of the label d.

    Example:
        >>> import torch
        >>> before, after = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.7]])
        >>> relative_drop(before, after, torch.tensor([0]), torch.tensor([1]))
        tensor([1.3000])
    """
    lost = before - after
    return _of(lost, target) - _of(lost, reference)


def deletion_curve(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    steps: int = 10,
    fill: Imputation = _GREY,
) -> Float[Tensor, "B points"]:
    """The target's confidence while the strongest pixels go, from none to all in equal steps; its area: lower is better.

    Source: Petsiuk et al., RISE (arXiv 1806.07421), deletion. 0 to 1.
    """
    return _without(confidence, pixels, [strongest(heatmaps, step / steps) for step in range(steps + 1)], target, fill)


def insertion_curve(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    steps: int = 10,
    fill: Imputation = _GREY,
) -> Float[Tensor, "B points"]:
    """The target's confidence while the strongest pixels come, from none to all in equal steps; its area: higher is better.

    Source: Petsiuk et al., RISE (arXiv 1806.07421), insertion; there into a blurred image, see ``blurred``. 0 to 1.
    """
    return _without(confidence, pixels, [~strongest(heatmaps, step / steps) for step in range(steps + 1)], target, fill)


def area_under(curve: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch"]:
    """The area under a curve over 0 to 1 by trapezoids; between the lowest and the highest point of the curve.

    Example:
        >>> import torch
        >>> area_under(torch.tensor([1.0, 0.0, 0.0]))
        tensor(0.2500)
    """
    area: Tensor = torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), dim=-1)
    return area


def confidence_kept(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Average drop and increase: the image times the map, what does the target lose, and does it gain?

    The drop max(0, Y - O) / Y is from 0 to 1, lower is better; the increase, O > Y, is better when true. Source:
    Chattopadhyay et al., Grad-CAM++ (arXiv 1710.11063), section 4.1, there in per cent and averaged over images. The map is
    clipped at zero and divided by its maximum; one without positive evidence keeps nothing of the image.
    """
    kept = heatmaps.nan_to_num(nan=0.0).clamp(min=0)
    kept = kept / kept.amax((1, 2), keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
    before, after = _of(confidence(pixels), target), _of(confidence(pixels * kept[:, None].to(pixels)), target)
    return (before - after).clamp(min=0) / before, after > before


def road(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    shares: Sequence[float] = _ROAD,
    fill: Imputation = _LINEAR,
) -> Float[Tensor, " B"]:
    """Half of what the target has more when the weakest pixels go than when the strongest do, averaged over shares.

    From -1/2 to 1/2, higher is better; a map that knows nothing has about 0. Source: Rong et al., ROAD (arXiv 2202.00449),
    with its noisy linear imputation; both orders put together as grad-cam's ROADCombined does.
    """
    found = []
    for share in shares:
        # What the model did not see (NaN) comes last in both orders.
        most, least = (_of(confidence(fill(pixels, strongest(m, share))), target) for m in (heatmaps, -heatmaps))
        found.append((least - most) / 2)
    return torch.stack(found).mean(0)


def comprehensiveness(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    shares: Sequence[float] = _RATIONALES,
    fill: Imputation = _GREY,
) -> Float[Tensor, " B"]:
    """What the target loses without the strongest pixels, averaged over shares: -1 to 1, higher is better.

    Source: DeYoung et al., ERASER (arXiv 1911.03429), section 4, with its shares of 1 to 50 %.
    """
    return _lost(confidence, pixels, [strongest(heatmaps, share) for share in shares], target, fill)


def sufficiency(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    shares: Sequence[float] = _RATIONALES,
    fill: Imputation = _GREY,
) -> Float[Tensor, " B"]:
    """What the target loses with the strongest pixels alone, averaged over shares: -1 to 1, lower is better.

    Source: DeYoung et al., ERASER (arXiv 1911.03429), section 4, with its shares of 1 to 50 %.
    """
    return _lost(confidence, pixels, [~strongest(heatmaps, share) for share in shares], target, fill)


def infidelity(
    score: Callable[[Float[Tensor, "B 3 height width"]], Float[Tensor, " B"]],
    pixels: Float[Tensor, "B 3 height width"],
    attributions: Float[Tensor, "B 3 height width"],
    perturbations: Float[Tensor, "S B 3 height width"],
) -> Float[Tensor, " B"]:
    """The mean over perturbations I of (<I, attribution> - (f(x) - f(x - I)))^2: at least 0, lower is better.

    Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations (arXiv 1901.09392), Definition 2.1; perturbations
    are the caller's. Attributions are per number of the input: a map says nothing of channels, so expand it.
    """
    before = score(pixels)
    off = [(i * attributions).sum((1, 2, 3)) - (before - score(pixels - i)) for i in perturbations]
    return torch.stack(off).square().mean(0)


def max_sensitivity(
    explain: Explain,
    pixels: Float[Tensor, "B 3 height width"],
    perturbations: Float[Tensor, "S B 3 height width"],
) -> Float[Tensor, " B"]:
    """The most that a map moves under small changes of the input, relative to its norm: at least 0, lower is better.

    Source: Yeh et al. (arXiv 1901.09392), Definition 3.1, over the caller's perturbations; divided by the map's norm, as
    captum does. A map that is blank has an infinite one.
    """
    own = explain(pixels)
    moved = torch.stack([(explain(pixels + change) - own).flatten(1).norm(dim=1) for change in perturbations])
    sensitivity: Tensor = moved.amax(0) / own.flatten(1).norm(dim=1)
    return sensitivity


def _lost(
    confidence: Confidence, pixels: Tensor, removed: Sequence[Tensor], target: Tensor, fill: Imputation
) -> Float[Tensor, " B"]:
    return _of(confidence(pixels), target) - _without(confidence, pixels, removed, target, fill).mean(1)


def _without(
    confidence: Confidence, pixels: Tensor, removed: Sequence[Tensor], target: Tensor, fill: Imputation
) -> Float[Tensor, "B masks"]:
    """The target's confidence when one mask of pixels or another is removed."""
    return torch.stack([_of(confidence(fill(pixels, which)), target) for which in removed], 1)


def _of(confidence: Float[Tensor, "B K"], label: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    return confidence.gather(1, label.to(confidence.device)[:, None])[:, 0]

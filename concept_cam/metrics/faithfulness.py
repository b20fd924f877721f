"""Faithfulness metrics: does the score depend on what the map marks? Pixels are masked in the order of the map.

``confidence`` gives the probabilities (B, K) of a fixed set of labels for pixels (B, 3, height, width). Maps are signed and as
large as the pixels; higher values are masked first. All functions work on batches of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concept_cam.metrics.masking import Imputation, constant, noisy_linear, strongest
from concept_cam.metrics.shapes import check_shapes

Confidence: TypeAlias = Callable[[Float[Tensor, "B 3 height width"]], Float[Tensor, "B K"]]
"""A function from pixels to the probabilities of K labels."""

_GREY, _LINEAR = constant(), noisy_linear()
_RATIONALES = (0.01, 0.05, 0.1, 0.2, 0.5)
_ROAD = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def relative_drop(
    before: Float[Tensor, "B K"], after: Float[Tensor, "B K"], target: Int[Tensor, " B"], reference: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Relative drop, RD = (p_c - p*_c) - (p_d - p*_d): how much more the target loses than the reference under masking.

    -2 to 2, higher is better; an uninformative map has about 0. Source: Finer-CAM (arXiv 2501.11309), Eq. 10, with the most
    similar class as d and the strongest 5 or 10 % of the pixels masked. The paper does not say what replaces them.

    Args:
        before: probabilities of all labels for the whole image.
        after: the same for ``fill(pixels, strongest(heatmaps, 0.05))``.
        target: index of the label c.
        reference: index of the label d.

    Raises:
        OptionError: the arguments differ in shape.

    Example:
        >>> import torch
        >>> before, after = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.7]])
        >>> relative_drop(before, after, torch.tensor([0]), torch.tensor([1]))
        tensor([1.3000])
    """
    check_shapes(before=(before, "B K"), after=(after, "B K"), target=(target, "B"), reference=(reference, "B"))
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
    """Confidence in the target while the strongest pixels are masked one after another, from none to all.

    0 to 1; the smaller the area under the curve, the better. Source: Petsiuk et al., RISE (arXiv 1806.07421), deletion.

    Args:
        confidence: the model, as probabilities of labels.
        pixels: the images.
        heatmaps: a signed map of the same size for each image.
        target: index of the label for each image.
        steps: in how many equal steps all pixels are masked.
        fill: what replaces masked pixels; 0 by default.

    Raises:
        OptionError: images, maps and targets differ in shape.

    Example:
        >>> import torch
        >>> pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> brightness = lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1)
        >>> deletion_curve(brightness, pixels, pixels[:, 0], torch.tensor([0]), steps=2)
        tensor([[0.5000, 0.0000, 0.0000]])
    """
    _check(pixels, heatmaps, target)
    return _without(confidence, pixels, [strongest(heatmaps, step / steps) for step in range(steps + 1)], target, fill)


def insertion_curve(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    steps: int = 10,
    fill: Imputation = _GREY,
) -> Float[Tensor, "B points"]:
    """Confidence in the target while the strongest pixels are inserted one after another, from none to all.

    0 to 1; the larger the area under the curve, the better. Source: Petsiuk et al., RISE (arXiv 1806.07421), insertion; RISE
    inserts pixels into a blurred image, see ``blurred``.

    Args:
        confidence: the model, as probabilities of labels.
        pixels: the images.
        heatmaps: a signed map of the same size for each image.
        target: index of the label for each image.
        steps: in how many equal steps all pixels are inserted.
        fill: what stands in place of the others; 0 by default.

    Raises:
        OptionError: images, maps and targets differ in shape.

    Example:
        >>> import torch
        >>> pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> brightness = lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1)
        >>> insertion_curve(brightness, pixels, pixels[:, 0], torch.tensor([0]), steps=2)
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    _check(pixels, heatmaps, target)
    return _without(confidence, pixels, [~strongest(heatmaps, step / steps) for step in range(steps + 1)], target, fill)


def area_under(curve: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch"]:
    """Area under a curve over 0 to 1, by trapezoids; it lies between the lowest and the highest point of the curve.

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
    """Average drop and increase in confidence of the image multiplied by its map.

    With Y the confidence in the target for the image and O that for image times map, the drop is max(0, Y - O) / Y: 0 to 1,
    lower is better. The increase is O > Y: true is better. Source: Chattopadhyay et al., Grad-CAM++ (arXiv 1710.11063),
    section 4.1, there in per cent and averaged over images. The map is clipped at zero and divided by its maximum; a map
    without positive evidence keeps nothing of the image.

    Args:
        confidence: the model, as probabilities of labels.
        pixels: the images.
        heatmaps: a signed map of the same size for each image.
        target: index of the label for each image.

    Returns:
        The drop and the increase of each image.

    Raises:
        OptionError: images, maps and targets differ in shape.

    Example:
        >>> import torch
        >>> pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> brightness = lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1)
        >>> confidence_kept(brightness, pixels, pixels[:, 0], torch.tensor([0]))
        (tensor([0.]), tensor([False]))
    """
    _check(pixels, heatmaps, target)
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
    """ROAD: half the difference in confidence between masking the weakest and masking the strongest pixels, averaged.

    -1/2 to 1/2, higher is better; an uninformative map has about 0. Source: Rong et al., ROAD (arXiv 2202.00449), with its
    noisy linear imputation; both orders are combined as grad-cam's ROADCombined does.

    Args:
        confidence: the model, as probabilities of labels.
        pixels: the images.
        heatmaps: a signed map of the same size for each image.
        target: index of the label for each image.
        shares: which shares of the pixels are masked; the result is their mean.
        fill: what replaces masked pixels; ROAD's own imputation by default.

    Raises:
        OptionError: images, maps and targets differ in shape.

    Example:
        >>> import torch
        >>> pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> brightness = lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1)
        >>> from concept_cam.metrics import constant
        >>> road(brightness, pixels, pixels[:, 0], torch.tensor([0]), shares=(0.5,), fill=constant())
        tensor([0.2500])
    """
    _check(pixels, heatmaps, target)
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
    """Loss in confidence when the strongest pixels are masked, averaged over shares: -1 to 1, higher is better.

    Source: DeYoung et al., ERASER (arXiv 1911.03429), section 4, with its shares of 1 to 50 %.

    Args:
        confidence: the model, as probabilities of labels.
        pixels: the images.
        heatmaps: a signed map of the same size for each image.
        target: index of the label for each image.
        shares: which shares of the pixels are masked; the result is their mean.
        fill: what replaces masked pixels; 0 by default.

    Raises:
        OptionError: images, maps and targets differ in shape.

    Example:
        >>> import torch
        >>> pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> brightness = lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1)
        >>> comprehensiveness(brightness, pixels, pixels[:, 0], torch.tensor([0]), shares=(0.5,))
        tensor([0.5000])
    """
    _check(pixels, heatmaps, target)
    return _lost(confidence, pixels, [strongest(heatmaps, share) for share in shares], target, fill)


def sufficiency(
    confidence: Confidence,
    pixels: Float[Tensor, "B 3 height width"],
    heatmaps: Float[Tensor, "B height width"],
    target: Int[Tensor, " B"],
    shares: Sequence[float] = _RATIONALES,
    fill: Imputation = _GREY,
) -> Float[Tensor, " B"]:
    """Loss in confidence when all but the strongest pixels are masked, averaged over shares: -1 to 1, lower is better.

    Source: DeYoung et al., ERASER (arXiv 1911.03429), section 4, with its shares of 1 to 50 %.

    Args:
        confidence: the model, as probabilities of labels.
        pixels: the images.
        heatmaps: a signed map of the same size for each image.
        target: index of the label for each image.
        shares: which shares of the pixels are kept; the result is their mean.
        fill: what replaces masked pixels; 0 by default.

    Raises:
        OptionError: images, maps and targets differ in shape.

    Example:
        >>> import torch
        >>> pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
        >>> brightness = lambda pixels: torch.stack([pixels.mean((1, 2, 3)), 1 - pixels.mean((1, 2, 3))], 1)
        >>> sufficiency(brightness, pixels, pixels[:, 0], torch.tensor([0]), shares=(0.5,))
        tensor([0.])
    """
    _check(pixels, heatmaps, target)
    return _lost(confidence, pixels, [~strongest(heatmaps, share) for share in shares], target, fill)


def _lost(
    confidence: Confidence, pixels: Tensor, removed: Sequence[Tensor], target: Tensor, fill: Imputation
) -> Float[Tensor, " B"]:
    return _of(confidence(pixels), target) - _without(confidence, pixels, removed, target, fill).mean(1)


def _without(
    confidence: Confidence, pixels: Tensor, removed: Sequence[Tensor], target: Tensor, fill: Imputation
) -> Float[Tensor, "B masks"]:
    """Confidence in the target for each of several sets of masked pixels."""
    return torch.stack([_of(confidence(fill(pixels, which)), target) for which in removed], 1)


def _check(pixels: Tensor, heatmaps: Tensor, target: Tensor) -> None:
    check_shapes(pixels=(pixels, "B channels height width"), heatmaps=(heatmaps, "B height width"), target=(target, "B"))


def _of(confidence: Float[Tensor, "B K"], label: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    check_shapes(confidence=(confidence, "B K"), labels=(label, "B"))
    return confidence.gather(1, label.to(confidence.device)[:, None])[:, 0]

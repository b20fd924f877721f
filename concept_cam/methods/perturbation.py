"""Perturbation: methods that change the image or its tokens and measure the change of the score, without a gradient.

A score is linear in the direction even where the model is not linear in the image, so one set of forward passes serves every
direction. gScoreCAM is the exception, because it selects channels by their gradient. Masked pixels are set to zero, the mean
colour of the images that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import Trace, embed_changed, embed_without_channels
from concept_cam.methods.method import FieldMethod, TraceMethod

_GSCORE_CHANNELS = 300
"""Channels that gScoreCAM keeps, as its code does."""

_RISE_MASKS, _RISE_CELLS, _RISE_SEED = 1000, 7, 0


@FieldMethod
def score_cam(trace: Trace) -> Float[Tensor, "B N E"]:
    """Score-CAM, sum_k (S(x * H_k) - S(0)) A_nk, H_k being channel k enlarged, from 0 to 1. One forward pass per channel.

    Source: Wang et al., Score-CAM (arXiv 1910.01279), without the final ReLU. Departures: no softmax over channels, which its
    code has; the score of the baseline is subtracted for the whole direction, not for the target alone (Finer-CAM, Eq. 9).

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="score_cam")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    weights = [_channel_scores(trace, image, range(trace.tokens.shape[-1])) for image in range(len(trace.pixels))]
    return trace.tokens @ torch.stack(weights)


def _gscore_cam(trace: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
    """gScoreCAM: Score-CAM on the 300 channels with the largest mean gradient, with a softmax over them.

    Not linear in the direction.

    Source: Chen et al., gScoreCAM (ACCV 2022), and its code. Departure: the softmax is over the selected channels alone; with
    zeros for the others they would get a weight too.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="gscore_cam")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape  # doctest: +SKIP
        torch.Size([12, 12])
    """
    gradient = trace.gradient(directions).mean()
    count = min(_GSCORE_CHANNELS, gradient.shape[-1])
    chosen = gradient.topk(count, dim=-1).indices
    maps = torch.zeros(*directions.shape[:2], trace.tokens.shape[1], dtype=torch.float32, device="cpu").to(trace.tokens)
    for image in range(len(trace.pixels)):
        union = chosen[:, image].unique().tolist()
        scored = torch.zeros(gradient.shape[-1], directions.shape[-1], dtype=torch.float32, device="cpu").to(trace.tokens)
        scored[union] = _channel_scores(trace, image, union)
        for k, direction in enumerate(directions[:, image]):
            own = chosen[k, image]
            maps[k, image] = trace.tokens[image][:, own] @ (scored[own] @ direction).softmax(0)
    return maps


gscore_cam = TraceMethod(_gscore_cam)


def _channel_scores(trace: Trace, image: int, channels: range | list[int]) -> Float[Tensor, "channels E"]:
    """f(x * H_k) - f(0) for some channels."""
    pixels, layout = trace.pixels[image], trace.layout
    size = (int(pixels.shape[1]), int(pixels.shape[2]))

    def masked() -> Iterator[Tensor]:
        yield torch.zeros_like(pixels)
        for channel in channels:
            grid = trace.tokens[image, :, channel].unflatten(0, (layout.rows, layout.cols))
            large = layout.enlarged(grid, size)
            spread = (large.max() - large.min()).clamp(min=torch.finfo(large.dtype).tiny)
            yield pixels * ((large - large.min()) / spread)

    embeddings = torch.cat(list(embed_changed(trace, masked(), len(channels) + 1, "channels")))
    return embeddings[1:] - embeddings[0]


@FieldMethod
def ablation_cam(trace: Trace) -> Float[Tensor, "B N E"]:
    """Ablation-CAM, sum_k (S - S without channel k) A_nk. One forward pass per channel.

    Source: Desai and Ramaswamy, Ablation-CAM (WACV 2020), without the final ReLU. Departure: not divided by S, which for a
    difference of scores can be near zero or negative and would flip the sign of the map.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="ablation_cam")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    without = [torch.cat(list(embed_without_channels(trace, image))) for image in range(len(trace.pixels))]
    return trace.tokens @ (trace.embedding[:, None] - torch.stack(without))


@FieldMethod
def occlusion(trace: Trace) -> Float[Tensor, "B N E"]:
    """Occlusion: the drop of the score when a window of 3 x 3 patches is masked, averaged over the windows around a patch.

    One forward pass per patch.

    Source: Zeiler and Fergus, Visualizing Convolutional Networks (arXiv 1311.2901); window and step are our choice.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="occlusion")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    layout = trace.layout
    height, width = trace.pixels.shape[2:]
    left, top, right, bottom = layout.span
    tops, lefts = _edges(height, top, bottom, layout.rows), _edges(width, left, right, layout.cols)
    windows = torch.zeros(layout.patches, layout.rows, layout.cols, dtype=torch.float32, device="cpu")
    for row in range(layout.rows):
        for col in range(layout.cols):
            windows[row * layout.cols + col, max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = 1

    def masked(pixels: Tensor) -> Iterator[Tensor]:
        for row in range(layout.rows):
            for col in range(layout.cols):
                changed = pixels.clone()
                end_row, end_col = min(row + 2, layout.rows), min(col + 2, layout.cols)
                changed[:, tops[max(row - 1, 0)] : tops[end_row], lefts[max(col - 1, 0)] : lefts[end_col]] = 0
                yield changed

    found = []
    for pixels, own in zip(trace.pixels, trace.embedding, strict=True):
        lost = own - torch.cat(list(embed_changed(trace, masked(pixels), layout.patches, "windows")))
        covering = windows.flatten(1).T.to(lost)
        found.append(covering @ lost / covering.sum(1, keepdim=True))
    return torch.stack(found)


def _edges(pixels: int, start: float, stop: float, cells: int) -> list[int]:
    """The edges of cells in pixels; the outermost cells reach to the border."""
    inner = (round((start + cell / cells * (stop - start)) * pixels) for cell in range(1, cells))
    return [0, *(min(max(edge, 0), pixels) for edge in inner), pixels]


@FieldMethod
def rise(trace: Trace) -> Float[Tensor, "B N E"]:
    """RISE: the covariance of random masks at a patch with the score of the masked image. 1,000 forward passes.

    Source: Petsiuk et al., RISE (arXiv 1806.07421), with its masks: 7 x 7 cells, half of them kept, enlarged and
    shifted. Departures: both means are subtracted, which shifts the map by a constant, so that zero means no influence; the
    seed is fixed, so that maps are comparable.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="rise")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    height, width = (int(side) for side in trace.pixels.shape[2:])
    layout = trace.layout
    found = []
    for pixels in trace.pixels:
        kept: list[Tensor] = []

        def masked(pixels: Tensor = pixels, kept: list[Tensor] = kept) -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(_RISE_SEED)
            for _ in range(_RISE_MASKS):
                mask = _random_mask(height, width, generator).to(pixels)
                kept.append(layout.pooled(mask[None]).flatten())
                yield pixels * mask

        embeddings = torch.cat(list(embed_changed(trace, masked(), _RISE_MASKS, "masks")))
        masks = torch.stack(kept)
        found.append((masks - masks.mean(0)).T @ (embeddings - embeddings.mean(0)) / _RISE_MASKS)
    return torch.stack(found)


def _random_mask(height: int, width: int, generator: torch.Generator) -> Float[Tensor, "height width"]:
    """A grid of cells, each kept or masked, enlarged beyond the image and cropped at a random offset."""
    cells = (
        torch.rand(1, 1, _RISE_CELLS + 1, _RISE_CELLS + 1, generator=generator, dtype=torch.float32, device="cpu") < 0.5
    ).float()
    cell = -(-height // _RISE_CELLS), -(-width // _RISE_CELLS)
    size = [(_RISE_CELLS + 1) * side for side in cell]
    large = F.interpolate(cells, size, mode="bilinear", align_corners=False)[0, 0]
    top, left = (int(torch.randint(side, (1,), generator=generator, dtype=torch.int64, device="cpu")) for side in cell)
    return large[top : top + height, left : left + width]

"""The model run again on changed input, or with its tokens changed: what forward-only methods ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from concept_cam.backbones.site import FeatureMap
from concept_cam.gradients.base import Trace
from concept_cam.hooks import on_site

AT_ONCE = 16
"""Changed images in one forward pass."""


def embed_changed(
    trace: Trace, changed: Iterable[Float[Tensor, "3 height width"]], count: int, what: str
) -> Iterator[Float[Tensor, "batch E"]]:
    """Embeddings of many changed images, in batches; as scores take them. With a progress bar on a terminal.

    Args:
        trace: of the model.
        changed: pixels, made as they are needed.
        count: how many there are: as many forward passes of one image.
        what: they are, for the bar.

    Example:
        >>> from concept_cam import trace, world
        >>> from concept_cam.gradients import embed_changed
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> darker = (seen.pixels[0] - k / 10 for k in range(3))
        >>> [batch.shape for batch in embed_changed(seen, darker, 3, "brightness")]
        [torch.Size([3, 192])]
    """
    changed = iter(changed)
    for which in _batches(count, what):
        yield _embed(trace, torch.stack(list(islice(changed, len(which)))))


def embed_without_channels(trace: Trace, image: int) -> Iterator[Float[Tensor, "batch E"]]:
    """Embeddings of one image with each channel of the site's output put to zero in turn, for all tokens; in batches.

    Example:
        >>> from concept_cam import trace, world
        >>> from concept_cam.gradients import embed_without_channels
        >>> seen = trace(world.localizer().backbone, torch.zeros(1, 3, 96, 96))
        >>> next(embed_without_channels(seen, 0)).shape
        torch.Size([16, 192])
    """
    layout = trace.site.layout
    axis = 1 if isinstance(layout, FeatureMap) and not layout.channels_last else -1
    for which in _batches(trace.tokens.shape[-1], "channels"):
        with on_site(trace.site, _without(which, axis)):
            yield _embed(trace, torch.stack([trace.pixels[image]] * len(which)))


def _batches(count: int, what: str) -> Iterator[range]:
    with tqdm(total=count, desc=what, disable=None, leave=False) as bar:
        for first in range(0, count, AT_ONCE):
            which = range(first, min(first + AT_ONCE, count))
            yield which
            bar.update(len(which))


def _embed(trace: Trace, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch E"]:
    with trace.backbone.evaluating():
        return trace.backbone.normalize(trace.backbone.embed_pixels(pixels))


def _without(which: range, axis: int) -> Callable[[Any, Tensor], Tensor]:
    def change(entering: Any, tensor: Tensor) -> Tensor:
        tokens = tensor.clone()
        for row, channel in enumerate(which):
            tokens[row].select(axis if axis < 0 else axis - 1, channel).zero_()
        return tokens

    return change

"""RUN: a Pass is frames of one input size, through the model once; ask it for scores and maps of any concepts.

Sizes, devices and the caller's modes (gradients, inference mode, autocast) are dealt with here, so that who asks need not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import TokenLayout
from concept_cam.concepts import ConceptBank
from concept_cam.evidence import EvidenceMaps
from concept_cam.gradients import Form, Trace, pixel_gradient, trace
from concept_cam.images import Frame, Placement, by_size
from concept_cam.methods import AnyMethod, explain
from concept_cam.preprocess import Size

R = TypeVar("R")


@final
@dataclass(frozen=True, eq=False)
class Pass:
    """Frames of one input size, through the model once.

    Attributes:
        trace: what the model has left, for B frames.
        placements: of the maps of each frame.
        which: the numbers of these frames among those that were given.
        form: of the gradient, as it was asked for.
        depth: of how many of the last blocks the tokens were to be kept; see ``trace``.

    Example:
        >>> from concept_cam import world
        >>> localizer = world.localizer()
        >>> bank = localizer.bank(["ember finch", "frost finch"])
        >>> frames = [localizer.frame(world.draw_species("ember finch", seed).image) for seed in range(3)]
        >>> (seen,) = localizer.passes(frames)
        >>> seen.scores(bank).shape, seen.maps("grad_cam", bank.vectors[:, None]).stacked.shape
        (torch.Size([3, 2]), torch.Size([2, 3, 12, 12]))
    """

    trace: Trace
    placements: tuple[Placement, ...]
    which: tuple[int, ...]
    form: Form = "auto"
    depth: int | None = 0

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        pixels: Float[Tensor, "B 3 height width"],
        site: str | None = None,
        form: Form = "auto",
        depth: int | None = 0,
    ) -> Pass:
        """Pixels that are the model's input; maps lie in their own pixels.

        Args:
            backbone: the model, at any size.
            pixels: of one size, on any device and in any precision.
            site: the name of one of ``backbone.sites``; the first by default.
            form: of the gradient; see ``trace``.
            depth: of how many of the last blocks to keep the tokens; see ``trace``.

        Raises:
            BackboneError: the model does not take that size, there is no such site, or no closed form for it.
        """
        size = _size(pixels)
        seen = trace(backbone.at_size(size), pixels.to(backbone.device, backbone.dtype), site, form, depth)
        own = Placement((0.0, 0.0, float(size[1]), float(size[0])), size).covering(seen.layout.span)
        return cls(seen, (own,) * len(pixels), tuple(range(len(pixels))), form, depth)

    @property
    def layout(self) -> TokenLayout:
        """How the patch tokens lie on the frames."""
        return self.trace.layout

    @property
    def pixels(self) -> Float[Tensor, "B 3 height width"]:
        """The frames, on the model's device and in its precision."""
        return self.trace.pixels

    @property
    def embedding(self) -> Float[Tensor, "B E"]:
        """Of the frames: unit vectors, or what a linear classifier multiplies by its rows."""
        return self.trace.embedding

    def scores(self, bank: ConceptBank) -> Float[Tensor, "B K"]:
        """Of each frame and each concept of a bank."""
        with ordinary(self.embedding.device):
            return bank.scores(self.embedding)

    def maps(self, method: AnyMethod, directions: Float[Tensor, "K _ E"]) -> EvidenceMaps:
        """The maps of some directions, by a method, where the model is and in its precision.

        Args:
            method: of any kind, or its name.
            directions: K, each for all frames or one for each.

        Raises:
            OptionError: it is no method, or what it gives is no map for each direction and frame.
            NoSpatialGradient: no token at the site reaches the embedding.
        """
        with ordinary(self.embedding.device):
            maps = explain(method, self.trace, directions)
        return EvidenceMaps(maps, self.placements, self.trace.site.name, maps.dtype)

    def again(self, pixels: Float[Tensor, "B 3 height width"], backbone: Backbone | None = None) -> Pass:
        """A pass of other pixels of these frames (mirrored, masked), at the same site.

        Args:
            pixels: the model's input.
            backbone: another model of the same structure; by default the same model.
        """
        return Pass.of(backbone or self.trace.backbone, pixels, self.trace.site.name, self.form, self.depth)

    def pixel_gradient(self, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B rows cols"]:
        """How strong the gradient at the pixels is, averaged over each cell of the maps."""
        strength = [pixel_gradient(self.trace.backbone, self.pixels, one).norm(dim=1) for one in directions]
        return self.layout.pooled(torch.stack(strength))

    def enlarged(self, maps: Float[Tensor, "B rows cols"]) -> Float[Tensor, "B height width"]:
        """Maps in the pixels of the frames, bilinear."""
        return self.layout.enlarged(maps, _size(self.pixels))


def run(
    backbone: Backbone, frames: Sequence[Frame], site: str | None = None, form: Form = "auto", depth: int | None = 0
) -> Iterator[Pass]:
    """One pass for each input size, in the caller's autocast, as if the caller ran the model.

    Args:
        backbone: the model.
        frames: of any sizes, and in any number.
        site: the name of one of ``backbone.sites``; the first by default.
        form: of the gradient; see ``trace``.
        depth: of how many of the last blocks to keep the tokens; see ``trace``.

    Raises:
        BackboneError: the model does not take a size, there is no such site, or no closed form for it.
    """
    for which in by_size(frames).values():
        with ordinary():
            pixels = torch.stack([frames[i].pixels.to(backbone.device, backbone.dtype) for i in which])
        seen = Pass.of(backbone, pixels, site, form, depth)
        placements = tuple(frames[i].placement.covering(seen.layout.span) for i in which)
        yield Pass(seen.trace, placements, tuple(which), form, depth)


def each_frame(passes: Iterable[Pass], work: Callable[[Pass], Sequence[R]]) -> list[R]:
    """What is made of each frame, in the order in which frames were given to ``run``.

    Args:
        passes: all those of a run.
        work: makes something of each frame of a pass; it is called in none of the caller's modes.
    """
    made: dict[int, R] = {}
    for seen in passes:
        with ordinary(seen.embedding.device):
            made |= zip(seen.which, work(seen), strict=True)
    return [made[index] for index in range(len(made))]


def embedded(backbone: Backbone, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B E"]:
    """The embeddings of pixels of any one size, as scores take them; nothing is kept for gradients.

    Raises:
        BackboneError: the model does not take that size.
    """
    sized = backbone.at_size(_size(pixels))
    with sized.evaluating():
        return sized.normalize(sized.embed_pixels(pixels.to(sized.device, sized.dtype)))


@contextmanager
def ordinary(device: torch.device | None = None) -> Iterator[None]:
    """Tensors made here have no graph, and are ordinary ones, whatever the caller's modes.

    Args:
        device: on which the caller's autocast is switched off as well: it is for the model, and not for the algebra.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if device is not None:
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def _size(pixels: Tensor) -> Size:
    return int(pixels.shape[2]), int(pixels.shape[3])

"""Maps that should be like the one in question, and maps that should not: no truth is needed to compare with them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.concepts import ConceptBank
from concept_cam.gradients import Trace, pixel_gradient, trace
from concept_cam.loading import wrap
from concept_cam.localizer import Localizer
from concept_cam.methods import Method, explain, sees_score
from concept_cam.metrics import flip_agreement, rank_correlation, shift_agreement

SANITY = ("flip", "shift", "parameters", "labels", "input_gradient")
"""Agreement with the map of the mirrored and of the moved image (higher is better), of the same model with its parameters
shuffled and of a label that is not there (nearer zero is better), and with the gradient at the pixels (neither)."""


def shuffled(backbone: Backbone) -> Backbone:
    """A copy with the numbers of each parameter in another order, the same each time: it has learnt nothing."""
    own = backbone.original
    module = copy.deepcopy(own.module)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel(), generator=generator, dtype=torch.int64, device="cpu").to(
                parameter.device
            )
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    tokenizer = getattr(own, "tokenizer", None)
    how = {option: getattr(own, option) for option in ("head", "call") if hasattr(own, option)}
    return wrap(module, tokenizer, own.preprocess, classes=own.classes or None, name=f"{own.name}, shuffled", **how)


@final
@dataclass(frozen=True, eq=False)
class SanityChecks:
    """The images of one trace, and those that they are held against.

    Attributes:
        localizer: what explains.
        seen: the images.
        randomized: the model with its parameters shuffled.
        absent: the embedding of a label for each image that it does not have; None where there is one label.
    """

    localizer: Localizer
    seen: Trace
    randomized: Backbone
    absent: Float[Tensor, "B E"] | None

    @classmethod
    def of(
        cls, localizer: Localizer, randomized: Backbone, seen: Trace, bank: ConceptBank, labels: Int[Tensor, " B"]
    ) -> SanityChecks:
        """The absent label is the one least like the image's own by text: what twins share is no failure of a map."""
        least = (bank.vectors @ bank.vectors[labels].T).argmin(0)
        absent = bank.vectors[least] if len(bank.names) > 1 else None
        size = int(seen.pixels.shape[2]), int(seen.pixels.shape[3])
        return cls(localizer, seen, randomized.at_size(size), absent)

    def about(
        self, method: Method, maps: Float[Tensor, "K B rows cols"], directions: Float[Tensor, "K B E"]
    ) -> dict[str, Float[Tensor, "K B"]]:
        """Spearman's correlations, -1 to 1."""
        seen, localizer = self.seen, self.localizer

        def explained(pixels: Tensor, backbone: Backbone = seen.backbone) -> Tensor:
            if pixels is seen.pixels and backbone is seen.backbone:
                return maps
            return explain(method, trace(backbone, pixels, seen.site.name, localizer.form), directions).float()

        found = {
            "flip": flip_agreement(explained, seen.pixels, seen.layout.span),
            "shift": shift_agreement(explained, seen.pixels, span=seen.layout.span),
            "parameters": rank_correlation(maps, explained(seen.pixels, self.randomized)),
        }
        if sees_score(method):
            if self.absent is not None:
                other = explain(method, seen, self.absent[None]).float()
                found["labels"] = rank_correlation(maps, other.expand_as(maps))
            strength = torch.stack([pixel_gradient(seen.backbone, seen.pixels, d).norm(dim=1) for d in directions])
            pooled = seen.layout.pooled(strength)
            found["input_gradient"] = rank_correlation(maps.abs(), pooled)
        return found

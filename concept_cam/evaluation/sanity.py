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
from concept_cam.loading import wrap
from concept_cam.methods import Method, sees_score
from concept_cam.metrics import flip_agreement, rank_correlation, shift_agreement
from concept_cam.passes import Pass, ordinary


def shuffled(backbone: Backbone) -> Backbone:
    """A copy with the numbers of each parameter in another order, the same each time: it has learnt nothing."""
    own = backbone.original
    module = copy.deepcopy(own.module)
    generator = torch.Generator().manual_seed(0)
    with ordinary():
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
    """Sanity checks without ground truth: flip, shift, parameter and label randomization, input gradient.

    Attributes:
        seen: the images.
        randomized: the model with its parameters shuffled.
        absent: the embedding of a label for each image that it does not have; None where there is one label.
    """

    seen: Pass
    randomized: Backbone
    absent: Float[Tensor, "B E"] | None

    @classmethod
    def of(cls, seen: Pass, randomized: Backbone, bank: ConceptBank, labels: Int[Tensor, " B"]) -> SanityChecks:
        """The absent label is the one least like the image's own by text: what twins share is no failure of a map.

        Args:
            seen: the images.
            randomized: the model with its parameters shuffled.
            bank: the labels.
            labels: of the images, as rows of the bank.
        """
        least = (bank.vectors @ bank.vectors[labels].T).argmin(0)
        return cls(seen, randomized, bank.vectors[least] if len(bank.names) > 1 else None)

    def about(
        self, method: Method, maps: Float[Tensor, "K B rows cols"], directions: Float[Tensor, "K B E"]
    ) -> dict[str, Float[Tensor, "K B"]]:
        """Spearman's correlations, -1 to 1.

        Args:
            method: made the maps.
            maps: of the images.
            directions: of the maps.
        """
        seen, span = self.seen, self.seen.layout.span

        def explained(pixels: Tensor) -> Tensor:
            return maps if pixels is seen.pixels else seen.again(pixels).maps(method, directions).stacked.float()

        random = seen.again(seen.pixels, self.randomized).maps(method, directions).stacked.float()
        found = {
            "flip": flip_agreement(explained, seen.pixels, span),
            "shift": shift_agreement(explained, seen.pixels, span=span),
            "parameters": rank_correlation(maps, random),
        }
        if sees_score(method):
            if self.absent is not None:
                other = seen.maps(method, self.absent[None]).stacked.float()
                found["labels"] = rank_correlation(maps, other.expand_as(maps))
            found["input_gradient"] = rank_correlation(maps.abs(), seen.pixel_gradient(directions))
        return found

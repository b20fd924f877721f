"""The model as faithfulness metrics see it: probabilities of a declared set of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.concepts import ConceptBank
from concept_cam.passes import embedded


@final
@dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """softmax(scale * scores) over the concepts of a bank.

    Attributes:
        backbone: the model.
        bank: the labels.
        scale: the inverse temperature.
    """

    backbone: Backbone
    bank: ConceptBank
    scale: float

    def __call__(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B K"]:
        """Probabilities, from the model's own forward pass."""
        return self.of_embedding(embedded(self.backbone, pixels))

    def of_embedding(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B K"]:
        """Probabilities of images that have been embedded already."""
        return (self.scale * self.bank.scores(embedding)).softmax(-1)


def own_scale(backbone: Backbone) -> float:
    """The scale that the model was trained with, whatever holds it; 1 of classifiers, whose scores are logits.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.evaluation import own_scale
        >>> round(own_scale(world.localizer().backbone))
        48
    """
    return backbone.current().scale

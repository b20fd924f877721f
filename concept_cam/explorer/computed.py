"""What a page has of a method that is not linear: no difference of base maps, so each map that it shows is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.comparison import SAME
from concept_cam.concepts import ConceptBank

STRENGTHS = (0.0, 0.6, 1.0)
"""At which each concept is computed; the first gives the base map."""

_NEAREST = 3


@final
@dataclass(frozen=True)
class Computed:
    """Each concept of a bank alone, and against the three that are nearest to it, at some strengths.

    Attributes:
        method: the name of the method.
        strengths: of the maps, the first of them 0.
        references: of each concept, their rows in the bank; none with the same embedding.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.explorer import Computed
        >>> bank = world.localizer().bank(world.species())
        >>> computed = Computed.of("legrad", bank)
        >>> [bank.names[k] for k in computed.references[0]], computed.directions(bank).shape
        (['frost finch', 'willow finch', 'copper finch'], torch.Size([144, 192]))
    """

    method: str
    strengths: tuple[float, ...]
    references: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, method: str, bank: ConceptBank) -> Computed:
        """What is computed of the concepts of a bank by a method."""
        references = []
        for name in bank.names:
            similar = bank.similarities(name)
            near = [bank.index(other) for other in bank.ranked(similar, name, len(bank.names)) if other != name]
            references.append(tuple([k for k in near if similar[k] <= SAME][:_NEAREST]))
        return cls(method, STRENGTHS, tuple(references))

    def directions(self, bank: ConceptBank) -> Float[Tensor, "SK E"]:
        """Those of all concepts at the first strength, then at the next."""
        others = torch.stack([bank.vectors[list(rows)].mean(0) if rows else 0 * bank.vectors[0] for rows in self.references])
        return torch.cat([bank.vectors - strength * others for strength in self.strengths])

"""The first token of the sequence becomes the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.block import Block
from concept_cam.backbones.closed_form import ClassAttention, Head, Rest
from concept_cam.backbones.pooling.pooling import Pooling
from concept_cam.backbones.site import Site


@final
@dataclass(frozen=True)
class ClassToken(Pooling):
    """The first token. The closed form follows from its row in the last block.

    Attributes:
        norm: the last norm.
        project: from its output to the embedding: affine.
        matrix: P, (E, D), where the projection is that and nothing else; else None. It is read anew each time.
    """

    norm: nn.Module
    project: Rest
    matrix: Callable[[], Any] = lambda: None

    def weights(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B 1 M"]:
        """One, and zeros."""
        weights = tokens.new_zeros(len(tokens), 1, tokens.shape[1])
        weights[..., 0] = 1
        return weights

    def values(self, tokens: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """The tokens themselves."""
        return tokens

    def finish(self, pooled: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch E"]:
        """The norm and the projection."""
        return self.project(self.norm(pooled))

    def closed_form(self, blocks: Sequence[Block | None], sites: Sequence[Site]) -> tuple[Site, Head] | None:
        """At the first norm of the last block, if that is known."""
        block = blocks[-1] if blocks else None
        site = next((site for site in sites if block is not None and site.module is block.norm), None)
        return None if block is None or site is None else (site, ClassAttention(block, self.finish, self._last))

    def _last(self) -> tuple[Any, Any] | None:
        matrix = self.matrix()
        return None if matrix is None else (self.norm, matrix)

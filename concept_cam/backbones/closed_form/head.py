"""A closed form: the way from the tokens of a site to the embedding, with the gradient that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.closed_form.state import HeadState


class Head(ABC):
    """Reads the tokens at a site; what it has read answers for any number of directions."""

    has_single_query: ClassVar[bool] = False
    """One query reads the tokens, and it does not depend on the patches."""

    @property
    def around(self) -> nn.Module | None:
        """The block around the site, if its input is all that the model holds of the batch; None if the site's output is."""
        return None

    @property
    def by_row(self) -> nn.Module | None:
        """A module that changes each token by itself, and of whose output only the class token is used; or None."""
        return None

    @abstractmethod
    def read(self, entering: Tensor, tokens: Float[Tensor, "B M D"], prefix: int) -> HeadState:
        """Read the site.

        Args:
            entering: what entered its module.
            tokens: what left it, the prefix first.
            prefix: how many tokens are no patches.
        """

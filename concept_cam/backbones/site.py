"""Where tokens can be read in a model, and how they lie on the picture."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.heads import Block, Head, Pooling
from concept_cam.errors import BackboneError


@dataclass(frozen=True)
class TokenLayout:
    """How tokens lie on the picture: first the prefix (class token, registers), then the grid row by row.

    A site whose output is (B, prefix + patches, D) has one.
    """

    prefix: int
    rows: int
    cols: int

    @property
    def patches(self) -> int:
        """How many tokens lie on the grid."""
        return self.rows * self.cols

    def read(self, output: Tensor) -> tuple[Float[Tensor, "B M D"], TokenLayout]:
        """The tokens, prefix first, and how they lie.

        Raises:
            BackboneError: the output is of another shape.
        """
        if output.ndim != 3 or output.shape[1] != self.prefix + self.patches:
            expected = f"(batch, {self.prefix} + {self.rows} x {self.cols}, width)"
            raise BackboneError(f"The site gave {tuple(output.shape)}; expected {expected}.")
        return output, self


@dataclass(frozen=True)
class FeatureMap:
    """How the cells of a map lie on the picture: as they are. A site whose output is a map has one.

    Attributes:
        channels_last: (B, rows, cols, D); else (B, D, rows, cols).
    """

    channels_last: bool = False

    def read(self, output: Tensor) -> tuple[Float[Tensor, "B M D"], TokenLayout]:
        """The cells as tokens, and how they lie.

        Raises:
            BackboneError: the output is no map.
        """
        if output.ndim != 4:
            raise BackboneError(f"The site gave {tuple(output.shape)}; expected a map of four dimensions.")
        channels_first = output.movedim(-1, 1) if self.channels_last else output
        return channels_first.flatten(2).transpose(1, 2), TokenLayout(0, *channels_first.shape[2:])


@dataclass(frozen=True)
class Site:
    """Where tokens are read.

    Attributes:
        name: the module's name within the model.
        module: its output holds the tokens.
        layout: how those tokens lie on the picture.
        head: all that comes after the site in closed form, if there is one; else gradients come from autograd.
    """

    name: str
    module: nn.Module
    layout: TokenLayout | FeatureMap
    head: Head | None = None


@dataclass(frozen=True)
class Tower:
    """What a vision tower offers.

    Attributes:
        family: what kind of tower it is, in a few words.
        sites: where tokens can be read, the default first.
        stride: the sides of its input are multiples of this.
        blocks: of a transformer whose attention can be laid open; else none.
        pooling: how the tokens that leave the last block become the embedding.
    """

    family: str
    sites: tuple[Site, ...]
    stride: int
    blocks: tuple[Block, ...] = ()
    pooling: Pooling | None = None

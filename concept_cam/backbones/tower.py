"""A vision tower as the library sees it: facts, each stated once. The closed form of the gradient follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from concept_cam.backbones.block import Block
from concept_cam.backbones.pooling import Pooling
from concept_cam.backbones.site import Site


@dataclass(frozen=True)
class Tower:
    """What a vision tower offers.

    Attributes:
        family: what kind of tower it is, in a few words.
        sites: where tokens can be read, the default first.
        stride: the sides of its input are multiples of this; a float where nothing but the number of cells says so, as if the
            grid of the default site covered the input.
        blocks: of a transformer, in order; None for a block that is not built as the formulas say.
        pooling: how the tokens that leave the last block, or the last map, become the embedding; None if that is not known.
        spare: sites that are offered if none of the others lies anywhere.
        regular: tokens keep their places from block to block, by the way a known family is built; the last of the sites, that
            of the first block, is measured for all, at the model's own size.
    """

    family: str
    sites: tuple[Site, ...]
    stride: int | float
    blocks: tuple[Block | None, ...] = ()
    pooling: Pooling | None = None
    spare: tuple[Site, ...] = ()
    regular: bool = False

    def with_closed_form(self) -> Tower:
        """The same tower, whose site has the closed form that follows from pooling and blocks, if there is one."""
        known = None if self.pooling is None else self.pooling.closed_form(self.blocks, self.sites)
        if known is None:
            return self
        where, head = known

        def completed(sites: tuple[Site, ...]) -> tuple[Site, ...]:
            return tuple(replace(site, head=head) if site.is_at(where) else site for site in sites)

        return replace(self, sites=completed(self.sites), spare=completed(self.spare))

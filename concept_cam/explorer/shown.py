"""An image of the page: small, with its maps and its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.errors import NoSpatialGradient
from concept_cam.explorer.maps import PackedMaps
from concept_cam.field import ConceptField
from concept_cam.images import Placement, read_image

SIDE = 448
"""The longer side of an image of the page, in pixels."""


@final
@dataclass(frozen=True, eq=False)
class Shown:
    """An image of the page.

    Attributes:
        name: of the image.
        image: a small copy, upright and in RGB.
        size: (height, width) of the image itself.
        grid: (rows, cols) of its maps.
        placement: of the maps on the small copy.
        maps: of all concepts of a bank; where they were computed at several strengths, at the first, then at the next.
        scores: of these concepts.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.explorer import Shown
        >>> localizer, plate = world.localizer(), world.draw_species("ember finch", seed=3)
        >>> (field,) = localizer.fields([plate.image])
        >>> shown = Shown.of("finch.png", plate.image, field, localizer.bank(world.species()))
        >>> shown.grid, shown.image.size, len(shown.scores)
        ((12, 12), (384, 384), 48)
    """

    name: str
    image: Image.Image
    size: tuple[int, int]
    grid: tuple[int, int]
    placement: Placement
    maps: PackedMaps
    scores: Float[Tensor, " K"]

    @classmethod
    def of(cls, name: str, image: Image.Image, field: ConceptField, bank: ConceptBank) -> Shown:
        """What the page has of an image.

        Args:
            name: of the image.
            image: that the field is of.
            field: gives the maps.
            bank: the concepts.

        Raises:
            NoSpatialGradient: the field is not finite.
        """
        return cls.with_maps(name, image, field(bank), bank.scores(field.embedding[None])[0], field.placement)

    @classmethod
    def with_maps(
        cls,
        name: str,
        image: Image.Image,
        maps: Float[Tensor, "M rows cols"],
        scores: Float[Tensor, " K"],
        placement: Placement,
    ) -> Shown:
        """What the page has of an image whose maps are there.

        Args:
            name: of the image.
            image: that the maps are of.
            maps: of all concepts; see the attribute.
            scores: of all concepts.
            placement: of the maps on the image.

        Raises:
            NoSpatialGradient: a map or a score is not finite.
        """
        if not (maps.isfinite().all() and scores.isfinite().all()):
            raise NoSpatialGradient(f"{name}: its maps are not finite, so that there is nothing to show.")
        rows, cols = maps.shape[1:]
        upright = read_image(image)
        small = upright.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        place = placement.scaled((small.height, small.width))
        size = upright.height, upright.width
        return cls(name, small, size, (rows, cols), place, PackedMaps.of(maps.flatten(1)), scores.float().cpu())

"""The embedded world: birds whose parts are known, and a small dual encoder trained on them.

birds        a bird as a card of attributes; species and their twins
renderer     draws a bird as a plate: an image with a label for every pixel
captions     true sentences about a plate
checkpoint   architecture, tokenizer and weights of the encoder, in open_clip's layout
shortcuts    species that another checkpoint recognises by their habitat
heldout, dataset   plates that were not drawn in training, with the masks of what to find

``workshop/`` has the code that trained the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_cam.errors import UnknownConcept, did_you_mean
from concept_cam.world.birds import PARTS, species
from concept_cam.world.checkpoint import FOLDER, LAST_BLOCK, SHORTCUT, apply_weights
from concept_cam.world.renderer import DRAWING_STREAM, Plate, draw

if TYPE_CHECKING:
    import torch

    from concept_cam.gradients import Form
    from concept_cam.images import Fit, Size
    from concept_cam.localizer import Localizer
    from concept_cam.methods import AnyMethod

MODELS: Mapping[str, Path] = {"world": FOLDER, "world-shortcut": SHORTCUT, "world-last-block": LAST_BLOCK}
"""The encoders of the embedded world by the names that the command line takes."""

__all__ = ["LAST_BLOCK", "MODELS", "PARTS", "SHORTCUT", "Plate", "draw_species", "localizer", "species"]


def localizer(
    *,
    device: str | torch.device = "cpu",
    checkpoint: str | PathLike[str] = FOLDER,
    vocabulary: str | Iterable[str] | None = None,
    templates: str | Sequence[str] = "world",
    method: AnyMethod | None = None,
    site: str | None = None,
    form: Form = "auto",
    fit: Fit | None = None,
    size: int | Size | None = None,
) -> Localizer:
    """A Localizer with the embedded encoder, whose vocabulary is the 48 species.

    Args:
        device: of the model.
        checkpoint: a folder from ``workshop.training``, or a file with the weights of another encoder: ``SHORTCUT`` has learnt
            planted shortcuts, ``LAST_BLOCK`` collects its evidence in the last block.
        vocabulary: the concepts from which references are selected; the species by default.
        templates: sentences for the text encoder; by default those it was trained on.
        method: as in ``Localizer``, like all further options.
        site: where tokens are read.
        form: of the gradient.
        fit: how an image is fitted to the aspect ratio of the input.
        size: of the input.

    Example:
        >>> from concept_cam import world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> world.localizer()(plate.image, "ember finch", against="frost finch").map.shape
        torch.Size([12, 12])
    """
    from concept_cam.backbones import openclip
    from concept_cam.checks import check_at_load
    from concept_cam.localizer import Localizer

    path = Path(checkpoint)
    title = f"world-{path.stem}" if path.is_file() else "world"
    backbone = openclip.load(f"local-dir:{FOLDER if path.is_file() else path}", device=device, title=title)
    if path.is_file():
        apply_weights(path, backbone.module)
    check_at_load(backbone)
    names = species() if vocabulary is None else vocabulary
    options: dict[str, Any] = {
        "method": method,
        "site": site,
        "form": form,
        "fit": fit,
        "size": size,
    }
    return Localizer(backbone, vocabulary=names, templates=templates, **options)


def draw_species(name: str, seed: int = 0, size: int = 384) -> Plate:
    """Draw a plate of a species, different from all plates of the training.

    Args:
        name: of the species.
        seed: the same name, seed and size give the same plate.
        size: side of the image in pixels.

    Raises:
        UnknownConcept: there is no such species.

    Example:
        >>> from concept_cam import world
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> plate.image.size, bool(plate.mask("crown").any())
        ((384, 384), True)
    """
    if name not in species():
        hint = did_you_mean(name, species())
        raise UnknownConcept(f"No species {name!r} in the embedded world.{hint} It has: {', '.join(species())}.")
    rng = np.random.default_rng([DRAWING_STREAM, seed])
    return draw(species()[name], rng, size)

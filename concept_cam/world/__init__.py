"""The embedded world: birds whose parts are known, and a small dual encoder that knows them.

birds        what a bird is: a card of attributes; species and their twins
renderer     a bird becomes a plate: an image with a label for every pixel
captions     what is true of a plate, in words
checkpoint   the encoder's architecture, words and weights, in open_clip's layout
shortcuts    species told by where they are, which a second checkpoint has learnt
heldout, dataset   plates that training never drew, with the mask of what there is to find

How the checkpoints were made is in ``workshop/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_cam.errors import UnknownConcept, did_you_mean
from concept_cam.world.birds import PARTS, species
from concept_cam.world.checkpoint import FOLDER, SHORTCUT, apply_changes
from concept_cam.world.renderer import DRAWING_STREAM, Plate, draw

if TYPE_CHECKING:
    import torch

    from concept_cam.gradients import Form
    from concept_cam.images import Fit, Size
    from concept_cam.localizer import Localizer
    from concept_cam.methods import AnyMethod

MODELS: Mapping[str, Path] = {"world": FOLDER, "world-shortcut": SHORTCUT}
"""The encoders of this world, by the names that a command line gives them."""

__all__ = ["MODELS", "PARTS", "SHORTCUT", "Plate", "draw_species", "localizer", "species"]


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
    """A Localizer with the embedded encoder, which knows its species among each other.

    Args:
        device: where it shall lie.
        checkpoint: another encoder of this world, as ``workshop.training`` leaves it; or what another has other
            than the embedded one, such as ``SHORTCUT``, which has learnt planted shortcuts.
        vocabulary: where references are chosen from; the species by default.
        templates: sentences that the encoder was trained on.
        method: as in ``Localizer``, and so are the others.
        site: where tokens are read.
        form: of the gradient.
        fit: how an image is brought to the input's aspect.
        size: of the input.
    """
    from concept_cam.backbones import openclip
    from concept_cam.checks import check_at_load
    from concept_cam.localizer import Localizer
    from concept_cam.methods import hires_cam

    path = Path(checkpoint)
    title = f"world-{path.stem}" if path.is_file() else "world"
    backbone = openclip.load(f"local-dir:{FOLDER if path.is_file() else path}", device=device, title=title)
    if path.is_file():
        apply_changes(path, backbone.module)
    check_at_load(backbone)
    names = species() if vocabulary is None else vocabulary
    options: dict[str, Any] = {
        "method": hires_cam if method is None else method,
        "site": site,
        "form": form,
        "fit": fit,
        "size": size,
    }
    return Localizer(backbone, vocabulary=names, templates=templates, **options)


def draw_species(name: str, seed: int = 0, size: int = 384) -> Plate:
    """Draw a species; the same name, seed and size give the same plate, and none that training drew.

    Raises:
        UnknownConcept: there is no such species.
    """
    if name not in species():
        hint = did_you_mean(name, species())
        raise UnknownConcept(f"No species {name!r} in the embedded world.{hint} It has: {', '.join(species())}.")
    rng = np.random.default_rng([DRAWING_STREAM, seed])
    return draw(species()[name], rng, size)

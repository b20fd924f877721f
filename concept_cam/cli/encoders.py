"""The model that a command line names, with the sentences that suit it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.backbones import Backbone

HELP = "As in `localize`; none: the embedded model; fieldguide-shortcut: its sister with planted shortcuts."


def load_encoder(model: str | None, pretrained: str | None, device: str, classes: str | None = None) -> tuple[Backbone, str]:
    """A model, by default the embedded one, and the name of the templates for it.

    Raises:
        OptionError: weights are named, but no architecture for them; or weights or classes for an embedded model.
        BackboneError: see ``load``.
    """
    from concept_cam import fieldguide
    from concept_cam.loading import load

    if pretrained is not None and model is None:
        raise OptionError(f"--pretrained {pretrained} needs a --model, such as ViT-B-16.")
    checkpoint = fieldguide.MODELS.get(model or "fieldguide")
    if checkpoint is not None:
        if pretrained is not None or classes is not None:
            given = "--pretrained" if pretrained is not None else "--classes"
            raise OptionError(f"{given} is not for the embedded model; name another with --model.")
        return fieldguide.localizer(device=device, checkpoint=checkpoint).backbone, "fieldguide"
    if sys.stderr.isatty():
        typer.echo(f"loading {model} ...", err=True)
    return load(model or "", pretrained, device, classes=classes), "photo"

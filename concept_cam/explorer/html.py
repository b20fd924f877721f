"""The page as one HTML file that loads nothing and runs our script alone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.explorer.computed import Computed
from concept_cam.explorer.maps import FINE, whole
from concept_cam.explorer.shown import Shown

_SCRIPTS = ("maps.js", "heat.js", "parts.js", "state.js", "saving.js", "explorer.js")
_QUALITY = 75

DATA = '<script id="data" type="application/json">'
"""After which the page has what its script reads, as JSON."""


def to_html(
    shown: Sequence[Shown],
    bank: ConceptBank,
    facts: Sequence[tuple[str, str]] = (),
    problems: Sequence[tuple[str, str]] = (),
    computed: Computed | None = None,
) -> str:
    r"""Render the page, to be written in UTF-8.

    Names reach the page as JSON in which ``<`` is escaped, and are text there, whatever they hold.

    Args:
        shown: the images, of the concepts of the bank.
        bank: the concepts, with what they are compared by.
        facts: (name, value) pairs that say how the maps were made.
        problems: the names of images that were skipped, and why.
        computed: of which maps the images have, if their method is not linear.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.explorer import Shown, to_html
        >>> localizer, plate = world.localizer(), world.draw_species("ember finch", seed=3)
        >>> (field,) = localizer.fields([plate.image])
        >>> bank = localizer.bank(world.species())
        >>> page = to_html([Shown.of("</script>.png", plate.image, field, bank)], bank, [("model", "world")])
        >>> page.count("</script>"), "\\u003c/script>.png" in page
        (2, True)
    """
    script = "\n".join(map(_asset, _SCRIPTS))
    data = {
        "names": [spelt(name) for name in bank.names],
        **_units(bank),
        "images": [_told(one) for one in shown],
        "computed": None if computed is None else asdict(computed),
    }
    html = (
        _environment()
        .from_string(_asset("explorer.html.jinja"))
        .render(
            style=_asset("explorer.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            data_begins=DATA,
            data=json.dumps(data).replace("<", "\\u003c"),
            images=len(shown),
            concepts=len(bank.names),
            facts=facts,
            problems=problems,
        )
    )
    return spelt(html)


def spelt(text: str) -> str:
    r"""A text as UTF-8 has it: names of files that are not UTF-8 reach Python as lone surrogates, which it cannot encode.

    Example:
        >>> from concept_cam.explorer.html import spelt
        >>> spelt("a\udcff.png")
        'a?.png'
    """
    return text.encode(errors="replace").decode()


def _units(bank: ConceptBank) -> dict[str, Any]:
    """Numbers of each concept, as few as there can be, whose inner products are the similarities."""
    left, values, _ = torch.linalg.svd(bank.units.detach().cpu().double(), full_matrices=False)
    units, scales = whole(left * values, 0, FINE)
    return {"units": _encoded(units.short()), "unit_scales": _encoded(scales[0].float())}


@cache
def _environment() -> Any:
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  (most commands write no page)

    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _asset(name: str) -> str:
    return files("concept_cam.explorer").joinpath(name).read_text("utf-8")


def _told(one: Shown) -> dict[str, Any]:
    """An image as the script reads it; tensors are little-endian."""
    place, maps = one.placement, one.maps
    tensors = {"basis": maps.basis, "coefficients": maps.coefficients, "shared": maps.shared, "rest": maps.rest}
    return {
        "name": spelt(one.name),
        "source": _embedded(one.image),
        "width": one.image.width,
        "height": one.image.height,
        "size": one.size,
        "grid": one.grid,
        "window": place.window,
        "cells": place.window if place.cells is None else place.cells,
        "scores": _encoded(one.scores),
        "scales": _encoded(maps.scales),
        **{name: _encoded(tensor) for name, tensor in tensors.items()},
    }


def _encoded(tensor: Tensor) -> str:
    array = tensor.detach().cpu().contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def _embedded(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"

"""The settings of a run in ``run.json``: all that its rows depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concept_cam.errors import OutputError, Unreachable
from concept_cam.files import create_file
from concept_cam.outside import read_bytes

SETTINGS = "run.json"
_LARGEST = 1 << 24

_DIGESTS = {
    "model_digest": "model (its numbers or its layers are not the same)",
    "preprocessing_digest": "preprocessing",
    "texts_digest": "tokenizer (it reads the texts otherwise)",
    "method_digests": "method of the same name",
    "images_digest": "set of images",
    "labels_digest": "set of names, labels or twins",
    "regions_digest": "set of masks, boxes or points",
    "training_digest": "set of training images or labels",
    "vocabulary_digest": "vocabulary",
}
"""How a refusal calls what ``identity_of`` gives."""


def read_settings(folder: Path) -> dict[str, Any]:
    """What the rows in a folder depend on: options, digests of all that was looked at, versions.

    Raises:
        OutputError: there is no run, or its settings are damaged.

    Example:
        >>> import tempfile
        >>> from concept_cam.runs import Run, read_settings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Run.held(Path(folder), {"method": "hires_cam"}, ("image", "label")):
        ...         read_settings(Path(folder))
        {'method': 'hires_cam'}
    """
    file = folder / SETTINGS
    try:
        held = json.loads(read_bytes(file, _LARGEST))
        if not isinstance(held, dict):
            raise ValueError("no mapping")
        # What is too deep to be written again is not what a run has written.
        json.dumps(held)
    except Unreachable:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise OutputError(f"{file}: not the settings of a run ({reason}); choose another folder, or delete it.") from error
    return held


def claim(file: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run, or compare them with those that are there.

    Args:
        file: of the settings.
        settings: as JSON knows them.

    Raises:
        OutputError: the folder holds another run, or it cannot be written.
    """
    if not file.exists() and not file.is_symlink():
        create_file(file, (json.dumps(settings, indent=2) + "\n").encode())
    # Nobody holds a folder of a store: another run may have come first.
    held = read_settings(file.parent)
    other = [key for key in (*settings, *held) if _text(held, key) != _text(settings, key)]
    if other:
        # A model by another name has other numbers: digests are told where nothing else says it.
        named = [key for key in other if key not in _DIGESTS]
        what = dict.fromkeys(map(_named, named) if named else (_DIGESTS[key] for key in other))
        versions = _versions(held.get("versions"), settings.get("versions")) if "versions" in named else ""
        raise OutputError(
            f"{file.parent} holds a run with another {', '.join(what)}{versions}; choose another folder, or delete it."
        )


def _text(held: Mapping[str, Any], key: str) -> str | None:
    """A value as text, for to Python 1, 1.0 and true are equal, and NaN is not itself."""
    return json.dumps(held[key], sort_keys=True) if key in held else None


def _named(key: str) -> str:
    return key if key.isprintable() and len(key) < 50 else "setting"


def _versions(held: Any, now: Any) -> str:
    """Of which libraries; a damaged file says nothing."""
    if not isinstance(held, dict) or not isinstance(now, dict):
        return ""
    other = [key for key in now if held.get(key) != now[key]]
    return f" ({', '.join(f'{key} is {now[key]} now' for key in other)})" if other else ""

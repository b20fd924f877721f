"""Where a map comes from, kept with each result; and how the results of a run were made, so that they can be cited."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from concept_cam.errors import OptionError, Unreachable, one_line
from concept_cam.files import write_file
from concept_cam.gradients import Trace
from concept_cam.methods import AnyMethod, name_of
from concept_cam.outside import parse_json, read_bytes
from concept_cam.preprocess import Preparation
from concept_cam.stored import exactly, mapping, refused

HOW = "how.json"
"""The file beside the tables of a run that says how they were made."""

_SHORT = 12
"""Digits of a digest that are shown."""

_LONGEST = 10_000
"""Letters of a command."""

_LARGEST = 1 << 24
"""Bytes of a file."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def provenance_of(seen: Trace, method: AnyMethod, preprocess: Preparation, templates: Sequence[str]) -> dict[str, object]:
    """Model, site, form of the gradient, method, input, templates and versions, as JSON knows them.

    Args:
        seen: the pass.
        method: that made the map.
        preprocess: how images were prepared.
        templates: sentences around names.
    """
    backbone = seen.backbone.original
    return {
        "model": backbone.name,
        "site": seen.site.name,
        "gradient": seen.form,
        "method": name_of(method),
        "input": {"fit": preprocess.fit, "size": [int(side) for side in seen.pixels.shape[2:]]},
        "templates": list(templates),
        "versions": {"concept-cam": version("concept-cam"), **backbone.versions},
    }


@final
@dataclass(frozen=True)
class Provenance:
    """How the results of a run were made.

    Attributes:
        job: what was run: ``audit``, ``evaluation``, ``fields``, ``localize``, ``parts``, ``search``.
        data: name of the dataset.
        images: how many examples it has.
        data_digest: SHA-256 of names, labels and images.
        model: its name.
        model_digest: SHA-256 of its parameters and buffers.
        method: one or more, by name.
        site: where tokens are read.
        gradient: factored, dense, or auto: factored where the model has a closed form.
        input: how images are fitted, and to which size.
        strength: of the references, one or more; none where nothing is compared.
        templates: sentences around names.
        among: the classes among which the model decides, in words; None where it does not.
        more: what else was asked for, in words: a vocabulary, backgrounds.
        versions: of concept-cam and of what runs the model.
        command: the command line without the folder of its results; None if the run was started from Python.
        date: of the start of the run, in UTC, as YYYY-MM-DD.
    """

    job: str
    data: str
    images: int
    data_digest: str
    model: str
    model_digest: str
    method: tuple[str, ...]
    site: str
    gradient: str
    input: str
    strength: tuple[float, ...]
    templates: tuple[str, ...]
    among: str | None
    more: Mapping[str, str]
    versions: Mapping[str, str]
    command: str | None = None
    date: str = ""

    def __post_init__(self) -> None:
        if not self.date:
            object.__setattr__(self, "date", today())

    @property
    def cite(self) -> str:
        """One line to cite the results."""
        among = f" among {self.among}" if self.among else ""
        strength = f"strength {self._strengths}, " if self.strength else ""
        return (
            f"concept-cam {self.versions['concept-cam']}, {self.job} of {self.data} ({self.images:,} images, SHA-256 "
            f"{self.data_digest[:_SHORT]}) with {self.model} (weights SHA-256 {self.model_digest[:_SHORT]}){among}, "
            f"{', '.join(self.method)} at {self.site}, {strength}{self.date}."
        )

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """(name, value) of all of it, to be shown."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            ("date", self.date),
            ("command", self.command or "from Python"),
            ("versions", versions),
            ("data", f"{self.data}, {self.images:,} images, SHA-256 {self.data_digest}"),
            ("model", f"{self.model}, weights SHA-256 {self.model_digest}"),
            ("input", self.input),
            ("method", f"{', '.join(self.method)} at {self.site}, {self.gradient} gradient"),
            *((("strength", self._strengths),) if self.strength else ()),
            ("templates", "; ".join(self.templates) or "none"),
            *((("classes", self.among),) if self.among else ()),
            *self.more.items(),
        )

    @property
    def _strengths(self) -> str:
        return ", ".join(f"{strength:g}" for strength in self.strength)

    def as_json(self) -> dict[str, Any]:
        """All of it and the line to cite, as JSON knows it."""
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "cite": self.cite}))
        return found

    def kept(self, folder: Path) -> Provenance:
        """This, as ``how.json`` in a folder; with the date and command of the start, if the folder holds the same run.

        A run that is resumed ends with the same bytes as one that was not interrupted, so the clock is read once.

        Raises:
            OutputError: the file cannot be written.
        """
        file = folder / HOW
        kept = replace(self, **_start_of(file, self))
        write_file(file, (json.dumps(kept.as_json(), indent=2) + "\n").encode())
        return kept

    @classmethod
    def load(cls, folder: Path) -> Provenance | None:
        """What ``kept`` wrote into a folder; None if it is not there.

        Raises:
            OutputError: the file is damaged.
        """
        file = folder / HOW
        if not file.exists():
            return None
        with refused(file, "provenance"):
            held = mapping(parse_json(read_bytes(file, _LARGEST)), "it")
            exactly(held, [*(one.name for one in fields(cls)), "cite"], "it")
            for name, value in held.items():
                _check(name, value)
            given: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in held.items() if name != "cite"}
            found = cls(**given)
            if found.as_json() != held:
                raise ValueError("its line to cite is not that of its facts")
            return found


_JSON: Mapping[str, type] = {
    "images": int,
    "method": list,
    "strength": list,
    "templates": list,
    "more": dict,
    "versions": dict,
}
"""What JSON has for an attribute; for all others a text."""


def _check(name: str, value: Any) -> None:
    """Raise ValueError unless a value may be that of an attribute."""
    if value is None and name in ("among", "command"):
        return
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    of_inner = int | float if name == "strength" else str
    if not isinstance(value, _JSON.get(name, str)) or not all(isinstance(one, of_inner) for one in inner):
        raise ValueError(f"{name} is {one_line(value, 60)}")


def _start_of(file: Path, run: Provenance) -> dict[str, Any]:
    """When and by which command a run was started; nothing if the file is not there or is of another run."""
    try:
        held = parse_json(read_bytes(file, _LARGEST))
        start = {"date": held["date"], "command": held["command"]}
        same = replace(run, **start).as_json() == held
    except Unreachable:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    well = isinstance(start["date"], str) and _DAY.fullmatch(start["date"])
    command = start["command"]
    spelt = command is None or (isinstance(command, str) and command == one_line(command, _LONGEST))
    return start if same and well and spelt else {}


def today() -> str:
    """The date in UTC; of ``SOURCE_DATE_EPOCH`` where that is set, as for every build that is to be reproduced.

    Raises:
        OptionError: ``SOURCE_DATE_EPOCH`` is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(timezone.utc) if epoch is None else datetime.fromtimestamp(int(epoch), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise OptionError(f"SOURCE_DATE_EPOCH is {epoch!r}; expected seconds since 1970, or leave it unset.") from error
    return moment.strftime("%Y-%m-%d")

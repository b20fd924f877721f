"""What ``concept-cam parts`` writes beside the images: a sheet for each species, and tables for other tools."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.cli.images import first_free, shortened
from concept_cam.cli.terminal import complain
from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from PIL import Image

    from concept_cam.parts import PartFinding
    from concept_cam.parts.sheet import PartSheet
    from concept_cam.provenance import Provenance


class Sheets:
    """A sheet for each species, written as soon as its last image is there."""

    def __init__(self, species: Mapping[Path, str], out: Path, made: Provenance) -> None:
        self._out, self._made, self._kept = out, made, False
        self._species, self._left = species, Counter(species.values())
        self._open: dict[str, PartSheet] = {}
        self._files: dict[str, Path] = {}
        taken: dict[str, int] = {}
        for name in self._left:
            slug = first_free(shortened(re.sub(r"\W+", "-", name.lower()).strip("-"), 80) or "sheet", taken)
            self._files[name] = out / f"sheet-{slug}.html"
        self.written = 0

    def add(self, path: Path, name: str, image: Image.Image, finding: PartFinding) -> None:
        """Take in an image and what was found on it."""
        from concept_cam.parts.sheet import PartSheet

        if not self._kept:  # with the first finding: a run that finds nothing leaves nothing
            self._made, self._kept = self._made.kept(self._out), True
        species = self._species[path]
        self._open.setdefault(species, PartSheet(species, self._made)).add(name, image, finding)
        self._left[species] -= 1
        if self._left[species] == 0:
            self._write(species)

    def leave_out(self, path: Path) -> None:
        """Wait no longer for an image."""
        self._left[self._species[path]] -= 1

    def write_all(self) -> None:
        """Write those that are still waiting."""
        for species in list(self._open):
            self._write(species)

    def _write(self, species: str) -> None:
        from concept_cam.files import write_file
        from concept_cam.page import to_html

        write_file(self._files[species], to_html(self._open.pop(species).page()).encode())
        self.written += 1


class Tables:
    """What is written at the end, without the masks: COCO has them as run lengths, and the others do not ask for them.

    Images are named by their paths from the folder that holds all of them.
    """

    def __init__(self, species: Mapping[Path, str]) -> None:
        whole = {path: Path(os.path.abspath(path)) for path in species}  # noqa: PTH100
        folder = os.path.commonpath([path.parent for path in whole.values()])
        self._names = {path: file.relative_to(folder).as_posix() for path, file in whole.items()}
        self._species = species
        self._coco: dict[str, Any] = {}
        self._findings: dict[str, PartFinding] = {}
        self._cub: dict[str, str] = {}
        self.visible = self.asked = 0

    def add(self, path: Path, finding: PartFinding) -> None:
        """Take in what was found on an image."""
        import torch

        from concept_cam.parts import to_coco, to_cub

        name = self._names[path]
        self.visible += sum(part.visible for part in finding.parts)
        self.asked += len(finding.parts)
        self._add_to_coco(to_coco({name: finding}))
        nothing = torch.zeros(1, 1, dtype=torch.float32, device="cpu")
        light = [replace(part, mask=None if part.mask is None else nothing > 0, map=nothing) for part in finding.parts]
        self._findings[name] = replace(finding, parts=tuple(light))
        try:
            to_cub({name: self._findings[name]}, self._species_of(path))
        except OptionError as error:
            complain(f"not in cub/: {error}")
        else:
            self._cub |= self._species_of(path)

    def _species_of(self, path: Path) -> dict[str, str]:
        return {self._names[path]: self._species[path]}

    def _add_to_coco(self, one: dict[str, Any]) -> None:
        if not self._coco:
            self._coco = {**one, "images": [], "annotations": []}
        images, annotations = self._coco["images"], self._coco["annotations"]
        images.append(one["images"][0] | {"id": len(images) + 1})
        annotations += [
            annotation | {"id": number, "image_id": len(images)}
            for number, annotation in enumerate(one["annotations"], len(annotations) + 1)
        ]

    def write(self, out: Path) -> None:
        """Write ``parts.csv``, ``coco.json`` and ``cub/``."""
        from concept_cam.files import write_file
        from concept_cam.parts import to_csv, to_cub

        write_file(out / "parts.csv", to_csv(self._findings))
        write_file(out / "coco.json", json.dumps(self._coco).encode())
        if self._cub:
            for file, content in to_cub({name: self._findings[name] for name in self._cub}, self._cub).items():
                write_file(out / "cub" / file, content)

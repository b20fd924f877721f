"""The attributes of a species' parts over a folder of images: by majority vote, and as an HTML page.

    python examples/part_sheet.py
    python examples/part_sheet.py --images photos/house_finch --species "house finch" --vocabulary birds \
        --model ViT-B-16/laion400m_e32 --out finches

An image that cannot be read is reported and skipped. Without a folder, plates of the embedded world are drawn.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

import typer

from concept_cam import Localizer, load, world
from concept_cam.errors import ConceptCamError
from concept_cam.images import read_image
from concept_cam.page import to_html
from concept_cam.parts import read_parts, stream_parts
from concept_cam.parts.sheet import PartSheet, annotated


def main(
    images: Path | None = None,
    species: str = "ember finch",
    vocabulary: str = "world-parts",
    model: str | None = None,
    out: Path = Path("concept-cam-out/sheet"),
) -> None:
    """Write a part sheet of a species, and print what its parts look like."""
    localizer = Localizer(load(model), templates="parts") if model else world.localizer()
    (out / "annotated").mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in (images or drawn(species, out / "plates")).iterdir() if file.is_file())
    sheet, seen, votes, count = PartSheet(species), Counter[str](), defaultdict[str, Counter[str]](Counter), 0
    for file, finding in stream_parts(localizer, files, read_parts(vocabulary), on_error=report):
        image = read_image(file)
        annotated(finding, image).save(out / "annotated" / f"{file.name}.png")  # what a click in the sheet shows
        sheet.add(file.name, image, finding)
        count += 1
        for part in finding.parts:
            seen[part.name] += part.visible
            for attribute, reading in part.attributes.items():
                votes[f"{part.name}, {attribute}"][reading.value] += 1
    for part_and_attribute, values in votes.items():
        print(f"{part_and_attribute}: " + ", ".join(f"{value} {number}/{count}" for value, number in values.most_common(2)))
    print("mostly not visible:", ", ".join(name for name, number in seen.items() if 2 * number < count) or "none")
    (out / "sheet.html").write_bytes(to_html(sheet.page()).encode())
    print(f"sheet of {count} images in {out / 'sheet.html'}")


def report(file: Path, error: ConceptCamError) -> None:
    """Print which image is skipped, and why."""
    print(f"skipped: {error}", file=sys.stderr)


def drawn(species: str, folder: Path) -> Path:
    """A folder of plates of a species of the embedded world."""
    folder.mkdir(exist_ok=True)
    for seed in range(4):
        world.draw_species(species, seed).image.save(folder / f"{species.replace(' ', '-')}-{seed}.png")
    return folder


if __name__ == "__main__":
    typer.run(main)

"""Boxes around the object that a text names, for each image of a folder, as CSV: file, score, left, top, right, bottom.

    python examples/query_to_boxes.py
    python examples/query_to_boxes.py --images photos --query "house finch" --against "purple finch" \
        --model ViT-B-16/laion400m_e32 --out finches.csv

The score is that of the whole image. Sort by it, because an image without a house finch has boxes too. Boxes lie where query
and reference differ, the strongest first, in pixels, half-open. ``--strength 0`` uses the query alone.

Images are read ahead, and memory does not grow with their number. An image that cannot be read is reported and skipped.
Without a folder, plates of the embedded world are drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from concept_cam import Localizer, load, world
from concept_cam.errors import ConceptCamError
from concept_cam.tables import table_of


def main(
    images: Path | None = None,
    query: str = "ember finch",
    against: str = "frost finch",
    strength: float = 0.6,
    model: str | None = None,
    out: Path = Path("concept-cam-out/boxes.csv"),
) -> None:
    """Write boxes around what a text names, for each image of a folder."""
    localizer = Localizer(load(model)) if model else world.localizer()
    out.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in (images or drawn(out.parent / "plates")).iterdir() if file.is_file())
    columns = ("left", "top", "right", "bottom")
    rows = [
        {"file": file.name, "score": result.scores[query], **dict(zip(columns, box, strict=True))}
        for file, result in localizer.stream(files, query, against, strength=strength, on_error=report)
        for box in result.boxes()
    ]
    out.write_bytes(table_of(rows, ("file", "score", *columns)))
    print(f"boxes in {out}")


def report(file: Path, error: ConceptCamError) -> None:
    """Print which image is skipped, and why."""
    print(f"skipped: {error}", file=sys.stderr)


def drawn(folder: Path) -> Path:
    """A folder of plates of the embedded world: ember finches, and jays among them."""
    folder.mkdir(exist_ok=True)
    for name in ("ember finch", "royal jay"):
        for seed in range(4):
            world.draw_species(name, seed).image.save(folder / f"{name.replace(' ', '-')}-{seed}.png")
    return folder


if __name__ == "__main__":
    typer.run(main)

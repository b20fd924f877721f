"""Find parts with your own vocabulary in YAML and your own templates, and write them as CSV.

    python examples/own_vocabulary.py
    python examples/own_vocabulary.py --images photos --vocabulary insects-of-my-garden.yaml --templates sentences.txt \
        --model ViT-B-16/laion400m_e32 --out insects.csv

Copy ``birds-at-my-feeder.yaml`` and ``sentences.txt`` and change the words. For each attribute one of the listed values is
predicted, whether it fits or not, so list all that you expect. The embedded encoder, the default, knows the words of its world
and refuses others; other models take any. Without a folder, plates of the embedded world are drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from concept_cam import Localizer, load, read_templates, world
from concept_cam.errors import ConceptCamError
from concept_cam.parts import read_parts, stream_parts
from concept_cam.parts.sheet import summary
from concept_cam.writers import to_csv

HERE = Path(__file__).parent


def main(
    images: Path | None = None,
    vocabulary: Path = HERE / "birds-at-my-feeder.yaml",
    templates: Path = HERE / "sentences.txt",
    model: str | None = None,
    out: Path = Path("concept-cam-out/parts.csv"),
) -> None:
    """Find the parts of an own vocabulary in the images of a folder."""
    words, sentences = read_parts(vocabulary), read_templates(templates)
    localizer = Localizer(load(model), templates=sentences) if model else world.localizer(templates=sentences)
    files = sorted(file for file in (images or drawn(out.parent / "feeder")).iterdir() if file.is_file())
    findings = {}
    for file, finding in stream_parts(localizer, files, words, on_error=report):
        findings[file.name] = finding
        print(f"{file.name}: {summary(finding)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(to_csv(findings))
    print(f"{words.title}: {len(findings)} images in {out}")


def report(file: Path, error: ConceptCamError) -> None:
    """Print which image is skipped, and why."""
    print(f"skipped: {error}", file=sys.stderr)


def drawn(folder: Path) -> Path:
    """A folder of plates of the embedded world."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ember finch", "royal jay", "garden tanager", "misty heron"):
        world.draw_species(name, seed=3).image.save(folder / f"{name.replace(' ', '-')}-3.png")
    return folder


if __name__ == "__main__":
    typer.run(main)

"""What a zero-shot classifier relies on: classes with evidence off the object, backgrounds that change predictions.

    python examples/audit_zero_shot.py
    python examples/audit_zero_shot.py --model world-shortcut --out concept-cam-out/shortcut
    python examples/audit_zero_shot.py --data photos.csv --model ViT-B-16/laion400m_e32 --parts birds --out photos-audit

The data are a folder of classes (``house_finch/*.jpg``), a CSV file with columns file and label, or any other layout of
``read_dataset``. Suspects need the position of the objects: boxes (left, top, right, bottom) or masks (mask) in the CSV file.
Each audit has its own folder; an interrupted one is resumed.

Without data, birds of the embedded world are drawn, some in the habitat of a planted shortcut. The embedded encoder relies on
the birds; world-shortcut was trained to recognise six of them by their habitat.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from concept_cam import Localizer, load, read_templates, read_vocabulary, world
from concept_cam.audit import audit, write_report, write_tables
from concept_cam.datasets import read_dataset
from concept_cam.parts import read_parts
from concept_cam.world.dataset import birds_dataset


def main(
    data: Path | None = None,
    model: str = "world",
    parts: str | None = None,
    out: Path = Path("concept-cam-out/audit"),
) -> None:
    """Audit a zero-shot classifier, print what is suspicious and write a report."""
    dataset = read_dataset(data) if data else birds_dataset(96, at_home=True)
    if model in world.MODELS:
        localizer = world.localizer(checkpoint=world.MODELS[model])
        vocabulary, backgrounds, sentences = "world-parts", "world-habitats", ("world", "world")
    else:
        localizer = Localizer(load(model))
        vocabulary, backgrounds, sentences = parts or "", "backgrounds", ("parts", "scenes")
    found = audit(
        localizer,
        dataset,
        out,
        parts=read_parts(vocabulary) if vocabulary else None,
        backgrounds=read_vocabulary(backgrounds).names,
        part_templates=read_templates(sentences[0]),
        scene_templates=read_templates(sentences[1]),
        about={"data": str(data)},
    )
    for problem in found.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    print(f"{len(found.good)} images" + (f", accuracy {found.accuracy:.3f}" if found.good else ""))
    nobody = "none" if found.judged else "too few images to say" if found.ranked else "no object is known"
    print("suspects:", ", ".join(one.name for one in found.suspects) or nobody)
    for found_one in found.backgrounds()[:3]:
        if found_one.moves:
            print(f"without {found_one.text!r} the probability of {found_one.name} falls by {found_one.effect:.3f}")
    write_tables(found)
    print(f"report in {write_report(found)}")


if __name__ == "__main__":
    typer.run(main)

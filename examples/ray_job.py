"""Maps of many images by the machines of a Ray cluster, or by a Ray that is started here: overlays, maps and a table.

    python examples/ray_job.py
    python examples/ray_job.py --images /shared/photos --query "house finch" --against "purple finch" --workers 16 \
        --model ViT-B-16/laion400m_e32 --device cuda --out /shared/finches

On a cluster, from this folder: ``ray job submit --runtime-env ray_job.yaml --working-dir . -- python ray_job.py`` and these
options. Images and results are in folders that all machines share. The same command goes on after any interruption.
Without a folder, plates of the embedded world are drawn.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import typer

from concept_cam import Localizer, load, world
from concept_cam.runs import run_together
from concept_cam.writers import localize_images


def main(
    images: Path | None = None,
    query: str = "ember finch",
    against: str = "frost finch",
    workers: int = 2,
    model: str | None = None,
    device: str = "cpu",
    out: Path = Path("concept-cam-out/ray"),
) -> None:
    """Draw where a text is seen, on each image of a folder."""
    localizer = Localizer(load(model, device=device)) if model else world.localizer()
    files = sorted(file for file in (images or drawn(out.parent / "ray-plates")).iterdir() if file.is_file())
    job = partial(localize_images, localizer, files, out, query, against)
    failed = run_together(workers, job, engine="ray", failed=report)
    print(f"{len(files) - failed} of {len(files)} images in {out}")


def report(file: Path, problem: str) -> None:
    """Print which image is skipped, and why."""
    print(f"skipped: {problem}", file=sys.stderr)


def drawn(folder: Path) -> Path:
    """A folder of plates of the embedded world: three batches of ember finches."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(20):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"ember-finch-{seed:02d}.png")
    return folder


if __name__ == "__main__":
    typer.run(main)

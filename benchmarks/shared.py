"""How much of a base map do a class and its twin share? ``python -m benchmarks.shared``: why probes gain by comparing, or not.

The contrastive map of a linear method is the base map of the target minus ``strength`` times that of the reference. So
comparing removes what the two have in common, and the cosine of the two maps over the patches measures it.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from concept_cam import ConceptBank, Localizer, world
from concept_cam.evaluation.probe import features_of, fit_probe
from concept_cam.methods import METHODS
from concept_cam.world.dataset import twins_dataset


def shared(localizer: Localizer, bank: ConceptBank, count: int, method: str) -> tuple[float, float, float]:
    """Mean cosines: of the two vectors, of the two base maps, and of their positive parts."""
    examples = twins_dataset(count).examples
    found = []
    with torch.no_grad():
        for start in range(0, count, 50):
            batch = examples[start : start + 50]
            own, twin = (bank.vectors_of(names) for names in ([e.label for e in batch], [e.twin or "" for e in batch]))
            (seen,) = localizer.passes([localizer.frame(e.read()) for e in batch], [method])
            ours, theirs = seen.maps(METHODS[method], torch.stack([own, twin])).stacked.flatten(2)
            positive = F.cosine_similarity(ours.clamp(min=0), theirs.clamp(min=0), dim=-1)
            found.append(
                torch.stack([F.cosine_similarity(own, twin, dim=-1), F.cosine_similarity(ours, theirs, dim=-1), positive])
            )
    vectors, maps, positive = torch.cat(found, 1).mean(1).tolist()
    return vectors, maps, positive


def main(
    count: Annotated[int, typer.Option(help="Plates.")] = 300,
    decay: Annotated[float, typer.Option(help="Weight decay of the probes.")] = 1e-6,
) -> None:
    """Print a row for each classifier and method."""
    table = Table("classifier", "method", "cosine of vectors", "of base maps", "of what is positive in them", box=box.MARKDOWN)
    guide, data = world.localizer(), twins_dataset(count, training=960)
    for name, backbone in (
        ("texts", None),
        ("probe, class token", guide.backbone),
        ("probe, mean", guide.backbone.averaged()),
    ):
        localizer = guide if backbone is None else Localizer(backbone, vocabulary=data.classes, templates=guide.templates)
        texts = backbone is None
        bank = guide.bank(data.classes) if texts else fit_probe(*features_of(localizer, data), data.classes, decay)
        for method in ("grad_cam", "hires_cam", "own_streams" if name == "probe, mean" else "class_stream"):
            table.add_row(name, method, *(f"{x:+.3f}" for x in shared(localizer, bank, count, method)))
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)

"""How well the embedded encoder knows its world, and how well methods find the difference between twins.

``python -m workshop.benchmark`` prints both tables, and what drawing costs. All plates are held out. Differences
between base and contrastive maps are paired over the plates, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from concept_cam import world
from concept_cam.concepts import ConceptBank, embed
from concept_cam.evidence import EvidenceMap
from concept_cam.gradients import Form
from concept_cam.images import Frame
from concept_cam.localizer import Localizer
from concept_cam.methods import METHODS, as_method, sees_score
from concept_cam.metrics import energy_inside, paired_difference, pointing_hit
from concept_cam.passes import Pass
from concept_cam.world.birds import species, twins
from concept_cam.world.captions import FEATURES, feature_texts, features
from concept_cam.world.checkpoint import FOLDER
from concept_cam.world.heldout import TwinPlate, nameless_plates, twin_plates
from concept_cam.world.renderer import SIZE, Plate, draw

USUAL = ("grad_cam", "hires_cam", "layer_cam", "class_stream")
CONTRASTS = ("base", "twin 0.6", "twin 1.0", "nearest(3) 0.6")
_BATCH = 50


@dataclass(frozen=True)
class Findings:
    """Figures of one method and contrast, one for each plate.

    Attributes:
        energy: share of the positive evidence inside the part in which the twins differ.
        hit: 1 where the peak is within one patch of that part, else 0.
    """

    energy: Float[Tensor, " plates"]
    hit: Float[Tensor, " plates"]


@dataclass(frozen=True)
class Chance:
    """What a map that knows nothing gets: the part's share of the image, and of the patches that would count as hits."""

    energy: float
    hit: float


def knowledge(localizer: Localizer, count: int, seed: int = 0) -> dict[str, float]:
    """Zero-shot top-1 on held-out plates, 0 to 1: each feature on birds of no species, the species on birds of species.

    "twin among 3 nearest" is the share of species whose twin is among the three names nearest to theirs.
    """
    result = {}
    plates = list(nameless_plates(count, seed))
    embedding = torch.cat([seen.embedding.cpu() for _, seen in _passes(localizer, plates)])
    for feature, texts in feature_texts("{}").items():
        values = FEATURES[feature]
        names = [text.removeprefix("a ") for text in texts]
        scores = embedding @ embed(localizer.backbone, names, localizer.templates).vectors.cpu().T
        truth = torch.tensor([values.index(features(plate)[feature]) for plate in plates], dtype=torch.int64, device="cpu")
        shown = truth >= (1 if values[0] == "none" else 0)
        # A colour is read among colours: where there is no crest there is none to read.
        right = scores[shown, 1:].argmax(1) + 1 == truth[shown] if values[0] == "none" else scores.argmax(1) == truth
        result[feature] = right.float().mean().item()
    items = list(twin_plates(count, seed))
    bank = localizer.bank(species())
    embedding = torch.cat([seen.embedding.cpu() for _, seen in _passes(localizer, [item.plate for item in items])])
    truth = torch.tensor([bank.index(item.target) for item in items], dtype=torch.int64, device="cpu")
    result["species"] = ((embedding @ bank.vectors.cpu().T).argmax(1) == truth).float().mean().item()
    near = [twin in bank.neighbours(name, 3) for name, twin, _ in twins()]
    result["twin among 3 nearest"] = sum(near) / len(near)
    return result


@dataclass
class Record:
    """What is measured of maps, plate by plate."""

    energies: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    hits: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    chances: list[tuple[float, float]] = field(default_factory=list)

    def add(
        self,
        key: tuple[str, str],
        frames: Sequence[Frame],
        masks: Sequence[Bool[Tensor, "height width"]],
        grids: Float[Tensor, "B rows cols"],
    ) -> None:
        """The maps of some plates, under method and contrast."""
        for frame, mask, grid in zip(frames, masks, grids, strict=True):
            evidence = EvidenceMap(grid, frame.placement)
            self.energies.setdefault(key, []).append(float(energy_inside(evidence.heatmap(), mask)))
            self.hits.setdefault(key, []).append(float(_pointing(evidence, mask)[0]))

    def add_chance(self, frames: Sequence[Frame], masks: Sequence[Bool[Tensor, "height width"]], seen: Pass) -> None:
        """What a map that knows nothing gets on some plates."""
        flat = torch.zeros(seen.layout.rows, seen.layout.cols, dtype=torch.float32, device="cpu")
        self.chances += [
            (float(mask.float().mean()), _pointing(EvidenceMap(flat, frame.placement), mask)[1])
            for frame, mask in zip(frames, masks, strict=True)
        ]

    def findings(self) -> Mapping[tuple[str, str], Findings]:
        """All figures, for each method and contrast."""
        return {
            key: Findings(
                torch.tensor(self.energies[key], dtype=torch.float32, device="cpu"),
                torch.tensor(self.hits[key], dtype=torch.float32, device="cpu"),
            )
            for key in self.energies
        }

    def chance(self) -> Chance:
        """The mean over the plates."""
        means = torch.tensor(self.chances, dtype=torch.float32, device="cpu").mean(0)
        return Chance(float(means[0]), float(means[1]))


def compare_methods(
    localizer: Localizer, count: int, seed: int = 0, names: Sequence[str] = USUAL
) -> tuple[Mapping[tuple[str, str], Findings], Chance]:
    """Energy and pointing of base and contrastive maps of some methods on ``count`` held-out plates; and chance for both."""
    record = Record()
    for frames, masks, seen, bank, items in twin_passes(localizer, count, seed, names):
        target = bank.vectors_of([item.target for item in items])
        twin = bank.vectors_of([item.twin for item in items])
        near = torch.stack([bank.vectors_of(bank.neighbours(item.target, 3)).mean(0) for item in items])
        directions = torch.stack([target, target - 0.6 * twin, target - twin, target - 0.6 * near])
        record.add_chance(frames, masks, seen)
        for name in names:
            # A map that no direction moves is made once.
            contrasts = CONTRASTS if sees_score(as_method(name)) else CONTRASTS[:1]
            maps = seen.maps(as_method(name), directions[: len(contrasts)]).single().stacked
            for contrast, grids in zip(contrasts, maps, strict=True):
                record.add((name, contrast), frames, masks, grids)
    return record.findings(), record.chance()


Batch = tuple[list[Frame], list[Bool[Tensor, "height width"]], Pass, ConceptBank, list[TwinPlate]]
"""Frames, masks of the parts that differ, one pass of the model, all species, and the plates."""


def twin_passes(localizer: Localizer, count: int, seed: int, methods: Sequence[str]) -> Iterator[Batch]:
    """Held-out twin plates, seen by the model for some methods, some at a time."""
    items = list(twin_plates(count, seed))
    bank = localizer.bank(species())
    passes = _passes(localizer, [item.plate for item in items], methods)
    for (frames, seen), start in zip(passes, range(0, count, _BATCH), strict=True):
        here = items[start : start + _BATCH]
        yield frames, [torch.from_numpy(item.mask) for item in here], seen, bank, here


def drawing_time(count: int = 200) -> float:
    """Seconds of processor time to draw one plate at the encoder's size; the mean of ``count``."""
    birds = [plate.bird for plate in nameless_plates(count, size=SIZE)]
    rng = np.random.default_rng(0)
    start = time.process_time()
    for bird in birds:
        draw(bird, rng)
    return (time.process_time() - start) / count


def _passes(localizer: Localizer, plates: Sequence[Plate], methods: Sequence[str] = ()) -> Iterator[tuple[list[Frame], Pass]]:
    for start in tqdm(range(0, len(plates), _BATCH), disable=None, leave=False):
        frames = [Frame.of(plate.image, localizer.backbone.preprocess) for plate in plates[start : start + _BATCH]]
        (seen,) = localizer.passes(frames, methods)
        yield [frame.covering(seen.layout.span) for frame in frames], seen


def _pointing(evidence: EvidenceMap, mask: Bool[Tensor, "height width"]) -> tuple[bool, float]:
    """Whether the peak is within a patch of the mask, and chance."""
    patch = evidence.placement.cell_size(evidence.grid.shape)[0]
    return evidence.pointing(lambda cells: pointing_hit(cells, mask.expand(len(cells), -1, -1), patch))


def knowledge_table(figures: Mapping[str, float]) -> Table:
    """One row a feature; the mean over the colours of the parts below them."""
    table = Table("what", "zero-shot top-1", box=box.MARKDOWN)
    parts = [name for name in figures if name in FEATURES and len(FEATURES[name]) > 10]
    for name, value in figures.items():
        table.add_row(f"colour of {name}" if name in parts else name, f"{value:.3f}")
    table.add_row("mean colour of a part", f"{sum(figures[part] for part in parts) / len(parts):.3f}")
    return table


def methods_table(found: Mapping[tuple[str, str], Findings], chance: Chance) -> Table:
    """One row for each method and contrast; gains are paired differences to the base with 95 % intervals."""
    table = Table("method", "against", "energy", "energy / area", "gain", "hit rate", "gain", box=box.MARKDOWN)
    for (name, contrast), findings in found.items():
        base = found[name, "base"]
        gains = ["", ""]
        if contrast != "base":
            pairs = ((findings.energy, base.energy), (findings.hit, base.hit))
            intervals = [paired_difference(ours, theirs) for ours, theirs in pairs]
            gains = [f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" for i in intervals]
        energy, hit = findings.energy.mean().item(), findings.hit.mean().item()
        times = f"{energy / chance.energy:.1f}"
        table.add_row(
            name,
            contrast,
            f"{energy:.3f}",
            times,
            gains[0],
            f"{hit:.3f}",
            gains[1],
        )
    table.add_row("chance", "", f"{chance.energy:.3f}", "1.0", "", f"{chance.hit:.3f}", "")
    return table


def beaten_table(found: Mapping[tuple[str, str], Findings], ours: str, contrast: str = "twin 1.0") -> Table:
    """By how much a method is better than each of the others against the twin, paired over the plates.

    Args:
        found: figures of all methods.
        ours: the method.
        contrast: of its maps; others take part with this one and, where they have none, with their base map.
    """
    table = Table(f"{ours} minus", "energy", "hit rate", box=box.MARKDOWN)
    best = found[ours, contrast]
    for name in dict.fromkeys(name for name, _ in found if name != ours):
        theirs = found.get((name, contrast)) or found[name, "base"]
        pairs = ((best.energy, theirs.energy), (best.hit, theirs.hit))
        intervals = [paired_difference(mine, other) for mine, other in pairs]
        table.add_row(name, *(f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" for i in intervals))
    return table


def report(localizer: Localizer, count: int, seed: int, names: Sequence[str], best: str) -> None:
    """Print what an encoder knows, what methods find, and how far one of them is above the others, if it is among them."""
    # Wide enough for a row, also in a pipe: the tables are Markdown, to be pasted as they are.
    console = Console(width=150)
    console.print(knowledge_table(knowledge(localizer, count, seed)))
    found, chance = compare_methods(localizer, count, seed, names)
    console.print(methods_table(found, chance))
    if best in names and len(names) > 1:
        console.print(beaten_table(found, best))


def main(
    count: Annotated[int, typer.Option(help="Held-out plates.")] = 500,
    seed: Annotated[int, typer.Option(help="Which held-out plates.")] = 0,
    checkpoint: Annotated[Path, typer.Option(help="A folder in open_clip's layout, or a file of weights.")] = FOLDER,
    form: Annotated[Form, typer.Option(help="Form of the gradient.")] = "auto",
    site: Annotated[str | None, typer.Option(help="Where tokens are read; the model's first site by default.")] = None,
    methods: Annotated[str, typer.Option(help="Names with commas between them, or all.")] = ",".join(USUAL),
) -> None:
    """Measure the embedded encoder, and methods on twins."""
    names = list(METHODS) if methods == "all" else methods.split(",")
    localizer = world.localizer(checkpoint=checkpoint, site=site, form=form)
    Console().print(f"Drawing a plate of {SIZE} pixels: {1000 * drawing_time():.2f} ms of one core", highlight=False)
    report(localizer, count, seed, names, "class_stream")


if __name__ == "__main__":
    typer.run(main)

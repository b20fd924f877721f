"""The grid pointing game: four images in one, and how much of the evidence for a class lies in the quarter that shows it.

It needs labels and no masks. Source: Boehle, Fritz and Schiele, Convolutional Dynamic Alignment Networks for Interpretable
Classifications (CVPR 2021, arXiv 2104.00032), there with n x n images of different classes.

Departures: one class of each mosaic is explained, and the others are chosen for it: its three nearest, which is the harder
game, or three at random. Each image that is classified correctly has a mosaic, not only those with the highest confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset
from concept_cam.datasets.extra import extra_columns
from concept_cam.errors import DatasetError, OptionError
from concept_cam.evaluation.arrangement import KINDS, Candidate, Mosaic, arrange, check_single, classified, same_sized
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.contrasts import Contrast, contrasts_of
from concept_cam.evaluation.references import canonical, read_references
from concept_cam.evaluation.rows import settings_of_rows
from concept_cam.evaluation.settings import Settings, check_once
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Frame, Placement
from concept_cam.localizer import Localizer
from concept_cam.methods import AnyMethod, Method, sees_score
from concept_cam.metrics import energy_inside
from concept_cam.passes import Pass
from concept_cam.runs import Run, Skipped, csv_of
from concept_cam.runs.batches import Files
from concept_cam.runs.table import column_names, of_examples, with_extra
from concept_cam.selectors import Selector, against
from concept_cam.views import each_view

CELLS = ("whole", "half")
"""How large an image is in a mosaic; see ``MosaicSettings``."""

OTHERS = "mosaic"
"""The references that are the other three classes of the mosaic."""

_BATCH = 12
"""Mosaics that go through the model together, and whose rows are written together."""


@final
@dataclass(frozen=True)
class MosaicSettings:
    """What is run on each mosaic.

    Attributes:
        kind: ``nearest`` or ``random``.
        methods: names of ``METHODS``, or methods of your own, each with a name of its own.
        references: ``mosaic``, the other three classes, or as ``read_references`` knows them.
        strengths: above 0; each method's base map, at 0, is always made.
        cells: ``whole``: each image as large as the model takes it, so that the input is twice as high and wide, as in the
            paper; ``half``: the mosaic at the model's own size, for a model that takes no other.
        seed: which images are together, and in which quarters.

    Raises:
        OptionError: one of them is none of these.
    """

    kind: str
    methods: tuple[AnyMethod, ...]
    references: tuple[str, ...] = (OTHERS,)
    strengths: tuple[float, ...] = (0.6, 1.0)
    cells: str = "whole"
    seed: int = 0

    def __post_init__(self) -> None:
        for what, given, known in (("mosaics", self.kind, KINDS), ("cells", self.cells, CELLS)):
            if given not in known:
                raise OptionError(f"No {what} {given!r}; expected {' or '.join(known)}.")
        check_once("references", [text if text == OTHERS else canonical(text) for text in self.references])
        _ = self.named

    @property
    def named(self) -> dict[str, Method]:
        """The methods by their names."""
        return Settings(self.methods, tuple(text for text in self.references if text != OTHERS), self.strengths).named


class _Laid(NamedTuple):
    """A mosaic, and its four images side by side."""

    mosaic: Mosaic
    frame: Frame


@final
@dataclass(frozen=True, eq=False)
class Mosaics:
    """The mosaics of a data set, and what is measured on each.

    Attributes:
        localizer: model, preprocessing, site and form of the gradient; its own method is not used.
        bank: the classes among which an image is classified.
        dataset: labelled images.
        settings: what is run.
        folder: for the embeddings by which images are classified; None if they are not kept.
        about: what else decides them, to be compared with an older run there.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.world.dataset import birds_dataset
        >>> localizer, dataset = world.localizer(), birds_dataset(12)
        >>> settings = MosaicSettings("nearest", ("hires_cam",))
        >>> mosaics = Mosaics(localizer, localizer.bank(dataset.classes), dataset, settings)
        >>> [(row.strength, row.area) for row in mosaics.rows(mosaics.all[:1])]
        [(0.0, 0.25), (0.6, 0.25), (1.0, 0.25)]
    """

    localizer: Localizer
    bank: ConceptBank
    dataset: Dataset
    settings: MosaicSettings
    folder: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _classified(self) -> tuple[list[Candidate], list[str]]:
        check_single(self.dataset)
        return classified(self.localizer, self.bank, self.dataset, self.folder, self.about)

    @property
    def candidates(self) -> list[Candidate]:
        """The images that are classified correctly."""
        return self._classified[0]

    @property
    def problems(self) -> list[str]:
        """A line for each image that could not be classified."""
        return self._classified[1]

    @cached_property
    def all(self) -> list[Mosaic]:
        """One for each image that is classified correctly, if three other classes have such images.

        Raises:
            DatasetError: there are none, or an image shows several of the classes.
        """
        found = arrange(self.candidates, self.bank, self.settings.kind, self.settings.seed)
        if not found:
            labels = {one.label for one in self.candidates}
            raise DatasetError(
                f"{self.dataset.name}: mosaics need correctly classified images of 4 classes; {len(self.candidates)} of "
                f"{len(self.dataset.examples)} images are classified correctly, of {len(labels)} classes. Give more images or "
                "classes, or check that the labels are the model's own."
            )
        return found

    def rows(self, mosaics: Sequence[Mosaic]) -> list[GridRow | Skipped]:
        """A row for each mosaic, method, references and strength, in this order.

        What a row holds is in docs/evaluation.md; ``correct`` is whether the class that scores highest is one of the four.
        """
        laid = each_view(mosaics, self._laid, self._passes, self._of_pass, _unusable)
        return [row for of_one in laid for row in of_one]

    def _passes(self, frames: Sequence[Frame]) -> Iterator[Pass]:
        return self.localizer.passes(frames, self.settings.named.values())

    def _of_pass(self, seen: Pass, laid: Sequence[_Laid]) -> list[list[GridRow | Skipped]]:
        """The rows of each."""
        mosaics = [one.mosaic for one in laid]
        scores = seen.scores(self.bank)
        top = [self.bank.names[row] for row in scores.argmax(1).tolist()]
        asked = [self._contrasts(mosaic, of_one) for mosaic, of_one in zip(mosaics, scores, strict=True)]
        rows: list[list[GridRow | Skipped]] = [[] for _ in mosaics]
        for name, method in self.settings.named.items():
            count = len(asked[0]) if sees_score(method) else 1
            directions = torch.stack([torch.stack([c.direction for c in of_one[:count]]) for of_one in asked], 1)
            maps = seen.maps(method, directions).single()
            for b, mosaic in enumerate(mosaics):
                for k, contrast in enumerate(asked[b][:count]):
                    if contrast.problem is not None:
                        continue
                    if flaw := maps.flaw(k, b):
                        rows[b].append(_problem(mosaic, f"{name} against {contrast.references}: the map is {flaw}"))
                    else:
                        rows[b].append(_row(mosaic, top[b], name, contrast, maps.of(k, b)))
        for own, of_one, mosaic in zip(rows, asked, mosaics, strict=True):
            own.extend(_problem(mosaic, text) for text in dict.fromkeys(c.problem for c in of_one) if text)
        return rows

    def _laid(self, mosaic: Mosaic) -> _Laid:
        """The four as the model sees them, side by side."""
        preprocess = same_sized(self.localizer.preprocess)
        cells = [Frame.of(self.dataset.examples[cell.index].read(), preprocess).pixels for cell in mosaic.cells]
        pixels = torch.cat([torch.cat(cells[:2], 2), torch.cat(cells[2:], 2)], 1)
        height, width = (int(side) for side in pixels.shape[1:])
        pixels = F.avg_pool2d(pixels[None], 2)[0] if self.settings.cells == "half" else pixels
        return _Laid(mosaic, Frame(pixels, Placement((0.0, 0.0, float(width), float(height)), (height, width))))

    def _contrasts(self, mosaic: Mosaic, scores: Float[Tensor, " K"]) -> list[Contrast]:
        example = self.dataset.examples[mosaic.target.index]
        selectors: dict[str, Selector | None] = {
            text: against(*mosaic.others) if text == OTHERS else read_references(text)(example)
            for text in self.settings.references
        }
        return contrasts_of(self.bank, example.label, scores, selectors, self.settings.strengths)


def _row(mosaic: Mosaic, top: str, method: str, contrast: Contrast, evidence: EvidenceMap) -> GridRow:
    """What is measured of one map."""
    correct = top in (cell.label for cell in mosaic.cells)
    return contrast.row(mosaic.target.name, mosaic.target.label, method, correct, pointing(evidence, mosaic.quarter))


def _unusable(mosaic: Mosaic, error: Exception) -> list[GridRow | Skipped]:
    return [_problem(mosaic, error)]


def _problem(mosaic: Mosaic, text: BaseException | str) -> Skipped:
    return Skipped.of(mosaic.target.name, mosaic.target.label, text)


def pointing(evidence: EvidenceMap, quarter: int) -> dict[str, Any]:
    """How much of a map lies in a quarter of the image, and whether its peak does.

    ``energy`` is the localization score of the paper: the share of the positive evidence that lies in the quarter, 0 to 1;
    chance is ``area``, a quarter. ``hit`` is whether the centre of the strongest cell lies inside the quarter; on the line
    between two it lies in neither. ``chance`` is the share of the cells that do. Cells outside the mosaic do not count.

    Args:
        evidence: the map on the mosaic.
        quarter: 0 to 3, row by row.
    """
    height, width = evidence.placement.image_size
    top, left = (part * side / 2 for part, side in zip(divmod(quarter, 2), (height, width), strict=True))
    mask = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    mask[round(top) : round(top + height / 2), round(left) : round(left + width / 2)] = True

    def inside(cells: Float[Tensor, "cells 2"]) -> Bool[Tensor, " cells"]:
        x, y = cells.unbind(1)
        return (left < x) & (x < left + width / 2) & (top < y) & (y < top + height / 2)

    hit, chance = evidence.pointing(inside)
    energy = float(energy_inside(evidence.heatmap(), mask))
    return {"energy": energy, "area": 0.25, "hit": float(hit), "chance": chance}


def write_mosaics(mosaics: Mosaics, folder: Path, about: Mapping[str, Any]) -> Path:
    """Write ``rows.csv`` into a folder; batches that are there already are not run again. See ``write_rows``.

    Args:
        mosaics: what is run.
        folder: for ``run.json``, ``batches/`` and ``rows.csv``.
        about: what else decides the rows: the model, how it is loaded, which images.

    Raises:
        OutputError: the folder holds another evaluation, another process is writing there, or it cannot be written.
        DatasetError: there are no mosaics, or two examples have one name and label.

    Example:
        >>> import tempfile
        >>> from concept_cam import world
        >>> from concept_cam.evaluation import read_rows
        >>> from concept_cam.world.dataset import birds_dataset
        >>> localizer, dataset = world.localizer(), birds_dataset(4)
        >>> settings = MosaicSettings("nearest", ("hires_cam",), strengths=(1.0,))
        >>> mosaics = Mosaics(localizer, localizer.bank(dataset.classes), dataset, settings)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = read_rows(write_mosaics(mosaics, Path(folder), {}))
        >>> len(rows), rows[1].label, rows[1].references
        (8, 'ember finch', 'mosaic')
    """
    all_of_them = mosaics.all  # before the run, whose workers need to know them
    settings = {**about, **settings_of_rows(mosaics.settings, mosaics.localizer, mosaics.bank, mosaics.dataset)}
    extra = extra_columns(mosaics.dataset, column_names(GridRow))

    def make(some: Sequence[Mosaic]) -> Files:
        examples = [mosaics.dataset.examples[mosaic.target.index] for mosaic in some]
        rows = with_extra(of_examples(mosaics.rows(some), examples), extra)
        return {".csv": csv_of(rows, GridRow, extra.values())}

    with Run.held(folder, settings, column_names(GridRow, extra.values())) as run:
        run.batches(all_of_them, _BATCH, _name, make)
    return run.table


def _name(mosaic: Mosaic) -> str:
    return "; ".join([str(mosaic.quarter), *(cell.name for cell in mosaic.cells)])

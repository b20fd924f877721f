"""Embeddings of all images of a data set, which a probe and mosaics need first. On disk they are a run of their own.

So they are shared among processes, are resumed, and an image on which processes die is skipped, as in each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor
from tqdm import tqdm

from concept_cam.datasets import Dataset, Example
from concept_cam.errors import ConceptCamError, OutputError, Unreachable
from concept_cam.images import Frame, by_size
from concept_cam.localizer import Localizer
from concept_cam.passes import embedded
from concept_cam.preprocess import Preparation
from concept_cam.runs import Row, Run, Skipped, csv_of, identity_of, name_of_example, read_rows
from concept_cam.runs.batches import Batch, Files
from concept_cam.runs.table import column_names, problem_of

_BATCH = 50
"""Images that are embedded together, and whose embeddings are written together."""

_TENSOR = "embeddings"


def embeddings_of(
    localizer: Localizer,
    examples: Sequence[Example],
    preprocess: Preparation,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[Float[Tensor, " E"] | str]:
    """The embedding of each image, on the CPU, or why it has none.

    Args:
        localizer: with the model.
        examples: the images.
        preprocess: how they are prepared.
        folder: for the run; without one, nothing is kept.
        about: what else decides the embeddings, to be compared with an older run in the folder.

    Raises:
        OutputError: the folder holds another run, another process is writing there, or it cannot be written.
        DatasetError: two examples have one name and label.
    """
    if folder is None:
        found: list[Float[Tensor, " E"] | str] = []
        with tqdm(total=len(examples), desc="images", disable=None) as bar:
            for start in range(0, len(examples), _BATCH):
                some = examples[start : start + _BATCH]
                found += _embed(localizer, some, preprocess)
                bar.update(len(some))
        return found

    def make(some: Sequence[Example]) -> Files:
        found = _embed(localizer, some, preprocess)
        rows = [
            Skipped.of(example.name, example.label, one)
            if isinstance(one, str)
            else Row(image=example.name, label=example.label)
            for example, one in zip(some, found, strict=True)
        ]
        good = [one for one in found if not isinstance(one, str)]
        return {".csv": csv_of(rows, Row), ".safetensors": save({_TENSOR: torch.stack(good)} if good else {})}

    settings = {
        "job": "embeddings",
        "examples": len(examples),
        "model": localizer.backbone.name,
        "fit": preprocess.fit,
        "size": preprocess.size,
        **(about or {}),
        **identity_of(localizer, Dataset(folder.name, (), examples)),
    }
    with Run.held(folder, settings, column_names(Row), first=True) as run:
        return [one for batch in run.batches(examples, _BATCH, name_of_example, make) for one in _read(batch)]


def _embed(localizer: Localizer, examples: Sequence[Example], preprocess: Preparation) -> list[Float[Tensor, " E"] | str]:
    """The embeddings of some images, or why they have none."""
    found: dict[int, Float[Tensor, " E"] | str] = {}
    frames: dict[int, Frame] = {}
    for number, example in enumerate(examples):
        try:
            frames[number] = Frame.of(example.read(), preprocess)
        except Unreachable:
            raise
        except ConceptCamError as error:
            found[number] = problem_of(error)
    numbers = list(frames)
    for alike in by_size(list(frames.values())).values():
        pixels = torch.stack([frames[numbers[k]].pixels for k in alike])
        found |= zip((numbers[k] for k in alike), embedded(localizer.backbone, pixels).float().cpu(), strict=True)
    return [found[number] for number in range(len(examples))]


def _read(batch: Batch) -> list[Float[Tensor, " E"] | str]:
    """What a batch on disk holds.

    Raises:
        OutputError: it is not whole any more.
    """
    files = batch.read()
    if files is None:
        raise OutputError(f"{batch.stem}: the batch was changed during the run; run it again.")
    good = iter(load(files[".safetensors"]).get(_TENSOR, ()))
    rows = read_rows(batch.file(".csv"), Row)
    return [row.problem if isinstance(row, Skipped) else next(good) for row in rows]

"""An audit on disk, batch by batch: what is interrupted goes on where it was, and memory does not grow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from tqdm import tqdm

from concept_cam.audit.audit import Audit
from concept_cam.audit.looking import COLUMNS, Looker
from concept_cam.datasets import Dataset
from concept_cam.evaluation.rows import claim, csv_of, read_rows
from concept_cam.files import write_file
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of
from concept_cam.parts import PartVocabulary

BATCH = 50
"""Pictures that go through the model together, and whose rows and maps are written together."""


def audit(
    localizer: Localizer,
    dataset: Dataset,
    folder: Path,
    *,
    parts: PartVocabulary | None = None,
    backgrounds: tuple[str, ...] = (),
    part_templates: tuple[str, ...] | None = None,
    scene_templates: tuple[str, ...] | None = None,
    strength: float = 1.0,
    about: Mapping[str, Any] | None = None,
) -> Audit:
    """What a model goes by on the pictures of a data set.

    For each picture: what it was taken for and what it was most nearly taken for, and the map of the one against the other, so
    of what decided. Of that map how much lies off the object (the example's region or boxes), and how far confidence falls
    when the strongest 5 % are covered (RD@5 %, Finer-CAM Eq. 10, of the prediction against its runner-up). See ``Audit`` for
    what is made of them.

    Args:
        localizer: model and method.
        dataset: with regions of the whole object, if there are any; labels that are no class are left out and reported.
        folder: for ``run.json``, ``batches/`` and ``rows.csv``; one that is half done is gone on with.
        parts: whose attributes tell classes apart in words.
        backgrounds: two texts or more that should not move a decision.
        part_templates: sentences around their phrases; the localizer's by default.
        scene_templates: sentences around backgrounds; the localizer's by default.
        strength: of the runner-up in the map.
        about: what else decides the rows, to be held against an older run in the same folder.

    Raises:
        OutputError: the folder holds another audit, or cannot be written.
        UnknownConcept: the text encoder has never seen a word.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import fieldguide
        >>> from concept_cam.audit import audit
        >>> from concept_cam.fieldguide.dataset import birds_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = audit(fieldguide.localizer(), birds_dataset(4), Path(folder))
        >>> found.accuracy
        1.0
    """
    looker = Looker(localizer, dataset.classes, parts, backgrounds, part_templates, scene_templates, strength)
    count = len(dataset.examples)
    settings = {
        "dataset": dataset.name,
        "examples": count,
        "model": localizer.backbone.name,
        "method": name_of(localizer.method),
        "parts": parts.title if parts else None,
        "backgrounds": list(backgrounds),
        "part_templates": part_templates,
        "scene_templates": scene_templates,
        "strength": strength,
        **(about or {}),
    }
    claim(folder / "run.json", settings)
    files = []
    with tqdm(total=count, desc="pictures", disable=None) as bar:
        for start in range(0, count, BATCH):
            examples = dataset.examples[start : start + BATCH]
            file = folder / "batches" / f"{start // BATCH:05d}.csv"
            if not file.exists():
                rows, tensors = looker.look(examples)
                # The table comes last: where it is, so are the maps.
                write_file(file.with_suffix(".safetensors"), save(tensors))
                write_file(file, csv_of(rows, COLUMNS))
            files.append(file)
            bar.update(len(examples))
    header = csv_of([], COLUMNS)
    table = write_file(folder / "rows.csv", header + b"".join(file.read_bytes()[len(header) :] for file in files))
    return Audit(looker, dataset, folder, read_rows(table), tuple(file.with_suffix(".safetensors") for file in files))

"""An audit on disk, batch by batch: what is interrupted is resumed, and memory does not grow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors.torch import save

from concept_cam.address import address_of
from concept_cam.among import Among, chosen_among, classes_among, figures_among, told_among
from concept_cam.audit.columns import AuditRow
from concept_cam.audit.examine import Examiner
from concept_cam.audit.findings import Audit
from concept_cam.audit.packing import Sources
from concept_cam.audit.setup import Setup
from concept_cam.datasets import Dataset, Example
from concept_cam.datasets.extra import extra_columns
from concept_cam.errors import OptionError
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of
from concept_cam.part_vocabulary import PartVocabulary
from concept_cam.runs import Run, Skipped, csv_of, identity_of, name_of_example, read_rows
from concept_cam.runs.batches import Files
from concept_cam.runs.digests import digest_of
from concept_cam.runs.how import how_it_is_made
from concept_cam.runs.table import column_names, with_extra

BATCH = 50
"""Images whose rows and maps are written together; those of one size go through the model together."""


def audit(
    localizer: Localizer,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    parts: PartVocabulary | None = None,
    backgrounds: tuple[str, ...] = (),
    part_templates: tuple[str, ...] | None = None,
    scene_templates: tuple[str, ...] | None = None,
    strength: float = 1.0,
    among: Among | None = None,
    about: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Audit:
    """Find out what a model relies on in the images of a data set.

    For each image: the prediction, its runner-up, and the map of the one against the other, which is the evidence for the
    prediction. Then the share of that evidence that lies off the object (the example's region), and how much more the
    prediction falls than its runner-up when the strongest 5 % are masked (RD@5 %, Finer-CAM Eq. 10). See ``Audit`` for what
    follows from it.

    Args:
        localizer: model and method.
        dataset: with regions of the whole object, if there are any; images and masks that cannot be read and labels that
            the model does not have are skipped and reported.
        folder: for ``run.json``, ``how.json``, ``audit.json``, ``batches/`` and ``rows.csv``; an interrupted audit in it is
            resumed.
        parts: whose attributes tell classes apart in words; none leaves words out.
        backgrounds: two texts or more that should not move a decision; none leaves them out.
        part_templates: sentences around their phrases; the localizer's by default.
        scene_templates: sentences around backgrounds; the localizer's by default.
        strength: of the runner-up in the map, 0 or more.
        among: a classifier decides among all its classes (``model``, the default), or those of the data set (``dataset``); of
            a dual encoder it is not given, because it decides among those of the data set.
        about: what else the rows depend on (which images, which weights), to be compared with an older run in the folder.
        command: the command line, for the report.

    Raises:
        OptionError: the model decides among one class, there is one background, among is given for a dual encoder, the method
            does not look at the score, or there are templates without what they are for.
        ComparisonError: the strength is negative or not finite.
        UnknownConcept: the text encoder has never seen a word, or the classifier has none of the classes.
        OutputError: the folder holds another audit, another process is writing there, or it cannot be written.
        DatasetError: two examples have one name and label.
        NoSpatialGradient, BackboneError: no token at the site reaches the embedding.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.audit import audit
        >>> from concept_cam.world.dataset import birds_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = audit(world.localizer(), birds_dataset(4), Path(folder))
        >>> found.accuracy
        1.0
    """
    for option, given, texts in (("part", part_templates, parts), ("scene", scene_templates, backgrounds)):
        if given is not None and not texts:
            needed = "parts" if option == "part" else "backgrounds"
            raise OptionError(f"{option}_templates has no effect without {needed}; give {needed}, or leave it out.")
    among = chosen_among(among, localizer.backbone)
    folder, classes = address_of(folder), classes_among(localizer.backbone, dataset.classes, among)
    examiner = Examiner(localizer, classes, parts, backgrounds, part_templates, scene_templates, strength)
    examiner.prepare()
    judged = told_among(localizer.backbone, classes)
    identity = identity_of(localizer, dataset, {name_of(localizer.method): localizer.method}, examiner.sentences())
    settings = {
        "dataset": dataset.name,
        "examples": len(dataset.examples),
        "classes": dataset.classes,
        "model": localizer.backbone.name,
        "method": name_of(localizer.method),
        "site": localizer.site,
        "form": localizer.form,
        "fit": localizer.preprocess.fit,
        "size": localizer.preprocess.size,
        "templates": localizer.templates,
        "parts": parts.texts() if parts else None,
        "backgrounds": backgrounds,
        "part_templates": part_templates,
        "scene_templates": scene_templates,
        "strength": strength,
        "among": among,
        "judged": classes,
        "judged_among": figures_among(localizer.backbone, classes),
        **(about or {}),
        "vocabulary_digest": digest_of(parts),
        **identity,
    }
    more = {"parts": parts.title if parts else None, "backgrounds": "; ".join(backgrounds) or None}
    made = how_it_is_made(
        "audit",
        localizer,
        (dataset.name, len(dataset.examples)),
        identity,
        strengths=(strength,),
        among=judged,
        more=more,
        command=command,
    )
    extra = extra_columns(dataset, column_names(AuditRow))

    def make(examples: Sequence[Example]) -> Files:
        sources = Sources(examples, folder)
        rows, tensors = examiner.examine(sources.examples)
        used = [k for k, row in enumerate(rows) if not isinstance(row, Skipped)]
        tensors |= sources.tensors(used) if used else {}
        table = csv_of(with_extra(zip(rows, examples, strict=True), extra), AuditRow, extra.values())
        return {".safetensors": save(tensors), ".csv": table}

    with Run.held(folder, settings, column_names(AuditRow, extra.values())) as run:
        made = made.kept(folder)
        batches = run.batches(dataset.examples, BATCH, name_of_example, make)
        rows = read_rows(run.table, AuditRow)
        setup = Setup.of(examiner, dataset, rows)
        setup.write(folder)
    return Audit(setup, folder, rows, tuple(batch.file(".safetensors") for batch in batches), made)

"""An evaluation from its options to its tables, on disk: what is interrupted is resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concept_cam.address import address_of
from concept_cam.among import Among, chosen_among, classes_among, figures_among, told_among
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset
from concept_cam.errors import OptionError
from concept_cam.evaluation.columns import GridRow
from concept_cam.evaluation.evaluation import Evaluation
from concept_cam.evaluation.grid import Grid
from concept_cam.evaluation.mosaics import OTHERS, Mosaics, MosaicSettings, write_mosaics
from concept_cam.evaluation.probe import DECAY, features_of, fit_probe
from concept_cam.evaluation.rows import read_rows, write_rows
from concept_cam.evaluation.settings import Settings
from concept_cam.evaluation.strips import EXPLORER, strips
from concept_cam.localizer import Localizer
from concept_cam.methods import AnyMethod, as_method
from concept_cam.probabilities import own_scale
from concept_cam.runs import read_settings
from concept_cam.runs.digests import digest_of
from concept_cam.runs.how import how_it_is_made

USUAL_METHODS = ("grad_cam", "hires_cam", "layer_cam")
USUAL_REFERENCES = ("twin", "nearest:3")
USUAL_STRENGTHS = (0.6, 1.0)

EMBEDDINGS = "embeddings"
"""The folder of the embeddings that a probe and mosaics need of all images."""


def evaluate(
    localizer: Localizer,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    methods: AnyMethod | Iterable[AnyMethod] | None = None,
    references: str | Iterable[str] | None = None,
    strengths: float | Iterable[float] | None = None,
    deletion: int = 0,
    sanity: bool = False,
    mosaics: str | None = None,
    cells: str | None = None,
    seed: int | None = None,
    among: Among | None = None,
    probe: bool = False,
    decay: float | None = None,
    centred: bool = False,
    about: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Evaluation:
    """Measure on the images of a data set where maps lie, whether scores rest on it, and what references add.

    Gives one row of metrics for each image, method, references and strength, their means, and tables; docs/evaluation.md has
    what each metric is.

    Args:
        localizer: model, preprocessing, site and form of the gradient.
        dataset: images and masks that cannot be read and labels that the model does not have are skipped and reported. Of one
            class only base maps are measured, and where they lie: there is nothing to compare with.
        folder: for ``run.json``, ``how.json``, ``batches/``, ``rows.csv``, ``means.csv``, ``tables.md``, ``report.html`` and
            ``explore.html``; for a probe or mosaics also ``embeddings/``. One that is half done is resumed.
        methods: by name, or functions of your own; by default the three that are usual, and the localizer's own.
        references: as ``read_references`` knows them; by default the twin of the data set and the three nearest. Of a mosaic
            they may be ``mosaic``, its other three classes, which are the default there.
        strengths: above 0, by default 0.6 and 1; each method's base map, at 0, is always made.
        deletion: steps of the deletion curve; 0 leaves it out.
        sanity: also hold maps against maps of the mirrored and the shifted image, of the model with shuffled parameters, and
            of an absent label; takes six times as long.
        mosaics: ``nearest`` or ``random``: show each image beside one of each of three such classes, and ask how much of the
            evidence lies in its quarter; see ``evaluation.mosaics``.
        cells: how large an image is in a mosaic, see ``MosaicSettings``; ``whole`` by default.
        seed: which mosaics; 0 by default.
        among: a classifier is judged among all its classes (``model``, the default), or those of the data set (``dataset``);
            not for a dual encoder or a probe, which know those of the data set alone.
        probe: train a linear probe on the embeddings of ``dataset.training``, in the place of texts or of a classifier's last
            layer; its classes are those of the data set. ``Localizer(backbone.averaged())`` gives it the mean of the patches.
        decay: weight decay of the probe, hardly any by default.
        centred: subtract the mean class vector from each class vector: no probability changes, maps do.
        about: what else decides the rows (which images, which weights), to be compared with an older run in the same folder.
        command: how the evaluation was called, to be told in ``how.json``.

    Raises:
        OptionError: no such method, references, strengths or mosaics; two of one name; nothing to train a probe with; options
            that do not go together, or that need two classes.
        DatasetError: there are no four classes to make mosaics of, or two examples have one name and label.
        UnknownConcept: the text encoder has never seen a word, or the classifier has none of the classes.
        OutputError: the folder holds another evaluation, another process is writing there, or it cannot be written.
        NoSpatialGradient, BackboneError: all maps are blank, or one is not finite.

    Example:
        >>> import tempfile
        >>> from concept_cam import world
        >>> from concept_cam.evaluation import evaluate
        >>> from concept_cam.world.dataset import twins_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = evaluate(world.localizer(), twins_dataset(2), folder, methods="hires_cam", strengths=1.0)
        >>> found.used, found.among, [row["references"] for row in found.means]
        (2, '48 of the 48 classes of the data set', ['none', 'twin', 'nearest:3'])
    """
    backbone = localizer.backbone
    among = chosen_among(among, backbone, probe)
    if decay is not None and not probe:
        raise OptionError(f"decay is {decay}, which is of a probe; add probe=True, or leave it out.")
    decay = DECAY if decay is None else decay
    if methods is None:
        own = localizer.method
        usual = any(as_method(name) is own for name in USUAL_METHODS)
        methods = USUAL_METHODS if usual else (*USUAL_METHODS, own)
    settings = settings_of(methods, references, strengths, deletion, sanity, mosaics, cells, seed)
    told: tuple[str, ...] = ()
    folder, own_about = address_of(folder), dict(about or {})
    if probe:
        _check_several(dataset.classes, "a probe")
        features = features_of(localizer, dataset, folder / EMBEDDINGS / "training", own_about)
        bank = fit_probe(*features, dataset.classes, decay)
        judged = f"{len(bank.names):,} of the {len(bank.names):,} classes of the data set, by a linear probe"
    else:
        bank = localizer.bank(classes_among(backbone, dataset.classes, among))
        judged = told_among(backbone, bank.names)
    if len(bank.names) < 2 and isinstance(settings, Settings):
        for needs, given in (("references", references), ("strengths", strengths), ("deletion", deletion or None)):
            if given is not None:
                _check_several(bank.names, needs)
        settings = replace(settings, references=())
        told = ("There is one class, so base maps alone are measured, and where they lie: there is nothing to compare with.",)
    figures = {"classes": len(bank.names), "of": len(bank.names)} if probe else figures_among(backbone, bank.names)
    bank = bank.centred() if centred else bank
    about = {**_settings(localizer, bank, among), **_probed(probe, decay, centred), "judged_among": figures, **own_about}
    about |= {"training_digest": _training_digest(folder / EMBEDDINGS / "training")} if probe else {}
    if isinstance(settings, MosaicSettings):
        mosaics_ = Mosaics(localizer, bank, dataset, settings, folder / EMBEDDINGS / "images", own_about)
        found = _of_mosaics(mosaics_, folder, about, judged)
    else:
        grid = Grid(localizer, bank, 1.0 if probe else own_scale(backbone), settings)
        rows = read_rows(write_rows(grid, dataset, folder, about))
        found = Evaluation(dataset, folder, judged, rows, told, strips=strips(grid, dataset, rows, folder / EXPLORER))
    made = how_it_is_made(
        "evaluation",
        localizer,
        (dataset.name, len(dataset.examples)),
        read_settings(folder),
        methods=tuple(settings.named),
        strengths=settings.strengths,
        among=found.among,
        more={"references": ", ".join(settings.references), "mosaics": mosaics},
        command=command,
    ).kept(folder)
    found = replace(found, made=made)
    found.write()
    return found


def settings_of(
    methods: AnyMethod | Iterable[AnyMethod] | None,
    references: str | Iterable[str] | None,
    strengths: float | Iterable[float] | None,
    deletion: int,
    sanity: bool,
    mosaics: str | None,
    cells: str | None,
    seed: int | None,
) -> Settings | MosaicSettings:
    """What is run on each image or on each mosaic, from the options of ``evaluate``.

    Args:
        methods: names or functions; None for the usual ones.
        references: as ``read_references`` knows them; None for the usual ones.
        strengths: numbers above 0; None for the usual ones.
        deletion: steps of the deletion curve; 0 for no curve.
        sanity: whether maps are also compared with those of a changed image, model or label.
        mosaics: ``nearest`` or ``random``; None for single images.
        cells: ``whole`` or ``half``, of mosaics alone; None for whole.
        seed: which mosaics, of mosaics alone; None for 0.

    Raises:
        OptionError: one of them is none, or they do not go together.
    """
    usual = USUAL_REFERENCES if mosaics is None else (OTHERS,)
    chosen = (
        USUAL_METHODS if methods is None else _several(methods),
        usual if references is None else _several(references),
        tuple(float(one) for one in (USUAL_STRENGTHS if strengths is None else _several(strengths))),
    )
    if mosaics is None:
        if cells is not None:
            raise OptionError(f"cells is {cells!r}, which is for mosaics; say which: mosaics nearest, or random.")
        if seed is not None:
            raise OptionError(f"seed is {seed}, which is for mosaics; say which: mosaics nearest, or random.")
        return Settings(*chosen, deletion, sanity)
    given = [name for name, value in (("deletion", deletion), ("sanity", sanity)) if value]
    if given:
        raise OptionError(f"There is no {' and no '.join(given)} of mosaics; leave it out, or leave out mosaics.")
    return MosaicSettings(mosaics, *chosen, cells or "whole", seed or 0)


def _of_mosaics(run: Mosaics, folder: Path, about: Mapping[str, Any], among: str) -> Evaluation:
    rows = read_rows(write_mosaics(run, folder, about))
    correct = {(row.image, row.label): row.correct for row in rows if isinstance(row, GridRow)}
    share = sum(correct.values()) / max(1, len(correct))
    told = (
        f"{len(run.candidates)} of {len(run.dataset.examples)} images are classified correctly; {len(run.all)} mosaics of the "
        f"{run.settings.kind} classes.",
        f"The class that scores highest is one of the four in {share:.2f} of the mosaics.",
    )
    problems_of_all = (*run.dataset.problems, *run.problems)
    return Evaluation(replace(run.dataset, problems=problems_of_all), folder, among, rows, told)


def _check_several(classes: Sequence[str], what: str) -> None:
    if len(set(classes)) < 2:
        raise OptionError(f"There is one class, {', '.join(classes)}; expected two or more for {what}.")


def _several(given: Any) -> tuple[Any, ...]:
    """One alone is one of several."""
    return (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)


def _training_digest(folder: Path) -> str:
    """Of the images that a probe is trained with, which were read for their embeddings."""
    settings = read_settings(folder)
    return digest_of({key: settings[key] for key in ("images_digest", "labels_digest", "regions_digest")})


def _probed(probe: bool, decay: float, centred: bool) -> dict[str, Any]:
    return {"probe": decay if probe else None, "centred": centred}


def _settings(localizer: Localizer, bank: ConceptBank, among: Among) -> dict[str, Any]:
    """What else decides the rows."""
    return {
        "model": localizer.backbone.name,
        "site": localizer.site,
        "form": localizer.form,
        "fit": localizer.preprocess.fit,
        "size": localizer.preprocess.size,
        "templates": localizer.templates,
        "among": among,
        "classes": bank.names,
    }

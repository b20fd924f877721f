"""An audit as a page, and a page for each of the pairs that are confused most."""

from __future__ import annotations

from pathlib import Path

import torch

from concept_cam.audit.columns import FIGURES, AuditRow
from concept_cam.audit.explored import Explored
from concept_cam.audit.figures import ALARM, LEAST, SHOWN, counted
from concept_cam.audit.findings import Audit
from concept_cam.audit.model_diff import moves
from concept_cam.audit.pairs import page_of, pair_page, pairs_section
from concept_cam.audit.suspects import off_object_section, suspects_lead, suspects_section
from concept_cam.audit.thumbnails import Thumbnails
from concept_cam.files import write_file
from concept_cam.metrics import calibration_bins
from concept_cam.page import (
    Chart,
    Intervals,
    Line,
    Mark,
    Page,
    Point,
    Section,
    Table,
    Thumbnail,
    how_made,
    to_html,
)
from concept_cam.runs import Skipped, columns
from concept_cam.runs.table import PROBLEM


def write_report(audit: Audit, other: Audit | None = None, *, explorer: Explored | None = None) -> Path:
    """Write ``report.html``, its images and a page for each pair in ``pairs``; the model is not needed.

    An image that is gone or has changed since the audit has no thumbnail.

    Args:
        audit: that was run.
        other: of the same images by another model; a section says what changed.
        explorer: is written beside the report, which links the images of the first audit to it.

    Returns:
        The path of the page.

    Raises:
        OutputError: something cannot be written, or the maps of an audit cannot be read.
        OptionError: the other audit is of other images.

    Example:
        >>> import tempfile
        >>> from concept_cam import world
        >>> from concept_cam.audit import Audit, audit, write_report
        >>> from concept_cam.world.dataset import birds_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = audit(world.localizer(), birds_dataset(4), folder)
        ...     write_report(Audit.load(folder)).name
        'report.html'
    """
    thumbnails = Thumbnails(audit, audit.folder, explorer=explorer)
    sections = [off_object_section(audit, thumbnails), suspects_section(audit, thumbnails)]
    if other is not None:
        sections.append(_changed((audit, other), (thumbnails, Thumbnails(other, audit.folder, "other-"))))
    sections += [
        pairs_section(audit, thumbnails, audit.pairs(SHOWN)),
        _backgrounds(audit, thumbnails),
        _calibration(audit),
        _classes(audit),
    ]
    # Before the explorer is written, which holds the images of these pages too.
    for pair in audit.pairs(SHOWN):
        write_file(audit.folder / page_of(pair), to_html(pair_page(audit, pair, thumbnails)).encode())
    if audit.problems:
        sections.append(Section("Images that were skipped", "\n\n".join(audit.problems)))
    sections.append(_columns("" if explorer is None else explorer.told()))
    titles = "How this was made", "How the second audit was made"
    sections += [how_made(one.made, title) for one, title in zip((audit, other), titles, strict=True) if one and one.made]
    title = f"What does {audit.setup.model} look at?"
    page = Page(title, suspects_lead(audit), tuple(s for s in sections if s), _facts(audit))
    return write_file(audit.folder / "report.html", to_html(page).encode())


def _facts(audit: Audit) -> tuple[tuple[str, str], ...]:
    facts = [("images", f"{len(audit.good)} of {audit.setup.dataset}")]
    facts += [("skipped", str(len(audit.problems)))] if audit.problems else []
    facts += [("predicted rightly", f"{audit.accuracy:.1%}")] if audit.accuracy is not None else []
    facts += [("confidence is off by", f"{audit.calibration:.3f}")] if audit.calibration is not None else []
    suspects = str(len(audit.suspects)) if audit.judged else "too few images to say" if audit.ranked else "not known"
    return (*facts, ("suspects", suspects), ("decided among", audit.setup.among))


def _calibration(audit: Audit) -> Section | None:
    if not audit.good:
        return None
    confidence = torch.tensor([row.confidence for row in audit.good], dtype=torch.float64, device="cpu")
    right = torch.tensor([row.correct for row in audit.good], dtype=torch.bool, device="cpu")
    bins = calibration_bins(confidence, right)
    points = tuple(Point(one.confidence, one.accuracy, name=counted(one.count, "image")) for one in bins)
    rows = tuple((f"{one.low:g} to {one.high:g}", one.count, one.confidence, one.accuracy) for one in bins)
    above = sum((one.confidence - one.accuracy) * one.count for one in bins) / len(audit.good)
    how = "higher than its accuracy" if above > 0 else "lower than its accuracy"
    text = (
        f"The mean confidence of the model is {abs(above):.3f} {how}; the calibration error is {audit.calibration:.3f}: "
        "so far is confidence from the share that is predicted rightly."
    )
    about = (
        "A dot stands for the images of similar confidence, in ten bins of equal width. On the diagonal the share that is "
        "predicted correctly is the confidence; below it the model is too sure. The calibration error is the mean distance "
        "from the diagonal, weighted by the images of a bin."
    )
    plot = Chart("confidence", "accuracy", (Line("bins of images", points),), diagonal="confidence is accuracy")
    table = Table(("confidence", "images", "mean confidence", "accuracy"), rows)
    return Section("Confidence and accuracy", text, table, plots=(plot,), about=about)


def _backgrounds(audit: Audit, thumbnails: Thumbnails) -> Section | None:
    texts = audit.setup.backgrounds
    if not texts:
        return None
    found = [one for one in audit.backgrounds() if one.moves]
    rows: list[tuple[str | float | None, ...]] = []
    marks: list[Mark] = []
    for one in found:
        shown = len(marks) < SHOWN and all(mark.name != one.name for mark in marks)
        at = audit.clearest.get((one.name, one.text)) if shown else None
        rows.append((one.name, one.text, one.effect, one.chance, None if at is None else audit.good[at].image))
        if shown:
            thumbnail = None if at is None else thumbnails.background(at, f"{one.text}, on {audit.good[at].image}")
            marks.append(Mark(one.name, one.effect, chance=one.chance, note=one.text, strong=True, thumbnail=thumbnail))
    about = (
        "Each background is erased from the embeddings of the images. Effect is how far the probability of the predicted "
        "class then falls, as a mean over the images predicted as the class. Chance is the largest effect of 100 random "
        f"directions. Listed are effects of {LEAST:g} and more that are above chance. A text can have something in common "
        "with a class by accident, so compare the effects with each other. The image shows where the background is, or what "
        "is most like it."
    )
    title = "Backgrounds that change predictions"
    if not rows:
        return Section(title, f"None of the {len(texts)} backgrounds changes the probability of a class.", about=about)
    names = dict.fromkeys(one.name for one in found)
    text = (
        f"Erasing a background lowers the probability of {counted(len(names), 'class')}. Erasing removes two cues: that the "
        "background is present, and that it is absent. A class may be listed because its images lack the background. Shown is "
        "the strongest background of a class; the table has all."
    )
    axis = "how far the probability of the class falls when the background is erased"
    plot = Intervals(axis, tuple(marks), by_chance="most that a random direction does")
    table = Table(("class", "background", "effect", "chance", "where"), tuple(rows))
    return Section(title, text, table, plots=(plot,), about=about)


def _classes(audit: Audit) -> Section:
    titled = {name: figure for name, figure in FIGURES.items() if figure.title}
    rows = [
        (one.name, one.images, one.errors, one.accuracy, one.calibration, *(one.means[name] for name in titled))
        for one in audit.classes
    ]
    meanings = " ".join(f"{figure.title[0].upper()}{figure.title[1:]}: {_lowered(figure.help)}" for figure in titled.values())
    about = (
        "Images, errors, accuracy and expected calibration error are of the images with that label. The other columns are "
        f"means over the images predicted as the class. {meanings}"
    )
    columns = ("class", "images", "errors", "accuracy", "calibration error", *(figure.title for figure in titled.values()))
    return Section("All classes", table=Table(columns, tuple(rows)), about=about)


def _lowered(text: str) -> str:
    return f"{text[0].lower()}{text[1:]}"


def _changed(audits: tuple[Audit, Audit], thumbnails: tuple[Thumbnails, Thumbnails]) -> Section:
    moved = moves(*audits)
    names = [audit.setup.model for audit in audits]
    if names[0] == names[1]:
        names = [f"{name}, {place}" for name, place in zip(names, ("first", "second"), strict=True)]
    ours, theirs = ({one.name: one for one in audit.classes} for audit in audits)
    rows, points = [], []
    for name, one in ours.items():
        other = theirs.get(name)
        of_class = [move for move in moved if move.before == name]
        if other is None or not of_class:
            continue
        off = [one.off_object.mean if one.off_object else None, other.off_object.mean if other.off_object else None]
        alike = sum(move.agreement for move in of_class) / len(of_class)
        flipped = sum(move.before != move.after for move in of_class)
        rows.append((name, one.accuracy, other.accuracy, *off, flipped, alike))
        if off[0] is not None and off[1] is not None:
            points.append(Point(off[0], off[1], name=name, labelled=abs(off[0] - off[1]) > ALARM))
    most = sorted(moved, key=lambda move: (-(move.before != move.after), -move.growth, move.agreement))[: SHOWN // 2]
    images: list[Thumbnail | None] = []
    for audit, positions in zip(audits, zip(*(move.shown for move in most), strict=True), strict=False):
        audit.drawings(positions)  # All of them at once, so that no batch is read twice.
    for move in most:
        predicted = move.before, move.after
        images += [d.decision(at, f"{n}: {p}") for d, at, n, p in zip(thumbnails, move.shown, names, predicted, strict=True)]
    changed = sum(move.before != move.after for move in moved)
    text = (
        f"The two models predict different classes for {changed} of {counted(len(moved), 'image')}. Below are the images on "
        "which the evidence moved most, under each of the two models."
    )
    about = (
        f"{names[0]} is the first model, {names[1]} the second. Changed counts the images for which they predict different "
        "classes. Agreement is the rank correlation of their maps of the evidence, as a mean over the images that the first "
        "model predicts as the class. In the plot each dot is a class: above the line the second model has more of its "
        "evidence off the object, below the line the first."
    )
    both = (f"{figure}, {place}" for figure in ("accuracy", "off the object") for place in ("first", "second"))
    columns = ("class", *both, "changed", "agreement")
    plot = Chart(
        f"off the object: {names[0]}",
        f"off the object: {names[1]}",
        (Line("classes", tuple(sorted(points, key=lambda point: -abs(point.x - point.y)))),),
        joined=False,
        diagonal="the same in both",
    )
    shown, plots = tuple(p for p in images if p), (plot,) if points else ()
    return Section(f"Compared with {names[1]}", text, Table(columns, tuple(rows)), shown, plots=plots, about=about)


def _columns(explorer: str) -> Section:
    """What lies beside the page, and what the table of images holds."""
    held = {**columns(AuditRow), PROBLEM: columns(Skipped)[PROBLEM]}
    rows = tuple((name, one.help) for name, one in held.items())
    return Section(
        "The tables beside this page",
        f"{explorer}\n\n"
        "rows.csv has one row for each image. classes.csv, pairs.csv, words.csv and backgrounds.csv hold the tables of this "
        "page in full, and summary.json the figures for machines. The columns of rows.csv are:",
        Table(("column", "what it holds"), rows),
    )

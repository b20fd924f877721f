"""An audit as a page, and a page for each of the pairs that are confused most."""

from __future__ import annotations

from pathlib import Path

import torch

from concept_cam.audit.columns import FIGURES, AuditRow
from concept_cam.audit.explored import Explored
from concept_cam.audit.figures import ALARM, LEAST, SHOWN, ClassAudit, counted
from concept_cam.audit.findings import Audit
from concept_cam.audit.model_diff import moves
from concept_cam.audit.pairs import page_of, pair_page, pairs_section
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
    Strip,
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
    sections = [_off_object(audit, thumbnails), _suspects(audit, thumbnails)]
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
    title = f"{audit.setup.dataset}: what {audit.setup.model} relies on"
    page = Page(title, _lead(audit), tuple(s for s in sections if s), _facts(audit))
    return write_file(audit.folder / "report.html", to_html(page).encode())


def _lead(audit: Audit) -> str:
    if not audit.ranked:
        return (
            "This report cannot say how much of what the model relies on lies off the object: no image has a mask or a box "
            "of its object."
        )
    few = len(audit.ranked) - len(audit.judged)
    if not audit.judged:
        return (
            "There are too few images to say whether the model relies on something off the object: with "
            f"{counted(len(audit.ranked), 'class')} it takes {audit.fewest} images of a class, and no class has so many."
        )
    rest = f" For {counted(few, 'class')} there are too few images to say." if few else ""
    if not audit.suspects:
        return f"For no class does clearly more than {ALARM:.0%} of what the model relies on lie off the object.{rest}"
    worst, effect = audit.suspects[0], audit.suspects[0].background
    named = f" The clearest is {worst.name}: {_off(worst):.0%} of the evidence for it lies off the object"
    named += (
        f", and erasing “{effect.text}” lowers its probability by {effect.effect:.2f}." if effect and effect.moves else "."
    )
    return (
        f"The model relies on what is around the object: for {len(audit.suspects)} of {counted(len(audit.ranked), 'class')}, "
        f"clearly more than {ALARM:.0%} of the evidence lies off the object.{named}{rest}"
    )


def _off(one: ClassAudit) -> float:
    return one.off_object.mean if one.off_object else 0.0


def _facts(audit: Audit) -> tuple[tuple[str, str], ...]:
    facts = [("images", str(len(audit.good))), ("decided among", audit.setup.among)]
    facts += [("skipped", str(len(audit.problems)))] if audit.problems else []
    facts += [("accuracy", f"{audit.accuracy:.3f}")] if audit.accuracy is not None else []
    facts += [("calibration error", f"{audit.calibration:.3f}")] if audit.calibration is not None else []
    suspects = str(len(audit.suspects)) if audit.judged else "too few images to say" if audit.ranked else "not known"
    return (*facts, ("suspects", suspects))


def _off_object(audit: Audit, thumbnails: Thumbnails) -> Section:
    """The worst class as images, then classes by their evidence off the object."""
    title = "Evidence off the object"
    if not audit.ranked:
        return Section(title, "Not known: no image has a mask or a box of its object.")
    rows, marks = [], []
    for place, one in enumerate(audit.ranked):
        off = one.off_object
        if off is None:
            continue
        verdict = "suspect" if one.suspect else "" if one.judged else "too few to say"
        chance, image = one.means["off_area"], audit.good[audit.worst[one.name]].image
        rows.append((one.name, verdict, one.predicted, off.mean, off.low, off.high, chance, one.means["border"], image))
        if place < max(SHOWN, len(audit.suspects)):
            thumbnail = thumbnails.decision(audit.worst[one.name]) if place < SHOWN else None
            marks.append(Mark(one.name, off.mean, off.low, off.high, chance, verdict, one.suspect, thumbnail))
    about = (
        "Off the object is the share of the evidence for the prediction over its runner-up that lies more than one patch away "
        "from the object: 0 is none of it, 1 is all. The runner-up is the class that scores second. Each dot is a mean over "
        "the images predicted as the class, and the line around it its confidence interval: with a probability of 95 % the "
        "intervals of all classes are right. By chance is the share of the image that lies so far away, which a map without "
        "any meaning would give. Border is the share of the evidence along the edges of the image, where frames, captions and "
        "watermarks are. The image is the one with most evidence off the object.\n\nA class is a suspect if the lower end of "
        f"its interval is above {ALARM:g}. With {counted(len(audit.ranked), 'class')} this takes {audit.fewest} images or "
        "more; with fewer there are too few to say. The classes are sorted by the lower end."
    )
    columns = ("class", "alarm", "images", "off the object", "at least", "at most", "by chance", "border", "the worst image")
    plot = Intervals("share of the evidence off the object", tuple(marks), limit=ALARM, limited=f"alarm above {ALARM:g}")
    strips = _strips(audit.suspects[:1], audit, thumbnails)
    return Section(title, "", Table(columns, tuple(rows)), strips=strips, plots=(plot,), about=about)


def _strips(classes: list[ClassAudit], audit: Audit, thumbnails: Thumbnails) -> tuple[Strip, ...]:
    """Of each class the image with most evidence off the object."""
    strips = []
    for one in classes:
        at = audit.worst[one.name]
        row, images = audit.good[at], thumbnails.evidence(at)
        told = f"{row.off_object or 0:.0%} of the evidence on this image lies off the object"
        strips += [Strip(f"{one.name}, not {row.runner_up}: {told}", images)] if images else []
    return tuple(strips)


def _suspects(audit: Audit, thumbnails: Thumbnails) -> Section | None:
    strips = _strips(audit.suspects[1:SHOWN], audit, thumbnails)
    text = "Of each suspect the image with most evidence off the object. Bright places are evidence for the prediction."
    return Section("Other suspects", text, strips=strips) if strips else None


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
    text = f"The mean confidence of the model is {abs(above):.3f} {how}; the calibration error is {audit.calibration:.3f}."
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
    rows, marks = [], []
    for place, one in enumerate(found):
        at = audit.clearest.get((one.name, one.text)) if place < SHOWN else None
        rows.append((one.name, one.text, one.effect, one.chance, None if at is None else audit.good[at].image))
        if place < SHOWN:
            thumbnail = None if at is None else thumbnails.background(at, f"{one.text}, on {audit.good[at].image}")
            marks.append(Mark(one.name, one.effect, chance=one.chance, note=one.text, strong=True, thumbnail=thumbnail))
    about = (
        "Each background is erased from the embeddings of the images. Effect is how far the probability of the predicted "
        "class then falls, as a mean over the images predicted as the class. Chance is the largest effect of 100 random "
        f"directions. Listed are effects of {LEAST:g} and more that are above chance. A text can have something in common "
        "with a class by accident, so compare the effects with each other. The image shows where the background is."
    )
    title = "Backgrounds that change predictions"
    if not rows:
        return Section(title, f"None of the {len(texts)} backgrounds changes the probability of a class.", about=about)
    names = dict.fromkeys(one.name for one in found)
    text = f"Erasing a background lowers the probability of {counted(len(names), 'class')}, most that of {found[0].name}."
    plot = Intervals("how far the probability of the class falls when the background is erased", tuple(marks))
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

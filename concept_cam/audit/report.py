"""An audit as a page."""

from __future__ import annotations

from pathlib import Path

from concept_cam.audit.columns import FIGURES, AuditRow
from concept_cam.audit.explored import Explored
from concept_cam.audit.figures import ALARM, LEAST, SHOWN
from concept_cam.audit.findings import Audit
from concept_cam.audit.model_diff import moves
from concept_cam.audit.thumbnails import Thumbnails, mean_map
from concept_cam.files import write_file
from concept_cam.page import Cell, Page, Section, Table, Thumbnail, how_made, to_html
from concept_cam.runs import Skipped, columns
from concept_cam.runs.table import PROBLEM

NO_WORDS = "no phrase of the vocabulary explains this pair"


def write_report(audit: Audit, other: Audit | None = None, *, explorer: Explored | None = None) -> Path:
    """Write ``report.html`` and its images; the model is not needed.

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
    sections = [_off_object(audit, thumbnails), _pairs(audit, thumbnails), _backgrounds(audit, thumbnails), _classes(audit)]
    if other is not None:
        sections.append(_changed((audit, other), (thumbnails, Thumbnails(other, audit.folder, "other-"))))
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
            f"{_counted(len(audit.ranked), 'class')} it takes {audit.fewest} images of a class, and no class has so many."
        )
    rest = f" For {_counted(few, 'class')} there are too few images to say." if few else ""
    if not audit.suspects:
        return f"For no class does clearly more than {ALARM:.0%} of what the model relies on lie off the object.{rest}"
    names = ", ".join(one.name for one in audit.suspects[:6]) + (", ..." if len(audit.suspects) > 6 else "")
    return (
        f"For {names}, more than {ALARM:.0%} of what the model relies on lies off the object: "
        f"look at the images before you trust the accuracy.{rest}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def _facts(audit: Audit) -> tuple[tuple[str, str], ...]:
    facts = [("images", str(len(audit.good))), ("decided among", audit.setup.among)]
    facts += [("skipped", str(len(audit.problems)))] if audit.problems else []
    facts += [("accuracy", f"{audit.accuracy:.3f}")] if audit.accuracy is not None else []
    facts += [("calibration error", f"{audit.calibration:.3f}")] if audit.calibration is not None else []
    suspects = str(len(audit.suspects)) if audit.judged else "too few images to say" if audit.ranked else "not known"
    return (*facts, ("suspects", suspects))


def _off_object(audit: Audit, thumbnails: Thumbnails) -> Section:
    """Classes by their evidence off the object, with the image that shows most of it."""
    title = "Evidence off the object"
    if not audit.ranked:
        return Section(title, "Not known: no image has a mask or a box of its object.")
    rows = []
    for place, one in enumerate(audit.ranked):
        if one.off_object is None:
            continue
        thumbnail = thumbnails.decision(audit.worst[one.name]) if place < SHOWN else None
        figures = one.off_object.mean, one.off_object.low, one.off_object.high, one.means["off_area"], one.means["border"]
        verdict = "suspect" if one.suspect else "" if one.judged else "too few to say"
        rows.append((one.name, verdict, one.predicted, *figures, thumbnail))
    text = (
        "How much of what the model relies on lies off the object?\n\nOff the object is the share of the evidence for the "
        "prediction over its runner-up that lies more than one patch away from the object: 0 is none of it, 1 is all. The "
        "runner-up is the class that scores second. Each number is a mean over the images predicted as the class. At least "
        "and at most are the ends of its confidence interval: with a probability of 95 % the intervals of all classes are "
        "right. By chance is the share of the image that lies so far away, which a map without any meaning would give. Border "
        "is the share of the evidence along the edges of the image, where frames, captions and watermarks are.\n\nA class is "
        f"a suspect if the lower end of its interval is above {ALARM:g}. With {_counted(len(audit.ranked), 'class')} this "
        f"takes {audit.fewest} images or more; with fewer there are too few to say. The classes are sorted by the lower end."
    )
    columns = ("class", "alarm", "images", "off the object", "at least", "at most", "by chance", "border", "the worst image")
    return Section(title, text, Table(columns, tuple(rows)))


def _pairs(audit: Audit, thumbnails: Thumbnails) -> Section:
    pairs, words = audit.pairs(SHOWN), audit.setup.described
    rows: list[tuple[Cell, ...]] = []
    for pair in pairs:
        told = "; ".join(f"{one.ours}, not {one.theirs} ({agreement:.2f})" for one, agreement in pair.described)
        # The map is that of the difference with the largest weight.
        agrees = pair.shared if pair.described and pair.described[0][0] == pair.differences[0] else None
        rows.append(
            (
                f"{pair.first}, not {pair.second}",
                pair.images,
                pair.errors,
                pair.swapped,
                pair.runner_up_probability,
                told or (NO_WORDS if words else None),
                mean_map(pair.map, "the evidence"),
                None if agrees is None else mean_map(agrees, f"where {pair.differences[0].what} agrees"),
                thumbnails.decision(pair.shown[0], f"runner-up least likely: {pair.best}"),
                thumbnails.decision(pair.shown[1], f"runner-up most likely: {pair.worst}"),
            )
        )
    others = audit.pairs(None)[SHOWN:]
    if others:
        left = (sum(getattr(pair, name) for pair in others) for name in ("images", "errors", "swapped"))
        rows.append((f"{_counted(len(others), 'other pair')} (pairs.csv)", *left, *[None] * 6))
    text = (
        "Which classes does the model confuse, and what tells them apart? A pair is the predicted class and its runner-up. "
        "Errors are the images with another label than the predicted class: "
        f"{audit.errors} of {_counted(len(audit.good), 'image')}. Swapped are the errors whose label is the runner-up. The "
        "column runner-up is its mean probability. The pairs are sorted by errors, then by that. A mean map averages the "
        "evidence inside the box of the object: warm colours are evidence for the prediction, cold colours for the runner-up."
    )
    if words:
        text += (
            "\n\nThe column in words names the phrases that explain the difference between the two texts best. The number in "
            "brackets says how well the map of the phrase agrees with the evidence (1: the same places). A phrase is listed "
            "only if it explains the texts and the maps better than phrases without any meaning here would; otherwise "
            f"{NO_WORDS}. The map beside it shows where the first phrase agrees with the evidence."
        )
    columns = (
        "pair",
        "images",
        "errors",
        "swapped",
        "runner-up",
        "in words",
        "mean map",
        "words agree",
        "surest image",
        "least sure image",
    )
    return Section("Pairs that are confused", text, Table(columns, tuple(rows)))


def _backgrounds(audit: Audit, thumbnails: Thumbnails) -> Section | None:
    texts = audit.setup.backgrounds
    if not texts:
        return None
    rows = []
    for place, one in enumerate(one for one in audit.backgrounds() if one.moves):
        at = audit.clearest.get((one.name, one.text)) if place < SHOWN else None
        thumbnail = None if at is None else thumbnails.background(at, f"{one.text}, on {audit.good[at].image}")
        rows.append((one.name, one.text, one.effect, one.chance, thumbnail))
    about = (
        "Does the background change the prediction? Each background is erased from the embeddings of the images. Effect is "
        "how far the probability of the predicted class then falls, as a mean over the images predicted as the class. Chance "
        f"is the largest effect of 100 random directions. Listed are effects of {LEAST:g} and more that are above chance. A "
        "text can have something in common with a class by accident, so compare the effects with each other."
    )
    title = "Backgrounds that change predictions"
    if not rows:
        return Section(title, f"None of the {len(texts)} backgrounds changes the probability of a class.\n\n{about}")
    return Section(title, about, Table(("class", "background", "effect", "chance", "where"), tuple(rows)))


def _classes(audit: Audit) -> Section:
    titled = {name: figure for name, figure in FIGURES.items() if figure.title}
    rows = [
        (one.name, one.images, one.errors, one.accuracy, one.calibration, *(one.means[name] for name in titled))
        for one in audit.classes
    ]
    meanings = " ".join(f"{figure.title[0].upper()}{figure.title[1:]}: {_lowered(figure.help)}" for figure in titled.values())
    text = (
        "Images, errors, accuracy and expected calibration error are of the images with that label. The other columns are "
        f"means over the images predicted as the class. {meanings}"
    )
    columns = ("class", "images", "errors", "accuracy", "calibration error", *(figure.title for figure in titled.values()))
    return Section("All classes", text, Table(columns, tuple(rows)))


def _lowered(text: str) -> str:
    return f"{text[0].lower()}{text[1:]}"


def _changed(audits: tuple[Audit, Audit], thumbnails: tuple[Thumbnails, Thumbnails]) -> Section:
    moved = moves(*audits)
    names = [audit.setup.model for audit in audits]
    if names[0] == names[1]:
        names = [f"{name}, {place}" for name, place in zip(names, ("first", "second"), strict=True)]
    ours, theirs = ({one.name: one for one in audit.classes} for audit in audits)
    rows = []
    for name, one in ours.items():
        other = theirs.get(name)
        of_class = [move for move in moved if move.before == name]
        if other is None or not of_class:
            continue
        off = [one.off_object.mean if one.off_object else None, other.off_object.mean if other.off_object else None]
        alike = sum(move.agreement for move in of_class) / len(of_class)
        flipped = sum(move.before != move.after for move in of_class)
        rows.append((name, one.accuracy, other.accuracy, *off, flipped, alike))
    most = sorted(moved, key=lambda move: (-(move.before != move.after), -move.growth, move.agreement))[: SHOWN // 2]
    images: list[Thumbnail | None] = []
    for audit, positions in zip(audits, zip(*(move.shown for move in most), strict=True), strict=False):
        audit.drawings(positions)  # All of them at once, so that no batch is read twice.
    for move in most:
        predicted = move.before, move.after
        images += [d.decision(at, f"{n}: {p}") for d, at, n, p in zip(thumbnails, move.shown, names, predicted, strict=True)]
    text = (
        f"{names[0]} is the first model, {names[1]} the second. Changed counts the images for which they predict different "
        "classes. Agreement is the rank correlation of their maps of the evidence, as a mean over the images that the first "
        "model predicts as the class. Below are the images on which the evidence moved most, under each of the two models."
    )
    both = (f"{figure}, {place}" for figure in ("accuracy", "off the object") for place in ("first", "second"))
    columns = ("class", *both, "changed", "agreement")
    return Section(f"Compared with {names[1]}", text, Table(columns, tuple(rows)), tuple(p for p in images if p))


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

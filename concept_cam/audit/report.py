"""An audit as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concept_cam.audit.figures import ALARM, LEAST
from concept_cam.audit.findings import Audit
from concept_cam.audit.model_diff import Shift, moves
from concept_cam.audit.summary import write_tables
from concept_cam.audit.thumbnails import Thumbnails, mean_map
from concept_cam.files import write_file
from concept_cam.page import Cell, Page, Section, Table, Thumbnail, how_made, to_html

SHOWN = 12
"""How many classes, pairs and backgrounds have images."""

NO_WORDS = "no phrase of the vocabulary explains this pair"


def write_report(audit: Audit, other: Audit | None = None) -> Path:
    """Write ``report.html``, its images, and the tables of ``summary``.

    Args:
        audit: that was run.
        other: of the same images by another model; a section says what moved, and ``moved.csv`` all of it.

    Raises:
        OutputError: something cannot be written.
        OptionError: the other audit is of other images.
    """
    folder = audit.folder
    evidence = Thumbnails(audit, folder)
    moved = moves(audit, other) if other else None
    sections = [_off_object(audit, evidence), _pairs(audit, evidence), _backgrounds(audit, evidence), _classes(audit)]
    if other and moved is not None:
        sections.append(_moved((audit, other), moved, (evidence, Thumbnails(other, folder, "other-"))))
    if audit.problems:
        sections.append(Section("Skipped", "\n\n".join(audit.problems)))
    titles = "How this was made", "How the second audit was made"
    sections += [how_made(one.made, title) for one, title in zip((audit, other), titles, strict=True) if one and one.made]
    write_tables(audit, moved)
    model = audit.examiner.localizer.backbone.name
    page = Page(f"{audit.dataset.name}: what {model} relies on", _lead(audit), tuple(s for s in sections if s), _facts(audit))
    return write_file(folder / "report.html", to_html(page).encode())


def _lead(audit: Audit) -> str:
    if not audit.ranked:
        return "Where the object is on these images is not known, so the audit cannot say whether evidence lies off it."
    few = len(audit.ranked) - len(audit.judged)
    if not audit.judged:
        return (
            "There are too few images to say whether a class relies on something off the object: with "
            f"{_counted(len(audit.ranked), 'class')} it takes {audit.fewest} images of a class, and none has so many."
        )
    rest = f" Of {_counted(few, 'class')} there are too few images to say." if few else ""
    if not audit.suspects:
        return f"No class clearly has more than {ALARM:.0%} of its deciding evidence off the object.{rest}"
    names = ", ".join(one.name for one in audit.suspects[:6]) + (", ..." if len(audit.suspects) > 6 else "")
    return f"The evidence for {names} lies off the object: look at the images before you trust the accuracy.{rest}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def _facts(audit: Audit) -> tuple[tuple[str, str], ...]:
    facts = [("images", str(len(audit.good))), ("decided among", audit.among)]
    facts += [("skipped", str(len(audit.problems)))] if audit.problems else []
    facts += [("accuracy", f"{audit.accuracy:.3f}")] if audit.accuracy is not None else []
    facts += [("calibration error", f"{audit.calibration:.3f}")] if audit.calibration is not None else []
    suspects = str(len(audit.suspects)) if audit.judged else "too few images to say" if audit.ranked else "not known"
    return (*facts, ("suspects", suspects))


def _off_object(audit: Audit, evidence: Thumbnails) -> Section:
    """Classes by their evidence off the object, with the image that shows most of it."""
    title = "Evidence off the object"
    if not audit.ranked:
        return Section(title, "Not known: no image has a mask or a box of its object.")
    worst: dict[str, tuple[float, str]] = {}
    for row in audit.good:
        if "off_object" in row:
            worst[row["predicted"]] = max(worst.get(row["predicted"], (-1.0, "")), (row["off_object"], row["image"]))
    rows = []
    for place, one in enumerate(audit.ranked):
        if one.off_object is None:
            continue
        image = worst[one.name][1]
        thumbnail = evidence.decision(image, image) if place < SHOWN else None
        figures = (one.off_object.mean, one.off_object.low, one.off_object.high, one.off_area, one.border)
        verdict = "suspect" if one.suspect else "" if one.judged else "too few to say"
        rows.append((one.name, verdict, one.predicted, *figures, thumbnail))
    text = (
        "What made the model choose a class and not the next best one? For each image the audit maps that evidence. Off the "
        "object is the share of it that lies more than one patch away from the object, as a mean over the images predicted as "
        "the class. At least and at most are its confidence interval; with a probability of 95 % the intervals of all classes "
        "are right. Area is the share of the image that is so far from the object, which is what chance would give. Border is "
        f"the share along the edges, where frames, captions and watermarks are.\n\nA class is a suspect if at least {ALARM:g} "
        f"of its evidence lies off the object. With {_counted(len(audit.ranked), 'class')} this takes {audit.fewest} images "
        "or more; with fewer there are too few to say. The classes are sorted by the lower end of the interval."
    )
    columns = ("class", "alarm", "images", "off the object", "at least", "at most", "area", "border", "the worst image")
    return Section(title, text, Table(columns, tuple(rows)))


def _pairs(audit: Audit, evidence: Thumbnails) -> Section:
    pairs, words = audit.pairs(SHOWN), bool(audit.examiner.words.groups)
    rows: list[tuple[Cell, ...]] = []
    for pair in pairs:
        told = "; ".join(f"{one.ours}, not {one.theirs} ({agreement:.2f})" for one, agreement in pair.told)
        # The map is that of the difference with the largest weight.
        agrees = pair.shared if pair.told and pair.told[0][0] == pair.differences[0] else None
        rows.append(
            (
                f"{pair.first}, not {pair.second}",
                pair.images,
                pair.errors,
                pair.swapped,
                pair.runner_up_probability,
                told or (NO_WORDS if words else None),
                mean_map(pair.map, "what decided"),
                None if agrees is None else mean_map(agrees, f"where {pair.differences[0].what} agrees"),
                evidence.decision(pair.best, f"runner-up least likely: {pair.best}"),
                evidence.decision(pair.worst, f"runner-up most likely: {pair.worst}"),
            )
        )
    others = len({(row["predicted"], row["runner_up"]) for row in audit.good}) - len(pairs)
    if others:
        counts = (len(audit.good), audit.errors, audit.swapped)
        shown = (sum(of_all) for of_all in zip(*((p.images, p.errors, p.swapped) for p in pairs), strict=True))
        left = (total - part for total, part in zip(counts, shown, strict=True))
        rows.append((f"{_counted(others, 'other pair')} (pairs.csv)", *left, *[None] * 6))
    text = (
        "A pair is the predicted class and the runner-up. Errors are images that show another class than the predicted one: "
        f"{audit.errors} of {_counted(len(audit.good), 'image')}. Swapped are the errors that show the runner-up. The "
        "column runner-up is its mean probability. The pairs are sorted by errors, then by that. Mean maps are in the frame "
        "of the object: warm for the first class, cold for the second."
    )
    if words:
        text += (
            "\n\nThe difference in words is read off the two texts. In brackets is how far the map of the words is the map of "
            "the decision (1: the same places). A phrase is shown only if both the texts and the maps tell it apart from "
            f"phrases that mean nothing here; otherwise {NO_WORDS}. The map beside it shows where the first words agree with "
            "the decision."
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
        "for it",
        "against it",
    )
    return Section("Pairs that are confused", text, Table(columns, tuple(rows)))


def _backgrounds(audit: Audit, evidence: Thumbnails) -> Section | None:
    texts = audit.examiner.backgrounds
    if not texts:
        return None
    most: dict[tuple[str, int], tuple[float, str]] = {}
    for row, effects in audit.tensors("effects"):
        for place, effect in enumerate(effects.tolist()):
            key = row["predicted"], place
            most[key] = max(most.get(key, (-float("inf"), "")), (effect, row["image"]))
    rows = []
    for place, one in enumerate(one for one in audit.backgrounds() if one.moves):
        _, image = most[one.name, texts.index(one.text)]
        thumbnail = evidence.background(image, one.text, f"{one.text}, on {image}") if place < SHOWN else None
        rows.append((one.name, one.text, one.effect, one.chance, thumbnail))
    about = (
        "Each background is erased from the embeddings of the images. Effect is how far the probability of the predicted "
        "class then falls, as a mean over the images of the class. Chance is the most that any of 100 random directions takes "
        f"off it. Listed are effects of {LEAST:g} and more that are above chance. A text can share something with a class by "
        "accident, so read the effects beside each other."
    )
    title = "Backgrounds that move decisions"
    if not rows:
        return Section(title, f"None of the {len(texts)} backgrounds moves the probability of a class.\n\n{about}")
    return Section(title, about, Table(("class", "background", "effect", "chance", "where"), tuple(rows)))


def _classes(audit: Audit) -> Section:
    rows = []
    for one in audit.classes:
        off = one.off_object.mean if one.off_object else None
        rows.append((one.name, one.images, one.errors, one.accuracy, one.calibration, one.energy, off, one.rd5))
    text = (
        "Images, errors, accuracy and expected calibration error are of the images with that label. The other columns are of "
        "the images predicted as the class: the share of the evidence on the object, the share more than a patch off it, and "
        "RD@5 %: how much more the prediction falls than its runner-up when the strongest 5 % are masked (more means that the "
        "score rests on them)."
    )
    columns = ("class", "images", "errors", "accuracy", "calibration error", "on the object", "off the object", "RD@5 %")
    return Section("All classes", text, Table(columns, tuple(rows)))


def _moved(audits: tuple[Audit, Audit], moved: Sequence[Shift], evidence: tuple[Thumbnails, Thumbnails]) -> Section:
    names = [audit.examiner.localizer.backbone.name for audit in audits]
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
    for move in most:
        predicted = move.before, move.after
        images += [d.decision(move.image, f"{n}: {p}") for d, n, p in zip(evidence, names, predicted, strict=True)]
    text = (
        f"{names[0]} is the first model, {names[1]} the second. Changed counts the images on which they predict different "
        "classes. Agreement is the rank correlation of their maps of what decided, over the images that the first predicts as "
        "the class. Below are the images on which the evidence moved most, under each of the two."
    )
    both = (f"{figure}, {place}" for figure in ("accuracy", "off the object") for place in ("first", "second"))
    columns = ("class", *both, "changed", "agreement")
    return Section(f"Against {names[1]}", text, Table(columns, tuple(rows)), tuple(p for p in images if p))

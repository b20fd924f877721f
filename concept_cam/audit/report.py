"""An audit as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concept_cam.audit.evidence import Evidence, mean_map
from concept_cam.audit.findings import ALARM, Audit
from concept_cam.audit.moved import Move, moves
from concept_cam.audit.summary import write_tables
from concept_cam.files import write_file
from concept_cam.page import Page, Section, Table, Thumbnail, to_html

SHOWN = 12
"""How many classes, pairs and backgrounds have pictures."""


def write_report(audit: Audit, other: Audit | None = None) -> Path:
    """Write ``report.html``, its pictures, and the tables of ``summary``.

    Args:
        audit: that was run.
        other: of the same pictures by another model; a section says what moved, and ``moved.csv`` all of it.

    Raises:
        OutputError: something cannot be written.
        OptionError: the other audit is of other pictures.
    """
    folder = audit.folder
    evidence = Evidence(audit, folder)
    moved = moves(audit, other) if other else None
    sections = [_off_object(audit, evidence), _pairs(audit, evidence), _backgrounds(audit, evidence), _classes(audit)]
    if other and moved is not None:
        sections.append(_moved((audit, other), moved, (evidence, Evidence(other, folder, "other-"))))
    if audit.problems:
        sections.append(Section("Left out", "\n\n".join(audit.problems)))
    write_tables(audit, moved)
    model = audit.looker.localizer.backbone.name
    page = Page(f"{audit.dataset.name}: what {model} goes by", _lead(audit), tuple(s for s in sections if s), _facts(audit))
    return write_file(folder / "report.html", to_html(page).encode())


def _lead(audit: Audit) -> str:
    suspects = audit.suspects
    if not audit.ranked:
        return "No object is known on these pictures, so nothing can be said of evidence off it."
    if not suspects:
        return f"No class has clearly more than {ALARM:.0%} of its deciding evidence off the object."
    names = ", ".join(one.name for one in suspects[:6]) + (", ..." if len(suspects) > 6 else "")
    return f"What decides for {names} lies off the object: look at the pictures before you trust the accuracy."


def _facts(audit: Audit) -> tuple[tuple[str, str], ...]:
    facts = [("pictures", str(len(audit.good))), ("decided among", audit.among)]
    facts += [("left out", str(len(audit.problems)))] if audit.problems else []
    facts += [("accuracy", f"{audit.accuracy:.3f}")] if audit.accuracy is not None else []
    facts += [("calibration error", f"{audit.calibration:.3f}")] if audit.calibration is not None else []
    return (*facts, ("classes under suspicion", str(len(audit.suspects)) if audit.ranked else "not known"))


def _off_object(audit: Audit, evidence: Evidence) -> Section:
    """Classes by their evidence off the object, with the picture that shows most of it."""
    title = "Evidence off the object"
    if not audit.ranked:
        return Section(title, "Not known: no picture has a mask or a box of its object.")
    worst: dict[str, tuple[float, str]] = {}
    for row in audit.good:
        if "off_object" in row:
            worst[row["predicted"]] = max(worst.get(row["predicted"], (-1.0, "")), (row["off_object"], row["picture"]))
    rows = []
    for place, one in enumerate(audit.ranked):
        if one.off_object is None:
            continue
        picture = worst[one.name][1]
        thumbnail = evidence.decision(picture, picture) if place < SHOWN else None
        figures = (one.off_object.mean, one.off_object.low, one.off_object.high, one.off_area, one.border)
        rows.append((one.name, "suspect" if one.suspect else "", one.taken, *figures, thumbnail))
    text = (
        "Of the evidence for what a picture was taken for and against its runner-up, the share that lies more than a "
        "patch off the object, with its 95 % interval; beside it the share of the picture's area, which is what "
        "chance would give, and the share along the border. Classes are in the order of the lower end of the interval; one "
        f"is a suspect if all of its interval is above {ALARM:g}."
    )
    columns = ("class", "alarm", "pictures", "off the object", "from", "to", "area", "border", "the worst picture")
    return Section(title, text, Table(columns, tuple(rows)))


def _pairs(audit: Audit, evidence: Evidence) -> Section:
    rows = []
    for pair in audit.pairs(SHOWN):
        told = zip(pair.differences, pair.agreements, strict=True)
        rows.append(
            (
                f"{pair.first}, not {pair.second}",
                pair.pictures,
                pair.errors,
                pair.doubt,
                "; ".join(f"{one.ours}, not {one.theirs} ({agreement:.2f})" for one, agreement in told) or None,
                mean_map(pair.map, "what decided"),
                None if pair.shared is None else mean_map(pair.shared, f"where {pair.differences[0].what} agrees"),
                evidence.decision(pair.best, f"least doubt: {pair.best}"),
                evidence.decision(pair.worst, f"most doubt: {pair.worst}"),
            )
        )
    text = (
        "What a picture was taken for, and what it was most nearly taken for; by errors (it shows the second), then by the "
        "mean probability of the second. The difference in words is read off the two texts, with how far the map of each is "
        "the map of the decision (1: the same places). Mean maps are in the frame of the object: warm for the first class, "
        "cold for the second; beside what decided, where the map of the first words agrees with it."
    )
    columns = ("pair", "pictures", "errors", "doubt", "in words", "mean map", "words agree", "for it", "against it")
    return Section("Pairs that are confused", text, Table(columns, tuple(rows)))


def _backgrounds(audit: Audit, evidence: Evidence) -> Section | None:
    texts = audit.looker.backgrounds
    if not texts:
        return None
    most: dict[tuple[str, int], tuple[float, str]] = {}
    for row, effects in audit.tensors("effects"):
        for place, effect in enumerate(effects.tolist()):
            key = row["predicted"], place
            most[key] = max(most.get(key, (-float("inf"), "")), (effect, row["picture"]))
    rows = []
    for place, (name, text, effect) in enumerate(audit.backgrounds()):
        if place >= SHOWN and effect < 0.01:
            break
        _, picture = most[name, texts.index(text)]
        thumbnail = evidence.background(picture, text, f"{text}, on {picture}") if place < SHOWN else None
        rows.append((name, text, effect, thumbnail))
    about = (
        "How much the probability of a class falls in the mean when a background is erased from the embedding of its "
        "pictures, and where one of them shows that background. What a text shares with a class by chance moves it a "
        "little; a hundredth and more is worth a look."
    )
    return Section("Backgrounds that move decisions", about, Table(("class", "background", "effect", "where"), tuple(rows)))


def _classes(audit: Audit) -> Section:
    rows = []
    for one in audit.classes:
        off = one.off_object.mean if one.off_object else None
        rows.append((one.name, one.pictures, one.accuracy, one.calibration, one.energy, off, one.rd5))
    text = (
        "Accuracy and expected calibration error of the pictures with that label; evidence on the object and more than a "
        "patch off it, and relative drop in confidence (RD@5 %: the strongest 5 % covered; more means that the score rests "
        "on them) of the pictures taken for it."
    )
    columns = ("class", "pictures", "accuracy", "calibration error", "on the object", "off the object", "RD@5 %")
    return Section("All classes", text, Table(columns, tuple(rows)))


def _moved(audits: tuple[Audit, Audit], moved: Sequence[Move], evidence: tuple[Evidence, Evidence]) -> Section:
    names = [audit.looker.localizer.backbone.name for audit in audits]
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
    pictures: list[Thumbnail | None] = []
    for move in most:
        taken = move.before, move.after
        pictures += [d.decision(move.picture, f"{n}: {t}") for d, n, t in zip(evidence, names, taken, strict=True)]
    text = (
        f"{names[0]} first, {names[1]} second. Agreement is the rank correlation of the two maps of what decided, over the "
        "pictures that the first took for the class. Below, the pictures that moved most, under each of the two."
    )
    both = (f"{figure}, {place}" for figure in ("accuracy", "off the object") for place in ("first", "second"))
    columns = ("class", *both, "changed their mind", "agreement")
    return Section(f"Against {names[1]}", text, Table(columns, tuple(rows)), tuple(p for p in pictures if p))

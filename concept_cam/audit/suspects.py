"""Suspects: what a report says first, and its sections on evidence that lies off the object."""

from __future__ import annotations

from dataclasses import replace

from concept_cam.audit.figures import ALARM, SHOWN, ClassAudit, counted
from concept_cam.audit.findings import Audit
from concept_cam.audit.thumbnails import Thumbnails
from concept_cam.audit.words import BACKGROUND
from concept_cam.page import Intervals, Mark, Section, Strip, Table


def suspects_lead(audit: Audit) -> str:
    """Whether a model relies on what is around the object, with an example; or why nobody can say."""
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
    one = _plainest(audit)[0]
    off = one.off_object.mean if one.off_object else 0.0
    return (
        f"The model relies on what is around the object: for {len(audit.suspects)} of {counted(len(audit.ranked), 'class')}, "
        f"clearly more than {ALARM:.0%} of the evidence lies off the object. For example {one.name}: {off:.0%} of the "
        f"evidence for it lies off the object{_scene(audit, one)}.{rest}"
    )


def _scene(audit: Audit, one: ClassAudit) -> str:
    """The background that tells a class from its runner-up, or else that which moves it most."""
    row, effect = audit.good[audit.plainest[one.name]], one.background
    (pair,) = (pair for pair in audit.pairs(None) if (pair.first, pair.second) == (row.predicted, row.runner_up))
    for told, _ in pair.described:
        if told.what == BACKGROUND:
            return f", and it is told from {pair.second} by the background: “{told.ours}”, not “{told.theirs}”"
    return f", and erasing “{effect.text}” lowers its probability by {effect.effect:.2f}" if effect and effect.moves else ""


def _plainest(audit: Audit) -> list[ClassAudit]:
    """The suspects; first that on whose image masking the evidence changes the decision most."""
    first = max(audit.suspects, key=lambda one: audit.good[audit.plainest[one.name]].rd5, default=None)
    return sorted(audit.suspects, key=lambda one: one is not first)


def off_object_section(audit: Audit, thumbnails: Thumbnails) -> Section:
    """The plainest suspect as images, then classes by their evidence off the object."""
    title = "Evidence off the object"
    if not audit.ranked:
        return Section(title, "Not known: no image has a mask or a box of its object.")
    rows, marks = [], []
    for place, one in enumerate(audit.ranked):
        off = one.off_object
        if off is None:
            continue
        verdict = "suspect" if one.suspect else "" if one.judged else "too few to say"
        chance, image = one.means["off_area"], audit.good[audit.plainest[one.name]].image
        rows.append((one.name, verdict, one.predicted, off.mean, off.low, off.high, chance, one.means["border"], image))
        if place < max(SHOWN, len(audit.suspects)):
            thumbnail = thumbnails.decision(audit.plainest[one.name]) if place < SHOWN else None
            marks.append(Mark(one.name, off.mean, off.low, off.high, chance, verdict, one.suspect, thumbnail))
    about = (
        "Off the object is the share of the evidence that lies more than one patch away from the object: 0 is none of it, 1 "
        "is all. Each dot is the mean over the images predicted as the class, and the bar around it its confidence interval: "
        "with a probability of 95 % the bars of all classes are right. A map without meaning would spread over the image; its "
        "share is that of the image that lies so far away. Border is the share of the evidence along the edges of the image, "
        "where frames, captions and watermarks are. The image of a class is the one on which masking the strongest 5 % of the "
        f"evidence changes the decision most.\n\nA class is a suspect if its whole bar is above {ALARM:g}. With "
        f"{counted(len(audit.ranked), 'class')} this takes {audit.fewest} images or more; with fewer there are too few to say."
    )
    columns = ("class", "alarm", "images", "off the object", "at least", "at most", "by chance", "border", "its image")
    plot = Intervals(
        "share of the evidence off the object; sorted by the left end of the bar",
        tuple(marks),
        limit=ALARM,
        limited=f"alarm: a whole bar beyond {ALARM:g}",
        by_chance="a map without meaning",
        valued="mean of the class (red: a suspect)" if audit.suspects else "mean of the class",
        spanned="where the mean lies, 95% sure for all classes",
    )
    rule = "Chosen from all suspects: masking the evidence changes the decision most."
    strips = tuple(replace(one, text=rule) for one in _strips(_plainest(audit)[:1], audit, thumbnails))
    text = (
        "A contrastive map shows the evidence that decides: for the predicted class and against the one that scores second. A "
        "base map also shows what both have. Bright is strong, on each map's own scale."
    )
    return Section(title, text, Table(columns, tuple(rows)), strips=strips, plots=(plot,), about=about)


def _strips(classes: list[ClassAudit], audit: Audit, thumbnails: Thumbnails) -> tuple[Strip, ...]:
    """The plainest image of each class."""
    strips = []
    for one in classes:
        at = audit.plainest[one.name]
        row, images = audit.good[at], thumbnails.evidence(at)
        told = f"{row.off_object or 0:.0%} of the evidence lies off the object here"
        strips += [Strip(f"{one.name}, not {row.runner_up}: {told}", images)] if images else []
    return tuple(strips)


def suspects_section(audit: Audit, thumbnails: Thumbnails) -> Section | None:
    """The other suspects, as images."""
    strips = _strips(_plainest(audit)[1:SHOWN], audit, thumbnails)
    text = (
        "Of each suspect the image on which masking the evidence changes the decision most. A background that fills the image "
        "is still there when 5 % of it are masked; the decision may then stay as it was."
    )
    return Section("Other suspects", text, strips=strips) if strips else None

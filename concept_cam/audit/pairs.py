"""Pairs of classes: their section of the report, and a page for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from concept_cam.audit.figures import Pair, counted
from concept_cam.audit.findings import Audit
from concept_cam.audit.thumbnails import Thumbnails, mean_map, slug
from concept_cam.audit.words import AGREES, BACKGROUND, STANDS_OUT
from concept_cam.page import Intervals, Mark, Matrix, Page, Section, Strip, Table, Thumbnail, how_made
from concept_cam.page.plots import range_of

NO_WORDS = "no phrase of the vocabulary is sure enough"

_CONFUSED = 12
"""So many classes a matrix shows at most."""

_MUCH = 0.5
"""The share of the evidence off the object from which on what is around the object tells two classes apart."""


def page_of(pair: Pair) -> str:
    """Where the page of a pair lies, relative to the folder of the audit."""
    names = f"{pair.first}\n{pair.second}"
    digest = hashlib.sha256(names.encode(errors="replace")).hexdigest()[:8]
    return f"pairs/{f'{slug(pair.first)}-not-{slug(pair.second)}'[:80].strip('-')}-{digest}.html"


def in_words(pair: Pair) -> str:
    """The phrases that tell a pair apart, with their agreement; empty if there is none."""
    return "; ".join(f"{one.ours}, not {one.theirs} ({agreement:.2f})" for one, agreement in pair.described)


def pairs_section(audit: Audit, thumbnails: Thumbnails, pairs: Sequence[Pair]) -> Section:
    """The pairs that are most confused, as the report shows them.

    Args:
        audit: that was run.
        thumbnails: of the audit.
        pairs: that are shown.
    """
    words = audit.setup.described
    rows, strips = [], []
    for pair in pairs:
        told = in_words(pair) or (NO_WORDS if words else None)
        first = f"{pair.first}, not {pair.second}"
        rows.append((first, pair.images, pair.errors, pair.swapped, pair.runner_up_probability, told))
        images = [
            thumbnails.decision(pair.shown[0], f"runner-up least likely: {pair.best}"),
            thumbnails.decision(pair.shown[-1], f"runner-up most likely: {pair.worst}"),
        ]
        around = f"what is around the object: {pair.off_object:.0%} of the evidence" if _around(pair) else ""
        text = in_words(pair) or around or told or ""
        strips.append(Strip(first, tuple(one for one in images if one), text, page_of(pair)))
    others = audit.pairs(None)[len(pairs) :]
    if others:
        left = (sum(getattr(pair, name) for pair in others) for name in ("images", "errors", "swapped"))
        rows.append((f"{counted(len(others), 'other pair')} (pairs.csv)", *left, None, None))
    wrong = f"{audit.errors} of {counted(len(audit.good), 'image')} have another label than the predicted class."
    text = (
        f"{wrong if audit.errors else 'No image is predicted wrongly.'} A pair is the predicted class and its runner-up; the "
        "images show the evidence. What tells the two apart? Each pair has a page that says it."
    )
    about = (
        "Errors are the images with another label than the predicted class; of those some have the label of the runner-up. "
        "The column runner-up is its mean probability. The pairs are sorted by errors, then by that."
    )
    if words:
        about += (
            "\n\nThe words name the phrases that explain the difference between the two texts best. The number in "
            "brackets says how well the map of the phrase agrees with the evidence (1: the same places). A phrase is listed "
            "only if it explains the texts and the maps better than phrases without any meaning here would; otherwise "
            f"{NO_WORDS}."
        )
    columns = ("pair", "images", "errors", "label is the runner-up", "runner-up", "in words")
    plots = (_confusion(audit),) if audit.errors else ()
    return Section("Pairs that are hardest to tell apart", text, Table(columns, tuple(rows)), (), tuple(strips), plots, about)


def _confusion(audit: Audit) -> Matrix:
    """How often the classes of the most frequent errors are predicted as each other."""
    counts: dict[tuple[str, str], int] = {}
    for row in audit.good:
        counts[row.label, row.predicted] = counts.get((row.label, row.predicted), 0) + 1
    most = sorted((pair for pair in counts if pair[0] != pair[1]), key=lambda pair: -counts[pair])
    names: list[str] = []
    for pair in most:
        new = [name for name in pair if name not in names]
        if len(names) + len(new) <= _CONFUSED:
            names += new
    table = tuple(tuple(counts.get((label, predicted), 0) for predicted in names) for label in names)
    return Matrix("label", "predicted as", tuple(names), table)


def pair_page(audit: Audit, pair: Pair, thumbnails: Thumbnails) -> Page:
    """The two classes side by side with the evidence for each, the words, and images from sure to not sure.

    Args:
        audit: that was run.
        pair: one of its pairs.
        thumbnails: of the audit.
    """
    backwards = next((one for one in audit.pairs(None) if (one.first, one.second) == (pair.second, pair.first)), None)
    sections = [_both(pair, backwards, thumbnails), _words(audit, pair), _images(audit, pair, thumbnails)]
    facts = [("images", str(pair.images)), ("errors", str(pair.errors))]
    facts += [(f"errors that show {pair.second}", str(pair.swapped))] if pair.errors else []
    facts.append((f"mean probability of {pair.second}", f"{pair.runner_up_probability:.3f}"))
    facts += [("evidence off the object", f"{pair.off_object:.0%}")] if pair.off_object is not None else []
    sections += [how_made(audit.made)] if audit.made else []
    title = f"{pair.first}, not {pair.second}: what tells them apart?"
    return Page(title, _lead(audit, pair), tuple(one for one in sections if one), tuple(facts))


def _lead(audit: Audit, pair: Pair) -> str:
    around = f"{pair.off_object:.0%} of the evidence lies off the object" if _around(pair) else ""
    if pair.described:
        one = pair.described[0][0]
        part = f"the {one.what}"
        if around and one.what != BACKGROUND:
            part += f", although {around}"
        return f"The model tells them apart by {part}: “{one.ours}” for {pair.first}, “{one.theirs}” for {pair.second}."
    if around:
        told = f"The model tells them apart by what is around the object: {around}."
    elif audit.setup.described:
        told = "It is not clear by what the model tells them apart: look at where the evidence lies."
    else:
        told = "There is no vocabulary of parts to say by what the model tells them apart: look at where the evidence lies."
    for one, agreement in zip(pair.differences[:1], pair.agreements, strict=False):
        told += f" The nearest phrase, “{one.ours}”, not “{one.theirs}”, is kept out: {one.kept_out(agreement)}."
    return told


def _around(pair: Pair) -> bool:
    """Whether most of the evidence lies off the object."""
    return pair.off_object is not None and pair.off_object >= _MUCH


def _both(pair: Pair, backwards: Pair | None, thumbnails: Thumbnails) -> Section:
    """The plainest image of each class with its evidence."""
    images: list[Thumbnail | None] = []
    for one in (pair, backwards):
        if one is not None:
            images.append(thumbnails.image(one.plainest, f"predicted as {one.first}"))
            images.append(thumbnails.decision(one.plainest, f"evidence for {one.first}, not {one.second}"))
    rule = "Of each class the image on which masking the evidence changes the decision most"
    strips = [Strip(rule, _linked(images))] if any(images) else []
    text = "Bright places are evidence for the predicted class and against the other."
    if not _around(pair):
        mean = [mean_map(pair.map, f"red for {pair.first}, blue for {pair.second}")]
        mean += [mean_map(backwards.map, f"red for {backwards.first}, blue for {backwards.second}")] if backwards else []
        if pair.shared is not None and pair.described and pair.described[0][0] == pair.differences[0]:
            mean.append(mean_map(pair.shared, f"red where the map of {pair.differences[0].what} agrees"))
        told = "All images of a class together, each in the box of its object."
        strips.append(Strip("Mean maps of the evidence", tuple(mean), told))
    return Section("Where the difference is", text, strips=tuple(strips))


def _words(audit: Audit, pair: Pair) -> Section | None:
    """What the phrases explain."""
    if not audit.setup.described:
        return None
    means = [one for one, _ in pair.described]
    marks, rows = [], []
    for one, agreement in zip(pair.differences, pair.agreements, strict=True):
        note = f"kept out: {one.kept_out(agreement)}" if one not in means else ""
        phrases = f"{one.ours}, not {one.theirs}"
        marks.append(Mark(phrases, agreement, note=note, strong=one in means))
        rows.append((one.what, one.ours, one.theirs, one.weight, one.stands_out, agreement, "yes" if one in means else "no"))
    about = (
        "Weight is how much of the difference between the two texts a phrase explains. Agreement is the rank correlation of "
        "the map of a phrase with the evidence. Stands out is how many times as well as other attributes it explains the "
        f"difference of the texts; the bound is {STANDS_OUT:g}. A phrase is reported if it stands out and its map agrees."
    )
    text = (
        "The phrases in which the texts of the two classes differ most, the first most of all. They are read off the texts, "
        "not off the images: one that is kept out may be true of neither class."
    )
    low, high = range_of(pair.agreements, most=1.0)
    axis = "how well the map of the phrase agrees with the evidence"
    plot = Intervals(axis, tuple(marks), low, high, AGREES, f"asked: {AGREES:g}, and {STANDS_OUT:g} times in the texts")
    columns = ("what", pair.first, pair.second, "weight", "stands out", "agreement", "reported")
    return Section("In words", text, Table(columns, tuple(rows)), plots=(plot,), about=about)


def _images(audit: Audit, pair: Pair, thumbnails: Thumbnails) -> Section:
    """Images from that where the runner-up is least likely to that where it is most."""
    rows = [audit.good[at] for at in pair.shown]
    images = [
        thumbnails.decision(
            at, f"{row.image}: {pair.second} {row.runner_up_probability:.3f}{'' if row.correct else ', an error'}"
        )
        for at, row in zip(pair.shown, rows, strict=True)
    ]
    table = Table(
        ("image", "label", "confidence", "runner-up", "off the object"),
        tuple((row.image, row.label, row.confidence, row.runner_up_probability, row.off_object) for row in rows),
    )
    text = f"{len(rows)} of {pair.images} images, by the probability of {pair.second}, with the evidence."
    return Section("From the surest image to the least sure", text, table, _linked(images))


def _linked(images: Iterable[Thumbnail | None]) -> tuple[Thumbnail, ...]:
    """Those that there are; the full images are beside the report, one folder above."""
    above = "../{}".format
    return tuple(
        replace(one, link=one.link and above(one.link), explore=one.explore and above(one.explore)) for one in images if one
    )

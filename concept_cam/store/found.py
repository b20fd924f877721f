"""What a page shows of the matches of a search: those with evidence beside their maps, the others faint below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from PIL import Image

from concept_cam.errors import one_line
from concept_cam.heat import upright
from concept_cam.page import Section, Strip, Table, Thumbnail
from concept_cam.result import Localization
from concept_cam.store.store import Answer, Match

_SIDE = 320
_FAINT = 0.3
"""Of what is drawn where there is no evidence: a map is bright somewhere, whatever the image shows."""

SHOWN = 200
"""Images of one answer on the page; the table has all."""


@final
@dataclass(frozen=True, eq=False)
class Found:
    """A match with what is written of it."""

    rank: int
    match: Match
    result: Localization | None
    problem: str
    overlay: str | None = None
    panels: tuple[Image.Image, Image.Image] | None = None
    explore: str | None = None

    @property
    def evident(self) -> bool:
        """Whether the image scores higher for the target than for its references in the mean, or than 0 without any."""
        return self.result is not None and _margin(self.result) > 0

    @property
    def name(self) -> str:
        """The name of the file as words: without its number and its ending."""
        stem = re.sub(r"[\s_-]+", " ", self.match.image.stem).strip()
        return short(re.sub(r"^\d+ ", "", stem) or self.match.image.name)


def lead_of(answer: Answer, found: Sequence[Found]) -> str:
    """How many images have evidence, by the rule of ``Found.evident``, and which."""
    if not found:
        return f"No image of the store has a field: nothing is known of {short(answer.comparison.target)}."
    good, among = [one for one in found if one.evident], len(answer.store)
    of = f"{len(found):,} images" if len(found) == among else f"the first {len(found):,} of {among:,} images"
    if not good:
        return f"None of {of} scores {_rule(answer)}; those with the highest scores come first."
    first = ", ".join(one.name for one in good[:3]) + (f" and {len(good) - 3:,} more" if len(good) > 3 else "")
    return f"{len(good):,} of {of} {'scores' if len(good) == 1 else 'score'} {_rule(answer)}: {first}."


def _rule(answer: Answer) -> str:
    target = short(answer.comparison.target)
    return f"higher for {target} than for {_others(answer)}" if answer.comparison.references else f"above 0 for {target}"


def _others(answer: Answer) -> str:
    names = answer.comparison.references
    return short(names[0]) if len(names) == 1 else f"the mean of {short(', '.join(names))}"


def sections_of(answer: Answer, found: Sequence[Found]) -> list[Section]:
    """Images that show it beside their maps, then all others, smaller and faint; the table has both."""
    asked = answer.comparison
    against = f" against {', '.join(map(short, asked.references))}, strength {asked.strength:g}" if asked.references else ""
    columns = ("rank", "image", "score of the direction", f"score of {short(asked.target)}", "peak", "problem")
    table = Table(columns, tuple(_cells(answer, one) for one in found))
    shown = [one for one in found if one.panels is not None]
    good, rest = [one for one in shown if one.evident], [one for one in shown if not one.evident]
    pairs = tuple(panel for one in good or rest for panel in _pair(answer, one))
    title = f"Evidence: {_images(good)}" if good else f"No evidence: {_images(rest)}"
    strips = (Strip(title, pairs),) if pairs else ()
    alone = len(found) - len(shown)
    text = f"In the table alone: {alone:,} of {len(found):,} matches." if alone else ""
    about = (
        f"Images stand in the order of the score of the direction: that of {short(asked.target)}"
        + (f" minus {asked.strength:g} times that of {_others(answer)}. " if asked.references else ". ")
        + f"There is evidence if an image scores {_rule(answer)}. The score of one text depends on the model, so compare with "
        "a reference that is similar. The cross is the peak of a map, a box a region of it. A click on a map opens it large, "
        "explore compares it further. Each map has its own scale and is bright somewhere, whatever the image shows."
    )
    first = Section(f"{short(asked.target)}{against}", text, table, strips=strips, about=about)
    if not good or not rest:
        return [first]
    below = f"Below: no evidence of {short(asked.target)} ({_images(rest)})"
    faint = f"None of these scores {_rule(answer)}. Their maps are faint here: a map is bright somewhere in any image."
    return [first, Section(below, faint, images=tuple(panel for one in rest for panel in _faint(answer, one)))]


def _images(found: Sequence[Found]) -> str:
    return "1 image" if len(found) == 1 else f"{len(found):,} images"


def _pair(answer: Answer, one: Found) -> Iterator[Thumbnail]:
    """Both panels of an image."""
    if one.panels is not None:
        yield Thumbnail(one.panels[0], f"{one.rank}. {one.name}", one.overlay, side=_SIDE)
        yield Thumbnail(one.panels[1], _scores(answer, one), one.overlay, one.explore, _SIDE)


def _faint(answer: Answer, one: Found) -> Iterator[Thumbnail]:
    """One panel of an image, between the two."""
    if one.panels is not None:
        told = f"{one.rank}. {one.name}: {_scores(answer, one)}"
        yield Thumbnail(Image.blend(*one.panels, _FAINT), told, one.overlay, one.explore)


def _scores(answer: Answer, one: Found) -> str:
    """What the rule compares."""
    asked, result = answer.comparison, one.result
    if result is None:
        return ""
    target = float(result.scores[asked.target])
    told = f"{short(asked.target)} {target:.2f}"
    if not asked.references:
        return told
    others = short(asked.references[0]) if len(asked.references) == 1 else "mean of the references"
    return f"{told}, {others} {target - _margin(result):.2f}"


def _cells(answer: Answer, one: Found) -> tuple[Any, ...]:
    x, y = (None, None) if one.result is None else one.result.peak()
    peak = "" if x is None or y is None else f"({x:.0f},\N{NO-BREAK SPACE}{y:.0f})"
    score = None if one.result is None else float(one.result.scores[answer.comparison.target])
    image, within = one.match.image, answer.store.images
    name = image.relative_to(within) if image.is_relative_to(within) else image
    return one.rank, short(name), one.match.score, score, peak, one.problem


def panels_of(result: Localization, image: Image.Image, drawn: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The image as it is and as it is drawn on, without its legend, for the page.

    Args:
        result: of the image.
        image: as it was read.
        drawn: the overlay of its map.
    """
    height, width = result.placement.image_size
    plain, drawn = upright(image, result.placement).copy(), drawn.crop((0, 0, width, height))
    for panel in (plain, drawn):
        panel.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return plain, drawn


def _margin(result: Localization) -> float:
    """By how much the target scores higher than its references in the mean; without any, than 0."""
    asked = result.comparison
    others = [float(result.scores[name]) for name in asked.references]
    return float(result.scores[asked.target]) - (sum(others) / len(others) if others else 0.0)


def short(text: object) -> str:
    """A text from outside, on one line."""
    return one_line(text, 120)

"""What the page shows of a result: HTML in which all texts are escaped and all images are embedded."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL import Image

from concept_cam.demo.place import Place
from concept_cam.demo.verdict import Verdict
from concept_cam.demo.view import View
from concept_cam.drawing import map_on
from concept_cam.errors import one_line
from concept_cam.evidence import EvidenceMap
from concept_cam.result import Localization

SIDE = 560
"""The longer side of an image on the page, in pixels."""


def contrastive_figure(view: View, result: Localization, at: Place | None = None) -> str:
    """The contrastive map on its image, with a ring at the peak and a cross at the place that was chosen; a button.

    Args:
        view: of the image.
        result: what is shown.
        at: the chosen place.
    """
    comparison = result.comparison
    against = f" against {', '.join(comparison.references)}, strength {comparison.strength:g}" if comparison.references else ""
    kind = "contrastive map" if against and comparison.strength > 0 else "base map"
    x, y = result.peak()
    text = f"The image with the {kind} of {comparison.target}{against}; strongest at x {x:.0f}, y {y:.0f}."
    # A map without evidence for the target has no peak to show.
    marks = [_mark("peak", result, (x, y))] if result.evidence.strongest > 0 else []
    marks += [] if at is None else [_mark("cross", result, at.point)]
    label = escaped(f"{text} Press to see which concepts have most evidence at a place; arrow keys move the cross.")
    return (
        f'<figure><button type="button" class="map" aria-label="{label}">{_drawn(view, result.evidence)}{"".join(marks)}'
        f"</button><figcaption>{escaped(kind)}: <b>{escaped(comparison.target)}</b>{escaped(against)}</figcaption></figure>"
    )


def bare_figure(view: View) -> str:
    """The image alone, before there is a target."""
    return (
        f'<figure><div class="map" role="img" aria-label="The image.">{_embedded(view.small)}</div>'
        "<figcaption>the image; name a target to see a map</figcaption></figure>"
    )


def base_figure(view: View, result: Localization) -> str:
    """The base map on its image."""
    target = escaped(result.comparison.target)
    return (
        f'<figure><div class="map" role="img" aria-label="The image with the base map of {target}.">'
        f"{_drawn(view, result.base)}</div><figcaption>base map: <b>{target}</b>, without references</figcaption></figure>"
    )


def sentences(verdict: Verdict) -> str:
    """A verdict as paragraphs."""
    return "".join(f"<p>{escaped(sentence)}</p>" for sentence in verdict.sentences)


def place_table(at: Place, target: str) -> str:
    """What is said of a place, as two tables."""
    x, y = at.point
    longest = max(1.0, *(abs(value) for _, value in (*at.concepts, *at.references)))
    tables = _table(f"Most evidence at x {x:.0f}, y {y:.0f}", at.concepts, longest)
    if at.references:
        tables += _table(f"Evidence for {target} there, against each reference alone", at.references, longest)
    return f'{tables}<p class="legend">1 is the strongest place of the base map of {escaped(target)}.</p>'


def notice(text: object) -> str:
    """A problem in one line, which a screen reader says at once."""
    return f'<p class="notice" role="alert">{escaped(one_line(text))}</p>'


def small_copy(image: Image.Image) -> Image.Image:
    """A copy for the page, never enlarged."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small


def escaped(text: object) -> str:
    """A text for HTML and for the templates of gradio, in which braces, dollars and backticks mean something."""
    found = escape(one_line(text))
    for letter in "{}$`\\":
        found = found.replace(letter, f"&#{ord(letter)};")
    return found


def _table(caption: str, rows: Iterable[tuple[str, float]], longest: float) -> str:
    body = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td><span class="bar{" minus" * (value < 0)}" '
        f'style="width:{100 * abs(value) / longest:.1f}%"></span></td><td class="number">{_signed(value)}</td></tr>'
        for name, value in rows
    )
    head = '<thead class="hidden"><tr><th>concept</th><th>bar</th><th>evidence</th></tr></thead>'
    return f"<table><caption>{escaped(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def _signed(value: float) -> str:
    found = f"{value:+.2f}"
    return "0.00" if found in ("+0.00", "-0.00") else found


def _mark(kind: str, result: Localization, point: tuple[float, float]) -> str:
    height, width = result.placement.image_size
    x, y = 100 * point[0] / width, 100 * point[1] / height
    return f'<span class="{kind}" style="left:{x:.2f}%;top:{y:.2f}%" aria-hidden="true"></span>'


def _drawn(view: View, evidence: EvidenceMap) -> str:
    return _embedded(map_on(view.small, view.on_small(evidence.placement), evidence.grid))


def _embedded(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img alt="" draggable="false" {size} src="data:image/jpeg;base64,{content}">'

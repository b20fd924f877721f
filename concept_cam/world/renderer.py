"""Draws a plate of the embedded world: one bird, its pose and its surroundings, and a label for every pixel.

Everything is a polygon in the bird's own coordinates (x towards the beak, y down, about one unit to each side), moved by one
affine map and painted back to front. The same polygons are painted once in colour and once in labels, so that a mask is
exact: what is hidden behind the wing is not part of the back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from concept_cam.world.birds import COLOURS, PARTS, Bird

TRAINING_STREAM, VALIDATION_STREAM, HELD_OUT_STREAM, DRAWING_STREAM = range(4)
"""First words of all seeds: plates of different streams are never the same."""

HABITATS = ("sky", "meadow", "reeds", "water", "snow", "woodland")
SIZE = 96
OVERSAMPLING = 2
INK = (38, 34, 32)

Points = Float[np.ndarray, "points 2"]

_GROUNDS = {
    "sky": ((196, 222, 240), (228, 238, 244)),
    "meadow": ((214, 230, 222), (168, 196, 120)),
    "reeds": ((222, 226, 206), (184, 178, 118)),
    "water": ((206, 226, 232), (120, 172, 190)),
    "snow": ((214, 222, 232), (240, 244, 248)),
    "woodland": ((196, 208, 176), (134, 138, 96)),
}
_CLUTTER = {
    "sky": ((250, 250, 250), (214, 226, 238)),
    "meadow": ((120, 160, 70), (150, 180, 90), (96, 140, 60)),
    "reeds": ((150, 146, 80), (126, 130, 70), (176, 160, 96)),
    "water": ((150, 196, 210), (96, 150, 172), (190, 216, 222)),
    "snow": ((226, 232, 240), (200, 210, 222), (120, 130, 128)),
    "woodland": ((96, 110, 64), (120, 100, 70), (80, 98, 58), (150, 150, 100)),
}


@dataclass(frozen=True)
class Plate:
    """A drawn bird: the image, a label for every pixel, and its card.

    ``labels`` holds ``1 + PARTS.index(part)`` for every pixel of a part that can be seen, 0 elsewhere.
    """

    image: Image.Image
    labels: UInt8[np.ndarray, "height width"]
    bird: Bird
    habitat: str

    def mask(self, part: str) -> Bool[np.ndarray, "height width"]:
        """The pixels of a part that can be seen."""
        mask: Bool[np.ndarray, "height width"] = self.labels == 1 + PARTS.index(part)
        return mask


def draw(bird: Bird, rng: np.random.Generator, size: int = SIZE, habitats: Sequence[str] = HABITATS) -> Plate:
    """Draw a bird in a random pose, size, place and habitat.

    Args:
        bird: its card.
        rng: the same state gives the same plate.
        size: side of the square image in pixels; poses do not depend on it.
        habitats: those to choose from.
    """
    side = size * OVERSAMPLING
    habitat = habitats[int(rng.integers(len(habitats)))]
    canvas = _background(habitat, rng, side)
    labels = Image.new("L", (side, side))
    paint, label = ImageDraw.Draw(canvas), ImageDraw.Draw(labels)
    pose, head = _pose(rng, side)
    _perch(paint, pose, rng, side)
    colours = {a: _shade(v, rng) for a, v in bird.card.items() if v in COLOURS}
    outline = max(1, round(side / 200))
    for kind, shape, points in _anatomy(bird, head):
        flat = (points @ pose[:, :2].T + pose[:, 2]).ravel().tolist()
        if kind == "ink":
            paint.line(flat, fill=INK, width=outline)
        elif kind == "mark":
            paint.polygon(flat, fill=_contrast(colours[shape]))
        elif kind == "eye":
            paint.polygon(flat, fill=(252, 252, 250) if shape == "white" else INK)
        else:
            paint.polygon(flat, fill=colours[shape], outline=INK, width=outline)
            label.polygon(flat, fill=1 + PARTS.index(shape))
    image = canvas.reduce(OVERSAMPLING)
    sampled = np.asarray(labels)[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING]
    return Plate(image, sampled, bird, habitat)


def _shade(colour: str, rng: np.random.Generator) -> tuple[int, ...]:
    """A colour as this one bird wears it: a little lighter or darker, a little off in hue."""
    base = np.array(COLOURS[colour], dtype=float)
    return tuple(np.clip(base * rng.uniform(0.9, 1.08) + rng.uniform(-9, 9, 3), 0, 255).astype(int).tolist())


def _contrast(colour: tuple[int, ...]) -> tuple[int, ...]:
    dark = sum(colour) > 240
    return tuple(int(c * 0.42) if dark else 205 for c in colour)


def _pose(rng: np.random.Generator, side: int) -> tuple[Float[np.ndarray, "2 3"], Float[np.ndarray, "2 2"]]:
    """The affine map from the bird's coordinates to pixels, and the rotation of its head about the neck."""
    scale = side * rng.uniform(0.35, 0.43)
    tilt, nod = np.deg2rad(rng.uniform(-24, 14)), np.deg2rad(rng.uniform(-18, 18))
    stretch = rng.uniform(0.92, 1.08)
    rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    linear = scale * rotation @ np.diag([stretch, 1 / stretch])
    if rng.random() < 0.5:
        linear[0] *= -1
    centre = side * rng.uniform((0.45, 0.47), (0.55, 0.56))
    head = np.array([[np.cos(nod), -np.sin(nod)], [np.sin(nod), np.cos(nod)]])
    return np.column_stack([linear, centre]), head


def _perch(paint: ImageDraw.ImageDraw, pose: Float[np.ndarray, "2 3"], rng: np.random.Generator, side: int) -> None:
    """A branch under the feet."""
    x, y = pose[:, :2] @ _FEET + pose[:, 2]
    slope = rng.uniform(-0.12, 0.12)
    width = max(2, round(side * rng.uniform(0.03, 0.05)))
    bark = tuple(rng.integers((84, 62, 40), (128, 98, 74)).tolist())
    ends = (0, y - slope * x), (side, y + slope * (side - x))
    paint.line(ends, fill=INK, width=width + 2)
    paint.line(ends, fill=bark, width=width)


def _background(habitat: str, rng: np.random.Generator, side: int) -> Image.Image:
    top, bottom = (np.array(c) + rng.uniform(-14, 14, 3) for c in _GROUNDS[habitat])
    ramp = np.linspace(0, 1, 16)[:, None] ** rng.uniform(0.7, 1.6)
    column = np.clip(top + (bottom - top) * ramp, 0, 255).astype(np.uint8)
    canvas = Image.fromarray(column[:, None]).resize((side, side), Image.Resampling.BILINEAR)
    paint = ImageDraw.Draw(canvas)
    shades = _CLUTTER[habitat]
    count = int(rng.integers(9, 16))
    places = side * rng.random((count, 2))
    sizes = side * rng.uniform(0.02, 0.11, (count, 2))
    leans = rng.uniform(-0.25, 0.25, count)
    for (x, y), (w, h), lean, k in zip(
        places.tolist(), sizes.tolist(), leans.tolist(), rng.integers(99, size=count).tolist(), strict=True
    ):
        fill = shades[k % len(shades)]
        if habitat in ("reeds", "meadow"):
            length = h * (4.5 if habitat == "reeds" else 2)
            paint.line((x, y, x + lean * length, y - length), fill=fill, width=max(2, round(w / 3)))
        elif habitat == "water":
            paint.ellipse((x - 2 * w, y, x + 2 * w, y + h / 3), fill=fill)
        elif habitat == "woodland":
            paint.polygon((x - w, y, x, y - h, x + w, y, x, y + h), fill=fill)
        else:
            paint.ellipse((x - 1.3 * w, y - h / 2, x + 1.3 * w, y + h / 2), fill=fill)
    # Flowers and berries in the colours of the birds: a colour alone says nothing about a part.
    for x, y, r, k in zip(
        *(side * rng.random((2, 7))).tolist(),
        (side * rng.uniform(0.012, 0.045, 7)).tolist(),
        rng.integers(len(COLOURS), size=7).tolist(),
        strict=True,
    ):
        paint.ellipse((x - r, y - r, x + r, y + r), fill=tuple(COLOURS.values())[k])
    return canvas


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0, n: int = 14) -> Points:
    """Points on a turned ellipse between two angles in degrees, clockwise on the page from the beak's side."""
    t, r = np.deg2rad(np.linspace(start, stop, n)), np.deg2rad(turn)
    x, y = rx * np.cos(t), ry * np.sin(t)
    return np.column_stack([cx + x * np.cos(r) - y * np.sin(r), cy + x * np.sin(r) + y * np.cos(r)])


def _points(*pairs: tuple[float, float]) -> Points:
    return np.array(pairs)


_NECK = np.array([0.36, -0.16])
_FEET = np.array([0.02, 0.74])
_BODY = (-0.04, 0.1, 0.54, 0.36)
_HEAD = (0.46, -0.36, 0.28, 0.27)


@cache
def _outline(name: str) -> Points:
    """The template polygons by name; the only table of shapes there is."""
    bx, by, brx, bry = _BODY
    hx, hy, hrx, hry = _HEAD
    leg = [(-0.065, 0.34), (0.065, 0.34), (0.065, 0.66), (0.17, 0.7), (0.17, 0.76), (-0.09, 0.76), (-0.065, 0.66)]
    shapes: dict[str, Points] = {
        "body": _arc(bx, by, brx, bry, 0, 360, -14, 28),
        "breast": np.vstack([_arc(bx, by, brx, bry, -52, 74, -14), _points((0.1, 0.26), (0.06, 0.06), (0.12, -0.1))]),
        "back": np.vstack([_arc(bx, by, brx, bry, 172, 300, -14), _points((0.16, -0.1), (-0.16, -0.02), (-0.44, 0.16))]),
        "wing": np.vstack(
            [_arc(0.0, 0.08, 0.26, 0.2, -100, 110, 0), _points((-0.3, 0.32), (-0.72, 0.3), (-0.4, 0.08), (-0.2, -0.08))]
        ),
        "wing bar": _points((-0.06, -0.12), (0.1, -0.1), (0.01, 0.1), (-0.04, 0.29), (-0.26, 0.31), (-0.19, 0.1)),
        "head": _arc(hx, hy, hrx, hry, 0, 360, 0, 24),
        "nape": _points((0.2, -0.42), (0.7, -0.24), (0.5, 0.06), (0.12, -0.14)),
        "crown": np.vstack([_arc(hx, hy, hrx, hry, 172, 338), _points((0.56, -0.44), (0.36, -0.4))]),
        "throat": np.vstack([_arc(hx - 0.02, hy + 0.03, hrx * 1.12, hry * 1.3, 4, 122), _points((0.4, -0.22), (0.58, -0.31))]),
        "crest": _points(
            (0.56, -0.58),
            (0.46, -0.88),
            (0.36, -0.72),
            (0.2, -0.9),
            (0.22, -0.7),
            (0.02, -0.74),
            (0.2, -0.46),
            (0.4, -0.56),
        ),
        "short beak": _points((0.67, -0.54), (1.04, -0.35), (0.69, -0.19), (0.74, -0.36)),
        "long beak": _points((0.66, -0.52), (0.92, -0.42), (1.4, -0.28), (0.92, -0.25), (0.68, -0.2)),
        "hooked beak": _points((0.66, -0.56), (0.86, -0.55), (1.02, -0.44), (1.03, -0.1), (0.9, -0.24), (0.69, -0.19)),
        "square tail": _points((-0.44, 0.02), (-1.02, 0.16), (-1.06, 0.46), (-0.42, 0.3)),
        "forked tail": _points((-0.44, 0.04), (-1.18, -0.02), (-0.84, 0.26), (-1.2, 0.52), (-0.42, 0.3)),
        "pointed tail": _points((-0.44, 0.0), (-0.8, 0.12), (-1.26, 0.4), (-0.8, 0.42), (-0.42, 0.32)),
        "far leg": _points(*leg) + _points((-0.15, -0.02)),
        "near leg": _points(*leg) + _points((0.1, 0.0)),
        "eye ring": _arc(0.56, -0.37, 0.062, 0.062, 0, 360, 0, 10),
        "eye": _arc(0.565, -0.37, 0.042, 0.042, 0, 360, 0, 8),
    }
    return shapes[name]


@cache
def _breast_marks(pattern: str) -> tuple[Points, ...]:
    centres = [(x, y) for x in (0.2, 0.31, 0.42) for y in (-0.05, 0.09, 0.23) if (x, y) != (0.42, 0.23)]
    if pattern == "streaked":
        return tuple(
            _points((x - 0.025, y - 0.06), (x + 0.025, y - 0.06), (x + 0.01, y + 0.07), (x - 0.02, y + 0.07))
            for x, y in centres
        )
    if pattern == "spotted":
        return tuple(_arc(x, y + 0.02, 0.036, 0.036, 0, 360, 0, 8) for x, y in centres)
    return ()


def _anatomy(bird: Bird, head: Float[np.ndarray, "2 2"]) -> Iterator[tuple[str, str, Points]]:
    """What to paint, back to front: (kind, part, outline)."""

    def nod(name: str) -> Points:
        turned: Points = (_outline(name) - _NECK) @ head.T + _NECK
        return turned

    card = bird.card
    yield "part", "tail", _outline(f"{card['tail shape']} tail")
    yield "ink", "tail", _points((-0.46, 0.16), (-0.96, 0.26))
    yield "part", "legs", _outline("far leg")
    yield "part", "legs", _outline("near leg")
    yield "part", "belly", _outline("body")
    yield "part", "face", nod("nape")
    yield "part", "breast", _outline("breast")
    for mark in _breast_marks(card["breast pattern"]):
        yield "mark", "breast", mark
    yield "part", "back", _outline("back")
    yield "part", "wing", _outline("wing")
    yield "part", "wing bar", _outline("wing bar")
    yield "ink", "wing", _points((-0.24, 0.12), (-0.56, 0.26))
    yield "ink", "wing", _points((-0.26, 0.2), (-0.5, 0.28))
    if card["crest"] != "none":
        yield "part", "crest", nod("crest")
    yield "part", "beak", nod(f"{card['beak shape']} beak")
    yield "part", "face", nod("head")
    yield "part", "throat", nod("throat")
    yield "part", "crown", nod("crown")
    yield "eye", "white", nod("eye ring")
    yield "eye", "ink", nod("eye")

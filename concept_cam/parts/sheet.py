"""Findings as images: the parts of one image with their names beside it, and a sheet of what those of many look like."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from PIL import Image, ImageDraw

from concept_cam.errors import OptionError
from concept_cam.heat import upright
from concept_cam.lettering import Lettering, shortened, wrapped
from concept_cam.page import Cell, Intervals, Mark, Page, Section, Strip, Table, Thumbnail, how_made
from concept_cam.parts.explored import Explored
from concept_cam.parts.labels import INK, Layer, beside, marked
from concept_cam.parts.part import PartFinding
from concept_cam.provenance import Provenance
from concept_cam.regions import Box

_SMALLEST, _LARGEST = 480, 1200
_THUMBNAIL = 224
_WIDE = 704
_IMAGES, _CROPS = 60, 3
_LARGE_TYPE = 30
"""Of the labels on a page, to be read on a phone too."""

_GREY = (112, 118, 124)
_LONGEST = 24
"""A label, in heights of its type."""


def summary(finding: PartFinding) -> str:
    """One line: what each part looks like, with the confidence of the reading, or of the part where nothing is read.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.parts import find_parts, read_parts
        >>> from concept_cam.parts.sheet import summary
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> line = summary(find_parts(world.localizer(), plate.image, read_parts("world-parts")))
        >>> line.split(", ")[0], line.split(", ")[-1]
        ('crown: red (1.00)', 'not visible: crest')
    """
    seen = []
    for part in finding.parts:
        if part.visible:
            read = " ".join(f"{reading.value} ({reading.confidence:.2f})" for reading in part.attributes.values())
            seen.append(f"{part.name}: {read}" if read else f"{part.name} ({part.confidence:.2f})")
    return ", ".join([*seen, *_hidden(finding)])


def annotated(finding: PartFinding, image: Image.Image, *, boxes: bool = False) -> Image.Image:
    """The image with a dot and a label for each visible part; those that are not visible are listed below it.

    Labels stand in margins left and right of the image, each with a line to its part. The image is drawn with its longer
    side at 480 to 1200 pixels, whatever its own.

    Args:
        finding: the parts of the image.
        image: the image that was searched.
        boxes: also draw the box of each part, each part in its colour; those of many parts cover the object.

    Raises:
        ImageError: the image is not of the size that was searched.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.parts import find_parts, read_parts
        >>> from concept_cam.parts.sheet import annotated
        >>> plate = world.draw_species("ember finch", seed=3, size=640)
        >>> found = find_parts(world.localizer(), plate.image, read_parts("world-parts"))
        >>> width, height = annotated(found, plate.image).size
        >>> width > height > 640
        True
    """
    side = min(max(*image.size, _SMALLEST), _LARGEST)
    return _labelled(finding, image, side, max(15, round(side / 64)), boxes)


def _labelled(finding: PartFinding, image: Image.Image, side: int, size: int, boxes: bool) -> Image.Image:
    """The image at a longer side, with labels of a size; marks have the colours of parts where boxes have to be told apart."""
    shown, marks = marked(finding, image, side)
    font, small = Lettering(0.95 * size), Lettering(0.85 * size)
    marks = [mark._replace(label=shortened(mark.label, font, _LONGEST * size)) for mark in marks]
    marks = marks if boxes else [mark._replace(colour=INK) for mark in marks]
    across = sorted(marks, key=lambda mark: mark.point[0])
    columns = across[: (len(marks) + 1) // 2], across[(len(marks) + 1) // 2 :]
    margins = [max((round(font.getlength(m.label) + 3 * size) for m in column), default=0) for column in columns]
    pad, step = size, 1.7 * size
    height = max(shown.height, round(step * len(columns[0])))
    left, top = pad + margins[0], pad + (height - shown.height) // 2
    width = max(left + shown.width + margins[1] + pad, _LONGEST * size)
    notes = wrapped(" ".join(_hidden(finding)), small, width - 2 * pad)
    canvas = Image.new("RGB", (width, round(height + 2 * pad + 1.4 * size * len(notes))), "white")
    canvas.paste(shown, (left, top))
    write, lines = ImageDraw.Draw(canvas), []
    sides = (columns[0], left, "rm", -size), (columns[1], left + shown.width, "lm", size)
    for column, edge, anchor, away in sides:
        placed = [mark.moved(left, top) for mark in column]
        for y, mark in beside(edge + 2 * away, placed, pad, pad + height, step):
            font.write(write, (edge + 2.6 * away, y), mark.label, INK, anchor)
            lines.append(((edge + 2 * away, y), mark))
    for k, note in enumerate(notes):
        small.write(write, (pad, height + (2 + 1.4 * k) * pad), note, _GREY)
    layer = Layer(canvas.size, min(size / 7.5, side / 180))
    for _, mark in lines if boxes else ():
        layer.box(mark)
    for end, mark in lines:
        layer.leader(end, mark)
    for end, mark in lines:
        layer.dot(mark.point, mark.colour)
        layer.dot(end, mark.colour, 0.7)
    layer.put_on(canvas)
    return canvas


def _hidden(finding: PartFinding) -> list[str]:
    """One text, or none if all parts are visible."""
    names = [part.name for part in finding.parts if not part.visible]
    return [f"not visible: {', '.join(names)}"] if names else []


# ---- many images ----------------------------------------------------------------------------------------------------


def part_sheet(name: str, items: Sequence[tuple[str, Image.Image, PartFinding]], made: Provenance | None = None) -> Page:
    """A sheet of one species: what each of its parts looks like on these images.

    Args:
        name: of the species.
        items: name, image and finding; ``annotated/NAME.png``, seen from the page, is the image that a click shows.
        made: how, for the last section; None leaves it out.

    Raises:
        OptionError: there are none, or they have not all the same parent and parts.
        ImageError: an image is not of the size that was searched.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.parts import find_parts, part_sheet, read_parts
        >>> image = world.draw_species("ember finch", seed=3).image
        >>> finding = find_parts(world.localizer(), image, read_parts("world-parts"))
        >>> part_sheet("ember finch", [("a", image, finding)]).title
        'ember finch'
    """
    sheet = PartSheet(name, made)
    for caption, image, finding in items:
        sheet.add(caption, image, finding)
    return sheet.page()


@dataclass
class _Row:
    """What is known of one part so far; crops with the highest confidence first."""

    visible: int = 0
    confidence: float = 0.0
    readings: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    crops: list[tuple[float, Thumbnail]] = field(default_factory=list)


@final
class PartSheet:
    """A sheet that takes one image after another and keeps none of them.

    It has three small crops of each part, 60 thumbnails in all, and a drawing of the image on which the parts are surest.

    Args:
        name: of the species.
        made: how, for the last section; None leaves it out.
        explorer: is written beside the sheet, which links its images to it.
    """

    def __init__(self, name: str, made: Provenance | None = None, explorer: Explored | None = None) -> None:
        self.name, self.made, self._explorer = name, made, explorer
        self._vocabulary: tuple[str, ...] = ()
        self._about: Mapping[str, Any] = {}
        self._count = 0
        self._rows: list[_Row] = []
        self._thumbnails: list[Thumbnail] = []
        self._surest: tuple[float, Thumbnail] | None = None

    def add(self, name: str, image: Image.Image, finding: PartFinding) -> None:
        """Add one image to the sheet; see ``part_sheet``.

        Args:
            name: of the image.
            image: the image that was searched.
            finding: its parts.
        """
        image = upright(image, finding.placement, "finding")
        vocabulary = (finding.parent, *(part.name for part in finding.parts))
        if self._count == 0:
            self._vocabulary, self._about, self._rows = vocabulary, finding.provenance, [_Row() for _ in finding.parts]
        if vocabulary != self._vocabulary:
            raise OptionError(f"{name!r} has other parts than the images before it; make a sheet for each vocabulary.")
        # A page's link cannot hold a backslash, as file names on Linux can.
        link = None if "\\" in name else f"annotated/{name}.png"
        self._count += 1
        explorer = self._explorer if self._count <= _IMAGES else None
        explore = {} if explorer is None else explorer.links(name, image, finding)
        for row, part in zip(self._rows, finding.parts, strict=True):
            if part.visible and part.box is not None:
                row.visible += 1
                row.confidence += part.confidence
                for attribute, reading in part.attributes.items():
                    row.readings[attribute][reading.value] += 1
                if len(row.crops) < _CROPS or part.confidence > row.crops[-1][0]:
                    row.crops.append((part.confidence, Thumbnail(_crop(image, part.box), name, link, explore.get(part.name))))
                    row.crops = sorted(row.crops, key=lambda crop: -crop[0])[:_CROPS]
        sure = sum(part.confidence for part in finding.parts if part.visible)
        if self._surest is None or sure > self._surest[0]:
            drawn = _labelled(finding, image, _SMALLEST, _LARGE_TYPE, boxes=False)
            self._surest = sure, Thumbnail(drawn, name, link, explore.get(finding.parent), _WIDE)
        if self._count <= _IMAGES:
            small, marks = marked(finding, image, _THUMBNAIL)
            layer = Layer(small.size, 1.2)
            for mark in marks:
                layer.dot(mark.point, INK)
            layer.put_on(small)
            self._thumbnails.append(Thumbnail(small, name, link, explore.get(finding.parent)))

    def page(self) -> Page:
        """The sheet of what was taken in; writes the explorer beside it.

        Raises:
            OptionError: that is nothing.
        """
        if self._count == 0:
            raise OptionError("There are no findings; expected those of at least one image.")
        count = self._count
        seen, one = sum(row.visible for row in self._rows) / count, count == 1
        facts = {"images": str(count), "parts visible on an image": f"{seen:.{0 if one else 1}f} of {len(self._rows)}"}
        facts |= {key: str(self._about[key]) for key in ("model", "vocabulary", "method") if self._about.get(key)}
        more = f" These are the first {_IMAGES} of {count}." if count > _IMAGES else ""
        if self._explorer is not None and self._explorer.write():
            more += f" Explore opens an image in {self._explorer.page.name}, to compare phrases of parts on it."
        title = "Where each part is" if one else "The image on which the parts are surest"
        surest = (Strip(title, (self._surest[1],)),) if self._surest else ()
        # Of one image there is nothing to count, and it has been shown.
        plots = () if one else (self._plot(),)
        strips = () if one else self._strips()
        crops = tuple(replace(crop, caption=told) for told, (crop, *_) in self._crops()) if one else ()
        text = f"Each part where it is surest.{more if one else ''}"
        sections = (
            Section("Part by part", strips=surest, plots=plots, table=self._table(), about=_ABOUT),
            *((Section("What the parts look like", text, images=crops, strips=strips),) if strips or crops else ()),
            *(() if one else (Section("Images", f"{_IMAGES_TEXT}{more}", images=tuple(self._thumbnails)),)),
            *((how_made(self.made),) if self.made else ()),
        )
        return Page(self.name, self._lead(), sections, tuple(facts.items()))

    def _named(self) -> list[tuple[str, _Row]]:
        return list(zip(self._vocabulary[1:], self._rows, strict=True))

    def _lead(self) -> str:
        """The readings on which most images agree, of the parts that most of them show."""
        seen = [(name, row) for name, row in self._named() if 2 * row.visible >= self._count]
        told = [" ".join([*(reading.most_common(1)[0][0] for reading in row.readings.values()), name]) for name, row in seen]
        hidden = [name for name, row in self._named() if 2 * row.visible < self._count]
        one = self._count == 1
        images = "1 image" if one else f"{self._count} images"
        unseen = f" {'Not' if one else 'Mostly not'} visible: {', '.join(hidden)}." if hidden and told else ""
        return f"The {self._vocabulary[0]} on {images}: {', '.join(told) or 'no part is visible'}.{unseen}"

    def _plot(self) -> Intervals:
        marks = tuple(
            Mark(name, row.visible / self._count, note="; ".join(self._read(row).values())) for name, row in self._named()
        )
        return Intervals("share of the images on which the part is visible", marks)

    def _strips(self) -> tuple[Strip, ...]:
        return tuple(Strip(told, crops) for told, crops in self._crops())

    def _crops(self) -> Iterator[tuple[str, tuple[Thumbnail, ...]]]:
        """What each part looks like, in words and on its crops."""
        for name, row in self._named():
            if row.crops:
                told = f"{name}: {', '.join(self._read(row).values())}" if row.readings else name
                yield told, tuple(crop for _, crop in row.crops)

    def _read(self, row: _Row) -> dict[str, str]:
        """Of each attribute the reading on which most images agree, and how many do; of one image the reading alone."""
        best = {attribute: reading.most_common(1)[0] for attribute, reading in row.readings.items()}
        agreed = {attribute: f" {count}/{row.visible}" if self._count > 1 else "" for attribute, (_, count) in best.items()}
        return {attribute: f"{value}{agreed[attribute]}" for attribute, (value, _) in best.items()}

    def _table(self) -> Table:
        attributes = list(dict.fromkeys(attribute for row in self._rows for attribute in row.readings))
        rows: list[tuple[Cell, ...]] = []
        for name, row in self._named():
            known = row.confidence / row.visible if row.visible else None
            rows.append(
                (
                    name,
                    row.visible / self._count,
                    known,
                    *(self._read(row).get(attribute) for attribute in attributes),
                )
            )
        return Table(("part", "visible", "confidence", *attributes), tuple(rows))


_ABOUT = (
    "Visible is the share of the images on which a part stands out, confidence (0.5 to 1) the mean over those. Of each "
    "attribute, the reading on which most of them agree, and how many do."
)
_IMAGES_TEXT = "A dot for each part that is visible; a click shows which is which."


def _crop(image: Image.Image, box: Box) -> Image.Image:
    """A square around the box, half as long again as its longer side and a fourth of the image at least, at one size."""
    left, top, right, bottom = box
    side = min(max(1.5 * (right - left), 1.5 * (bottom - top), max(image.size) / 4), *image.size)
    x = min(max((left + right - side) / 2, 0), image.width - side)
    y = min(max((top + bottom - side) / 2, 0), image.height - side)
    return image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS, (x, y, x + side, y + side))

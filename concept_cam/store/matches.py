"""The answers of a store as files: a page with overlays, a table and JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from concept_cam.address import address_of
from concept_cam.concepts import ConceptBank
from concept_cam.decoding import MAX_BYTES
from concept_cam.drawing import overlay
from concept_cam.errors import ImageError, NoSpatialGradient, OptionError, OutputError, Unreachable, one_line, reason
from concept_cam.explorer import Beside
from concept_cam.explorer.beside import CONCEPTS
from concept_cam.field import ConceptField
from concept_cam.files import write_file, write_image
from concept_cam.images import read_image
from concept_cam.outside import read_bytes
from concept_cam.page import Page, how_made, to_html
from concept_cam.provenance import Provenance, today
from concept_cam.result import Localization
from concept_cam.runs.table import problem_of
from concept_cam.store.found import SHOWN, Found, lead_of, panels_of, sections_of, short
from concept_cam.store.store import Answer, Match
from concept_cam.writers.regions import boxes_of
from concept_cam.writers.table import LOCALIZED, LocalizationRow, csv_of

MATCHES = "matches.json"
"""The answers as JSON."""

_PAGE, _TABLE, _OVERLAYS, _EXPLORER = "search.html", "matches.csv", "overlays", "explore.html"
_INK, _EDGE = (255, 255, 255), (30, 34, 38)
_COLUMNS = ("rank", "direction_score", *LOCALIZED)


def write_matches(
    answers: Sequence[Answer],
    folder: str | os.PathLike[str],
    command: str | None = None,
    hear: Callable[[str], None] | None = None,
) -> Path:
    """Write a page, ``matches.csv``, ``matches.json`` and an overlay of each match into a folder.

    An image that is gone, or is not the one that was stored, is listed without its overlay. If the answers have two concepts
    or more, ``explore.html`` compares them in a browser, and the page links its images to it.

    Args:
        answers: of one store.
        folder: for the files; those of an earlier search are written over.
        command: the command line, for ``how.json``.
        hear: called for each answer with the sentence that says how many of its matches have evidence.

    Returns:
        The page.

    Raises:
        OptionError: there are no answers.
        OutputError: the folder holds a run, something cannot be written, or the store is damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.store import Store, store_fields, write_matches
        >>> localizer = world.localizer()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plate = Path(folder, "finch.png")
        ...     world.draw_species("ember finch", 3, 96).image.save(plate)
        ...     failures = store_fields(localizer, [plate], f"{folder}/store")
        ...     answers = Store.open(f"{folder}/store").search(localizer, "red crown", against="bird")
        ...     page = write_matches(answers, f"{folder}/found")
        ...     sorted(file.name for file in page.parent.iterdir())
        ['explore.html', 'how.json', 'matches.csv', 'matches.json', 'overlays', 'search.html']
    """
    folder = address_of(folder)
    if not answers:
        raise OptionError("There are no answers; search for one target or more.")
    if (folder / "run.json").exists():
        raise OutputError(f"{folder} holds a run of several images; choose another folder, or delete it.")
    made = _made(answers, command)
    sections, rows, told, leads = [], [], [], []
    explorer = Beside(folder / _EXPLORER, _bank(answers))
    for number, answer in enumerate(answers, 1):
        found = list(_found(answer, folder, number, explorer))
        leads.append(lead_of(answer, found))
        if hear is not None:
            hear(leads[-1])
        sections += sections_of(answer, found)
        rows += [_row(answer, one) for one in found]
        told.append({"comparison": asdict(answer.comparison), "matches": [_told(one) for one in found]})
    count = len(answers[0].store)
    explorer.write()
    facts = (("images", f"{count:,}"),)
    made_of = [] if made is None else [how_made(made.kept(folder))]
    page = Page(_title(answers), " ".join(leads), (*sections, *made_of), facts)
    write_file(folder / _TABLE, csv_of(rows, _COLUMNS))
    about = {"store": str(answers[0].store.folder), "images": count, "answers": told}
    write_file(folder / MATCHES, (json.dumps(about, indent=2) + "\n").encode())
    return write_file(folder / _PAGE, to_html(page).encode())


def _bank(answers: Sequence[Answer]) -> ConceptBank:
    """What is compared in the answers, those concepts first that are asked for, as far as an explorer has room for them."""
    asked = [name for one in answers for name in one.comparison.names]
    names = list(dict.fromkeys([*asked, *(name for one in answers for name in one.bank.names)]))[:CONCEPTS]
    banks = [answer.bank for answer in answers]
    rows = [next((bank, bank.index(name)) for bank in banks if name in bank) for name in names]
    biases = [bank.biases[row] for bank, row in rows if bank.biases is not None]
    return ConceptBank(
        tuple(names), torch.stack([bank.vectors[row] for bank, row in rows]), torch.stack(biases) if biases else None
    )


def _found(answer: Answer, folder: Path, number: int, explorer: Beside) -> Iterator[Found]:
    """Each match with its localization and its overlay, one at a time; what the page shows of it if that has room."""
    asked, shown = answer.comparison, 0
    for rank, match in enumerate(answer.matches, 1):
        try:
            result = answer.localize(match)
        except NoSpatialGradient as error:
            yield Found(rank, match, None, problem_of(error))
            continue
        try:
            image = _image(match)
            drawn = _marked(overlay(result, image, legend=True), result)
        except ImageError as error:
            yield Found(rank, match, result, problem_of(error))
            continue
        name = f"{_OVERLAYS}/{number:02d}-{rank:04d}.png"
        write_image(folder / name, drawn)
        shown += 1
        if shown > SHOWN:
            yield Found(rank, match, result, "", name)
            continue
        look = partial(_look, answer, match, image)
        link = explorer.link(match.image.name, look, asked.target, asked.references, asked.strength, match.number)
        yield Found(rank, match, result, "", name, panels_of(result, image, drawn), link)


def _look(answer: Answer, match: Match, image: Image.Image) -> tuple[Image.Image, ConceptField]:
    return image, answer.store.field(match.number)


def _marked(image: Image.Image, result: Localization) -> Image.Image:
    """The overlay with the boxes of the map, and a cross at its peak."""
    pen, line = ImageDraw.Draw(image), max(1, round(max(result.placement.image_size) / 130))
    boxes = boxes_of(result)
    x, y = result.peak() if boxes else (0.0, 0.0)
    arms = [((x - 4 * line, y), (x + 4 * line, y)), ((x, y - 4 * line), (x, y + 4 * line))] if boxes else []
    for ink, width in ((_EDGE, line + 2), (_INK, line)):
        for left, top, right, bottom in boxes:
            pen.rectangle((left, top, right - 1, bottom - 1), outline=ink, width=width)
        for arm in arms:
            pen.line(arm, fill=ink, width=width)
    return image


def _image(match: Match) -> Image.Image:
    """The image of a match as it was stored.

    Raises:
        ImageError: it is gone, or is another now.
    """
    try:
        # What is drawn is what was compared: the file is read once.
        content = read_bytes(match.image, MAX_BYTES)
    except Unreachable:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"{match.image}: the image is gone ({reason(error)}).") from error
    if hashlib.sha256(content).hexdigest() != match.sha256:
        raise ImageError(f"{match.image}: the image has changed since it was stored.")
    return read_image(content)


def _row(answer: Answer, one: Found) -> dict[str, Any]:
    name = str(one.match.image)
    known = LocalizationRow(name, answer.comparison.target) if one.result is None else LocalizationRow.of(name, one.result)
    cells = replace(known, problem=one.problem).cells()
    return {"rank": one.rank, "direction_score": one.match.score, **cells}


def _told(one: Found) -> dict[str, Any]:
    """A match as JSON knows it."""
    result = one.result
    known = {} if result is None else {"scores": dict(result.scores), "peak": result.peak(), "boxes": boxes_of(result)}
    about = {"rank": one.rank, "image": str(one.match.image), "direction_score": one.match.score}
    return {**about, **known, "overlay": one.overlay, "problem": one.problem or None}


def _made(answers: Sequence[Answer], command: str | None) -> Provenance | None:
    """How the answers were made: as the store was, with their texts; None if the store does not say."""
    store = answers[0].store
    made = Provenance.load(store.folder)
    if made is None:
        return None
    strengths = tuple(dict.fromkeys(float(answer.comparison.strength) for answer in answers))
    asked = {
        "texts": "; ".join(answer.comparison.target for answer in answers),
        "references": "; ".join(dict.fromkeys(", ".join(answer.comparison.references) for answer in answers)) or "none",
    }
    more = {**made.more, **{key: one_line(text) for key, text in asked.items()}}
    command = None if command is None else one_line(command, 10_000)
    return replace(made, job="search", strength=strengths, more=more, command=command, date=today())


def _title(answers: Sequence[Answer]) -> str:
    names = [short(answer.comparison.target) for answer in answers]
    return f"Search: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"

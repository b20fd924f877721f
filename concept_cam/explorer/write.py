"""Many images and a vocabulary to one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from concept_cam.concepts import ConceptBank
from concept_cam.errors import ConceptCamError, OptionError, Unreachable
from concept_cam.explorer.html import to_html
from concept_cam.explorer.shown import Shown
from concept_cam.field import ConceptField
from concept_cam.files import write_file
from concept_cam.localizer import Localizer
from concept_cam.methods import CARDS, AnyMethod, TraceMethod, as_method, is_linear, name_of
from concept_cam.passes import Pass, each_frame
from concept_cam.prefetch import one_by_one
from concept_cam.tensors import Read

MOST = 64_000_000
"""The values of all maps of a page at most: a browser would not open more."""


def _ignore(path: Path, error: ConceptCamError) -> None:
    """Nobody wants to know."""


def write_explorer(
    localizer: Localizer,
    images: Sequence[Path],
    page: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    workers: int = 2,
    command: str | None = None,
    failed: Callable[[Path, ConceptCamError], None] = _ignore,
) -> int:
    """Write one page with the maps of all concepts of the localizer's vocabulary for each image.

    Args:
        localizer: model, method, vocabulary and templates.
        images: files.
        page: the file to write.
        batch_size: how many images go through the model at once.
        workers: threads that read images.
        command: the command line, to be told on the page.
        failed: called with each image that fails, and why; it is skipped.

    Returns:
        How many images failed; if all did, no page is written.

    Raises:
        OptionError: the method is not linear in the direction, there are no images or fewer than two concepts, or more maps
            than a browser can hold.
        OutputError: the page cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.explorer import write_explorer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plate, page = Path(folder, "finch.png"), Path(folder, "finch.html")
        ...     world.draw_species("ember finch", 3, 96).image.save(plate)
        ...     failures = write_explorer(world.localizer(vocabulary=["ember finch", "frost finch"]), [plate], page)
        ...     failures, page.read_text().startswith("<!DOCTYPE html>")
        (0, True)
    """
    check_method(localizer.method)
    if not images:
        raise OptionError("There are no images; give one or more.")
    if len(localizer.vocabulary) < 2:
        raise OptionError(f"The vocabulary has {len(localizer.vocabulary)} concepts; expected two or more to compare.")
    bank = localizer.bank(localizer.vocabulary)
    makes = _Makes(localizer, bank, len(images))
    shown: list[Shown] = []

    def fail(path: Path, error: ConceptCamError) -> None:
        if isinstance(error, OptionError | Unreachable):
            raise error
        failed(path, error)

    with closing(one_by_one(images, localizer.read, makes.look, batch_size, workers, fail)) as found:
        shown += (one for _, one in found)
    if shown:
        write_file(page, to_html(shown, bank, [*makes.facts, *([] if command is None else [("command", command)])]).encode())
    return len(images) - len(shown)


def check_method(method: AnyMethod) -> None:
    """Find out before the work whether contrastive maps are differences of base maps.

    Raises:
        OptionError: they are not; the message lists the methods of which they are.

    Example:
        >>> from concept_cam.explorer import check_method
        >>> check_method("hires_cam")
    """
    known = as_method(method)
    if not _has_field(known):
        linear = ", ".join(name for name, card in CARDS.items() if _has_field(as_method(card.method)))
        raise OptionError(
            f"{name_of(known)} is not linear in the direction: its contrastive maps are no differences of base maps, which is "
            f"all that a page can compute. Methods that are linear: {linear}. `concept-cam localize` takes any method."
        )


def _has_field(method: AnyMethod) -> bool:
    return is_linear(method) and not isinstance(method, TraceMethod)


@final
@dataclass(eq=False)
class _Makes:
    """Makes what is shown of batches of images."""

    localizer: Localizer
    bank: ConceptBank
    count: int
    facts: list[tuple[str, str]] = field(default_factory=list)

    def look(self, batch: Sequence[tuple[Path, Read]]) -> list[Shown | ConceptCamError]:
        """Each image with its maps, or why it has none."""
        fields = each_frame(self.localizer.passes([frame for _, (frame, _) in batch]), self._fields)
        return [self._shown(path, read, found) for (path, read), found in zip(batch, fields, strict=True)]

    def _fields(self, seen: Pass) -> tuple[ConceptField, ...]:
        return ConceptField.of(seen.trace, self.localizer.method, seen.placements, self.localizer.provenance(seen))

    def _shown(self, path: Path, read: Read, found: ConceptField) -> Shown | ConceptCamError:
        rows, cols = found.vectors.shape[:2]
        if (values := self.count * len(self.bank.names) * rows * cols) > MOST:
            raise OptionError(
                f"{self.count} images x {len(self.bank.names):,} concepts x {rows * cols:,} cells are {values:,} values; a "
                f"page holds {MOST:,}. Take fewer images, a smaller vocabulary or a smaller size."
            )
        self.facts = self.facts or _facts(found, self.count, len(self.bank.names))
        image = read[1]
        assert image is not None  # of a path
        try:
            return Shown.of(path.name, image, found, self.bank)
        except ConceptCamError as error:
            return error


def _facts(found: ConceptField, images: int, concepts: int) -> list[tuple[str, str]]:
    """How the maps were made, as the page tells it."""
    made = found.provenance
    given, versions = made["input"], made["versions"]
    rows, cols = found.vectors.shape[:2]
    return [
        ("model", str(made["model"])),
        ("method", str(made["method"])),
        ("site", str(made["site"])),
        ("input", f"{given['fit']}, {' x '.join(map(str, given['size']))}"),
        ("cells of a map", f"{rows} x {cols}"),
        ("templates", "; ".join(made["templates"])),
        ("images", f"{images:,}"),
        ("concepts", f"{concepts:,}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]

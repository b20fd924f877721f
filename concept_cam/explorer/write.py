"""Many images and a vocabulary to one page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.errors import ConceptCamError, OptionError, Unreachable, one_line
from concept_cam.explorer.computed import Computed
from concept_cam.explorer.html import to_html
from concept_cam.explorer.shown import Shown
from concept_cam.field import ConceptField
from concept_cam.files import write_file
from concept_cam.images import Placement
from concept_cam.localizer import Localizer
from concept_cam.methods import CARDS, AnyMethod, TraceMethod, as_method, is_linear, name_of, sees_score
from concept_cam.passes import Pass, each_frame
from concept_cam.prefetch import one_by_one
from concept_cam.tensors import Read

MOST = 64_000_000
"""The values of all maps of a page at most: a browser would not open more."""

_TOGETHER = 256
"""Directions that are computed together, where the method is not linear."""


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

    The page makes contrastive maps by subtraction if the method is linear. If it is not, the page has each concept alone and
    against its three nearest at two strengths.

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
        OptionError: the method does not look at the score, there are no images or fewer than two concepts, or more maps than
            a browser can hold.
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
        held = f"{localizer.vocabulary[0]!r} alone" if localizer.vocabulary else "no concepts"
        raise OptionError(f"The vocabulary has {held}; expected two concepts or more to compare.")
    bank, names = localizer.bank(localizer.vocabulary), _names(images)
    computed = None if has_field(localizer.method) else Computed.of(name_of(localizer.method), bank)
    makes = _Makes(localizer, bank, names, computed)
    problems: list[tuple[str, str]] = []

    def fail(path: Path, error: ConceptCamError) -> None:
        if isinstance(error, OptionError | Unreachable):
            raise error
        problems.append((names[path], one_line(error)))
        failed(path, error)

    with closing(one_by_one(images, localizer.read, makes.look, batch_size, workers, fail)) as found:
        shown = [one for _, one in found]
    if shown:
        facts = [*makes.facts, *([] if command is None else [("command", command)])]
        write_file(page, to_html(shown, bank, facts, problems, computed).encode())
    return len(problems)


def check_method(method: AnyMethod) -> None:
    """Find out before the work whether the maps of a method depend on the concept.

    Raises:
        OptionError: they do not.

    Example:
        >>> from concept_cam.explorer import check_method
        >>> check_method("hires_cam")
    """
    if not sees_score(method):
        able = ", ".join(name for name, card in CARDS.items() if card.compares == "linear")
        raise OptionError(
            f"{name_of(method)} does not look at the score, so all concepts would have one map; take another method, such as "
            f"one of those that are linear: {able}."
        )


def has_field(method: AnyMethod) -> bool:
    """Whether contrastive maps are differences of base maps, and a field gives all of them.

    Example:
        >>> from concept_cam.explorer import has_field
        >>> has_field("hires_cam"), has_field("legrad")
        (True, False)
    """
    known = as_method(method)
    return is_linear(known) and not isinstance(known, TraceMethod)


def _names(images: Sequence[Path]) -> dict[Path, str]:
    """The name of each image, with the folders that distinguish it from others of that name."""
    names, count = {path: path.name for path in images}, Counter(path.name for path in images)
    for depth in range(2, max(len(path.parts) for path in images) + 1):
        names |= {path: "/".join(path.parts[-depth:]) for path, name in names.items() if count[name] > 1}
        count = Counter(names.values())
    return names


@final
@dataclass(eq=False)
class _Makes:
    """Makes what is shown of batches of images."""

    localizer: Localizer
    bank: ConceptBank
    names: Mapping[Path, str]
    computed: Computed | None
    facts: list[tuple[str, str]] = field(default_factory=list)

    def look(self, batch: Sequence[tuple[Path, Read]]) -> list[Shown | ConceptCamError]:
        """Each image with its maps, or why it has none."""
        made = each_frame(self.localizer.passes([frame for _, (frame, _) in batch]), self._made)
        return [self._shown(self.names[path], read, one) for (path, read), one in zip(batch, made, strict=True)]

    def _made(self, seen: Pass) -> list[tuple[Tensor, Tensor, Placement]]:
        """Maps, scores and placement of each image."""
        about, count = self.localizer.provenance(seen), 1 if self.computed is None else len(self.computed.strengths)
        self._check(seen.layout.rows * seen.layout.cols, count)
        self.facts = self.facts or facts_of(about, (seen.layout.rows, seen.layout.cols), len(self.names), len(self.bank.names))
        if self.computed is None:
            fields = ConceptField.of(seen.trace, self.localizer.method, seen.placements, about)
            return [(one(self.bank), self.bank.scores(one.embedding[None])[0], one.placement) for one in fields]
        parts = self.computed.directions(self.bank)[:, None].split(_TOGETHER)
        maps = torch.cat([seen.maps(self.localizer.method, part).stacked.float().cpu() for part in parts])
        return list(zip(maps.transpose(0, 1), seen.scores(self.bank), seen.placements, strict=True))

    def _check(self, cells: int, strengths: int) -> None:
        """Raise OptionError if a browser would not open the page."""
        images, concepts = len(self.names), len(self.bank.names)
        if (values := images * concepts * strengths * cells) > MOST:
            each = "" if strengths == 1 else f"{strengths} strengths x "
            raise OptionError(
                f"{images} images x {concepts:,} concepts x {each}{cells:,} cells are {values:,} values; a "
                f"page holds {MOST:,}. Take fewer images, a smaller vocabulary or a smaller size."
            )

    def _shown(self, name: str, read: Read, made: tuple[Tensor, Tensor, Placement]) -> Shown | ConceptCamError:
        image = read[1]
        assert image is not None  # of a path
        try:
            return Shown.with_maps(name, image, *made)
        except ConceptCamError as error:
            return error


def facts_of(made: Mapping[str, Any], grid: tuple[int, int], images: int, concepts: int) -> list[tuple[str, str]]:
    """How maps were made, as a page tells it.

    Args:
        made: the provenance of a map.
        grid: its rows and columns.
        images: how many the page has.
        concepts: how many the page has.
    """
    given, versions = made["input"], made["versions"]
    rows, cols = grid
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

"""What ``concept-cam localize`` answers: each result with its files, and the next useful command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from concept_cam.cli.answers import Answers
from concept_cam.cli.command import command_line
from concept_cam.cli.images import data_of, size_of
from concept_cam.cli.terminal import cell, number
from concept_cam.errors import BackboneError, OptionError

if TYPE_CHECKING:
    from concept_cam.cli.encoders import Asked
    from concept_cam.cli.inline import Protocol
    from concept_cam.localizer import Localizer
    from concept_cam.result import Localization

_FEW = 8
"""Images of a command that can be pasted."""

_BEST = 10
"""Of several images, those that are listed."""

_CELLS = 250
"""Letters in a line of that list in a pipe."""


@dataclass
class Localized:
    """The results of one command.

    Attributes:
        answers: prints.
        out: the folder of the files.
        names: what the files of each image are called.
        endings: of these files; none in a data set.
        show: whether maps are shown in the terminal.
        first: the first result.
        best: of several images those with the highest scores of the target: the score, where its map is strongest, the file.
        heard: of how many images.
    """

    answers: Answers
    out: Path
    names: Mapping[Path, str]
    endings: Sequence[str]
    show: bool = False
    first: list[Localization] = field(default_factory=list)
    best: list[tuple[float, tuple[float, float], Path]] = field(default_factory=list)
    heard: int = 0

    def take(self, path: Path, result: Localization) -> None:
        """Answer with the result of an image."""
        from concept_cam.cli import inline
        from concept_cam.images import read_image
        from concept_cam.writers.regions import boxes_of, peak_of

        if not self.first:
            self.first.append(result)
        files = [self.out / f"{self.names[path]}{ending}" for ending in self.endings]
        if self.answers.as_json:
            about = result.summary()
            known = {"comparison": about["comparison"], "scores": about["scores"]}
            known |= {"peak": peak_of(result), "boxes": boxes_of(result), "files": [str(file) for file in files]}
            self.answers.give(image=str(path), problem=None, **known)
        elif len(self.names) > 1:
            self._rank(path, result)
        elif files:
            self._print(path, result, next((file for file in files if file.name.endswith("-overlay.png")), None))
        if self.show:
            inline.show(result, read_image(path), self._protocol)

    @cached_property
    def _protocol(self) -> Protocol:
        """How the terminal takes images; it is asked once."""
        from concept_cam.cli import inline

        return inline.protocol(sys.stdout, os.environ)

    def finish(
        self, count: int, given: Asked, localizer: Localizer, images: Sequence[Path], texts: list[str], drawn: bool
    ) -> None:
        """Say where the results are, and what comes next.

        Args:
            count: of the results.
            given: the model.
            localizer: of this command.
            images: that were given; or the one that was drawn.
            texts: the option that names the vocabulary.
            drawn: whether the image was drawn.
        """
        if self.best and self.heard == count:  # of a data set that was begun before, or is shared, not all are heard of
            self._print_best(count)
        self.answers.say(f"{number(count, 'image')} in {self.out if self.endings else data_of(self.out)}")
        if self.first:
            self.answers.next(*_next(given, localizer, self.first[0], images, texts, drawn, bool(self.endings)))

    def _rank(self, path: Path, result: Localization) -> None:
        """Say in a line what is known of one of several images."""
        from concept_cam.writers.regions import peak_of

        (x, y), score = peak_of(result), float(result.scores[result.comparison.target])
        self.heard += 1
        if self.endings:  # a data set is for so many images that nobody reads a line of each
            self.answers.say(f"{cell(path)}: score {score:.3f}, strongest at ({x:.0f}, {y:.0f})")
        self.best = sorted([*self.best, (score, (x, y), path)], key=lambda one: -one[0])[:_BEST]

    def _print_best(self, count: int) -> None:
        """A table of the images with the highest scores."""
        from rich.table import Table
        from rich.text import Text

        target = cell(self.first[0].comparison.target)
        title = f"highest scores of {target!r}" + (f", {len(self.best)} of {count:,}" if count > len(self.best) else "")
        table = Table("image", "score", "strongest at", title=Text(title), title_justify="left")
        for score, (x, y), path in self.best:
            table.add_row(Text(cell(path)), f"{score:.3f}", f"({x:.0f}, {y:.0f})")
        self.answers.show(table, _CELLS)
        self.answers.say(
            "A map is bright somewhere on every image: the score says whether the target is there, the map where."
        )

    def _print(self, path: Path, result: Localization, overlay_path: Path | None) -> None:
        from rich.table import Table
        from rich.text import Text

        comparison = result.comparison
        table = Table("concept", "role", "score", "similarity", "weight", title=Text(cell(path.name)), title_justify="left")
        table.add_row(Text(cell(comparison.target)), "target", f"{result.scores[comparison.target]:.3f}", "", "")
        rows = zip(comparison.references, comparison.similarities, comparison.weights, strict=True)
        for name, similarity, weight in rows:
            table.add_row(Text(cell(name)), "reference", f"{result.scores[name]:.3f}", f"{similarity:.3f}", f"{weight:.2f}")
        self.answers.show(table)
        x, y = result.peak()
        self.answers.say(f"strongest at ({x:.0f}, {y:.0f})" + (f"; heat map in {overlay_path}" if overlay_path else ""))


def _next(
    given: Asked,
    localizer: Localizer,
    result: Localization,
    images: Sequence[Path],
    texts: list[str],
    drawn: bool,
    files: bool,
) -> list[str | Path]:
    """The whole image if some was cut off, else several strengths, else all concepts side by side."""
    from concept_cam.legend import is_cut_off

    here = shlex.split(command_line())[1:]
    end = here.index("--") if "--" in here else len(here)  # behind it are images alone
    if not drawn and given.fit is None and is_cut_off(result.placement) and _takes_native(given, localizer, result):
        return [*here[:end], "--fit", "native", "--out", "concept-cam-native", *here[end:]]
    if files and not drawn and result.comparison.references and "--sweep" not in here:
        return [*here[:end], "--sweep", "--out", "concept-cam-strengths", *here[end:]]
    if localizer.vocabulary:
        return ["explore", *images[:_FEW], *texts, *given.words]
    return ["methods"]


def _takes_native(given: Asked, localizer: Localizer, result: Localization) -> bool:
    """Whether the model takes the image whole, in its own aspect."""
    from concept_cam.backbones.transforms import preprocess_for
    from concept_cam.preprocess import Preprocess

    try:
        sized = preprocess_for(localizer.backbone, "native", size_of(given.size))
        if isinstance(sized, Preprocess):
            preprocess_for(localizer.backbone, None, sized.size_for(result.placement.image_size))
    except (OptionError, BackboneError):
        return False
    return isinstance(sized, Preprocess)

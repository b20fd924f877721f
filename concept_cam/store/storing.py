"""The fields of many images in one folder: a run that is resumed, with an index of the embeddings at its end."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final

from concept_cam.address import address_of, seen_from
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import ConceptCamError, ImageError, OptionError, Unreachable, reason
from concept_cam.field import ConceptField
from concept_cam.images import Frame
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of
from concept_cam.outside import chunks_of
from concept_cam.passes import Pass, each_frame
from concept_cam.prefetch import one_by_one
from concept_cam.runs import Run, identity_of
from concept_cam.runs.batches import LARGEST, Files
from concept_cam.runs.digests import digest_of
from concept_cam.runs.how import how_it_is_made
from concept_cam.runs.table import problem_of
from concept_cam.store.batches import COLUMNS, Stored, check_stored, files_of, read_entries
from concept_cam.store.index import Index
from concept_cam.store.packing import check_keep
from concept_cam.writers.found import named_within
from concept_cam.writers.localized import settings_of
from concept_cam.writers.names import held_by
from concept_cam.writers.run import ignore, state_of

_BATCH = 32
"""Images that are kept together, or as many as go through the model at once."""

_Read: TypeAlias = tuple[Frame, str]


def store_fields(
    localizer: Localizer,
    images: Sequence[Path],
    folder: str | os.PathLike[str],
    keep: str = "exact",
    *,
    batch_size: int = 8,
    workers: int = 2,
    about: Mapping[str, Any] | None = None,
    data: str | None = None,
    command: str | None = None,
    failed: Callable[[Path, str], None] = ignore,
) -> int:
    """Store the fields of images in a folder, which ``Store.open`` opens.

    The folder is a run: what is done is kept batch by batch, so that the same call resumes a run that was interrupted and ends
    with the same bytes. An image that cannot be read is a row of ``rows.csv`` that says why.

    Args:
        localizer: model, method, templates and input.
        images: files, each once.
        folder: for the store.
        keep: ``exact``, in half precision, or ``compact``, in half of the bytes; docs/scale.md says what that loses.
        batch_size: how many images go through the model at once.
        workers: threads that read images.
        about: what else decides the results, to be compared with an older run in the folder.
        data: the name of the images, for ``how.json``; by default that of the folder that holds them.
        command: the command line, for ``how.json``.
        failed: called with each image that fails, and why.

    Returns:
        How many images failed.

    Raises:
        OptionError: there are no images, the method is not linear in the direction, or there is no such way to keep fields.
        OutputError: the folder holds another run, another process is writing there, or it cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.store import Store, store_fields
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plates = [Path(folder, f"{seed}.png") for seed in range(2)]
        ...     for seed, plate in enumerate(plates):
        ...         world.draw_species("ember finch", seed, 96).image.save(plate)
        ...     failures = store_fields(world.localizer(), plates, f"{folder}/store")
        ...     failures, len(Store.open(f"{folder}/store"))
        (0, 2)
    """
    check_keep(keep)
    folder, images = address_of(folder), [address_of(path) for path in images]
    if not images:
        raise OptionError("There are no images; give one or more.")
    if batch_size < 1 or workers < 1:
        raise OptionError(f"batch_size is {batch_size} and workers is {workers}; expected at least 1 of each.")
    names = named_within(images)
    dataset = Dataset(data or held_by(images).name, ("image",), [Example(names[path], path, "image") for path in images])
    identity = identity_of(localizer, dataset, {name_of(localizer.method): localizer.method}, probe_texts(localizer))
    # What is resumed goes through the model in the same company: batches of other images differ in the last digit.
    size = batch_size * max(1, _BATCH // batch_size)
    settings = {
        "job": "fields",
        "images": len(images),
        "folder": seen_from(folder, held_by(images)),
        "keep": keep,
        "batch": size,
        "batch_size": batch_size,
        **settings_of(localizer),
        **(about or {}),
        **identity,
    }
    count = (dataset.name, len(images))
    made = how_it_is_made("fields", localizer, count, identity, more={"kept": keep}, command=command)
    makes = _Makes(localizer, names, keep, batch_size, workers)
    failures = 0
    with Run.held(folder, settings, COLUMNS, below=()) as run:
        made.kept(folder)
        with closing(run.each(list(names), size, lambda path: names[path], makes.files)) as batches:
            for batch, paths, _, _ in batches:
                for path, entry in zip(paths, read_entries(batch.stem, size), strict=True):
                    if entry.problem:
                        failures += 1
                        failed(path, entry.problem)
        Index.make(folder, digest_of(run.settings), len(images), size)
    return failures


def probe_texts(localizer: Localizer) -> list[str]:
    """Texts by whose tokens a tokenizer and templates are compared with those of a store.

    Args:
        localizer: with the templates.
    """
    return [template.replace("{}", "a") for template in localizer.templates]


@final
@dataclass(frozen=True, eq=False)
class _Makes:
    """Makes the batches of groups of images, in one stream that reads ahead."""

    localizer: Localizer
    names: Mapping[Path, str]
    keep: str
    batch_size: int
    workers: int
    found: dict[Path, Stored | str] = field(default_factory=dict)
    waiting: deque[Sequence[Path]] = field(default_factory=deque)

    def files(self, groups: Iterator[Sequence[Path]]) -> Iterator[Files]:
        """The files of each group, in order."""
        stream = one_by_one(self._of(groups), self._read, self._look, self.batch_size, self.workers, self._fail)
        with closing(stream) as results:
            for path, stored in results:
                self.found[path] = stored
                yield from self._finished()
        yield from self._finished()

    def _of(self, groups: Iterator[Sequence[Path]]) -> Iterator[Path]:
        for group in groups:
            self.waiting.append(group)
            yield from group

    def _read(self, path: Path) -> _Read:
        """What the model gets of an image, and the digest of its file."""
        before, digest = state_of(path), hashlib.sha256()
        frame = self.localizer.frame(path)
        try:
            for chunk in chunks_of(path):
                digest.update(chunk)
        except Unreachable:
            raise
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be read ({reason(error)}).") from error
        if state_of(path) != before:
            raise ImageError(f"{path}: the file was changed while it was read.")
        return frame, digest.hexdigest()

    def _look(self, batch: Sequence[tuple[Path, _Read]]) -> list[Stored | ConceptCamError]:
        localizer = self.localizer

        def fields_of(seen: Pass) -> tuple[ConceptField, ...]:
            return ConceptField.of(seen.trace, localizer.method, seen.placements, localizer.provenance(seen))

        fields = each_frame(localizer.passes([frame for _, (frame, _) in batch]), fields_of)
        return [_checked(Stored(found, digest)) for found, (_, (_, digest)) in zip(fields, batch, strict=True)]

    def _fail(self, path: Path, error: ConceptCamError) -> None:
        """Keep why an image failed; a method without fields fails for all."""
        if isinstance(error, OptionError | Unreachable):
            raise error
        self.found[path] = problem_of(error)

    def _finished(self) -> Iterator[Files]:
        """The files of the groups of which all images are through."""
        while self.waiting and all(path in self.found for path in self.waiting[0]):
            group = self.waiting.popleft()
            files = files_of([(self.names[path], self.found.pop(path)) for path in group], self.keep)
            if (most := max(map(len, files.values()))) > LARGEST:
                raise OptionError(
                    f"batch_size is {self.batch_size}, with which a file of {len(group)} images has {most:,} bytes; "
                    f"at most {LARGEST:,} are kept. Take a smaller one."
                )
            yield files


def _checked(found: Stored) -> Stored | ConceptCamError:
    """What is stored, or why it cannot be."""
    try:
        check_stored(found)
    except ConceptCamError as error:
        return error
    return found

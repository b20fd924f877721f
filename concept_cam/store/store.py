"""A store that is open: it ranks its images by a comparison of texts, and localizes in those that are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from concept_cam.address import absolute, address_of
from concept_cam.comparison import Comparison, compare
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset
from concept_cam.decoding import MAX_PIXELS
from concept_cam.errors import OptionError, OutputError, Unreachable, one_line
from concept_cam.field import ConceptField
from concept_cam.localizer import Localizer
from concept_cam.result import Localization
from concept_cam.runs import identity_of, read_settings
from concept_cam.runs.digests import digest_of
from concept_cam.selectors import Named, Selector, as_selector, sees_scores
from concept_cam.store.batches import Entry, check_place, read_entries, read_field, stem_of
from concept_cam.store.index import NAME, Index
from concept_cam.store.packing import check_keep
from concept_cam.store.storing import probe_texts
from concept_cam.stored import number, refused, sides, texts
from concept_cam.targets import References, as_references

_MOST_IMAGES, _MOST_TOGETHER = 1 << 40, 1 << 16

_COMPARED = {
    "model_digest": "another model (its numbers or its layers are not the same)",
    "preprocessing_digest": "another preprocessing",
    "texts_digest": "another tokenizer or other templates",
}
"""What a localizer has in common with a store that it searches, and how a refusal calls it."""


@final
@dataclass(frozen=True)
class Match:
    """An image that a search found.

    Attributes:
        number: of the image in the index of the store.
        score: the inner product of its embedding with the direction, by which it is ranked.
        image: where its file was when the store was made.
        sha256: of the file then.
    """

    number: int
    score: float
    image: Path
    sha256: str


@final
@dataclass(frozen=True, eq=False)
class Answer:
    """What a store answers to one comparison.

    Attributes:
        comparison: target, references, weights, similarities, strength.
        matches: the images with the highest scores, the highest first.
        bank: of the target and all that references are chosen from.
        store: that answers.
    """

    comparison: Comparison
    matches: tuple[Match, ...]
    bank: ConceptBank
    store: Store

    def localize(self, match: Match) -> Localization:
        """Where the image of a match shows it, from the field that is kept: what ``ConceptField.localize`` gives.

        Raises:
            OutputError: the batch of the image is damaged.
            NoSpatialGradient: the map is blank.
        """
        asked = self.comparison
        against = asked.references or None
        return self.store.field(match.number).localize(self.bank, asked.target, against, strength=asked.strength)


@final
@dataclass(frozen=True, eq=False)
class Store:
    """The fields of many images, which ``store_fields`` stored.

    Attributes:
        folder: of the store.
        settings: all that the fields depend on.
        images: the folder that the images lie in.
        index: the embeddings of the images that have a field.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.store import Store, store_fields
        >>> localizer = world.localizer()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plates = {name: Path(folder, f"{name}.png") for name in ("ember finch", "royal jay")}
        ...     for name, plate in plates.items():
        ...         world.draw_species(name, 3, 96).image.save(plate)
        ...     failures = store_fields(localizer, list(plates.values()), f"{folder}/store")
        ...     (answer,) = Store.open(f"{folder}/store").search(localizer, "red crown", against="bird")
        ...     answer.matches[0].image.name, answer.localize(answer.matches[0]).map.shape
        ('ember finch.png', torch.Size([12, 12]))
    """

    folder: Path
    settings: dict[str, Any]
    images: Path
    index: Index
    _checked: list[tuple[object, ...]] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Store:
        """Open a store. Its index is made anew if it is not there, is damaged or is that of another store.

        Args:
            folder: of the store.
            images: the folder that the images lie in now; by default where they were, seen from the store.

        Raises:
            OutputError: it is no store, it is not finished, or its files are damaged.
        """
        folder = address_of(folder)
        settings = read_settings(folder)
        if settings.get("job") != "fields":
            raise OutputError(f"{folder}: it holds no fields; `concept-cam fields` makes a store.")
        with refused(folder / "run.json", "store"):
            check_keep(str(settings["keep"]))
            count = int(number(settings["images"], "images", 1, _MOST_IMAGES))
            size = int(number(settings["batch"], "batch", 1, _MOST_TOGETHER))
            texts([settings["folder"].encode(errors="replace").decode(), *settings["templates"]], "templates")
            texts([settings[key] for key in (*_COMPARED, "fit", "model")], "settings")
            sides(list(settings["size"]), "size", MAX_PIXELS)
        for batch in (-(-count // size) - 1, 0):
            if not stem_of(folder, batch).with_name(f"{batch:05d}.json").exists():
                raise OutputError(f"{folder}: the store is not finished; start the same `concept-cam fields` again.")
        try:
            index = Index.open(folder, digest_of(settings))
        except Unreachable:
            raise
        except OutputError:
            index = _made_anew(folder, settings)
        # A store may come from others: it cannot name another store of images by itself, which would be asked.
        place = folder / settings["folder"] if images is None else images
        return cls(folder, settings, absolute(place), index)

    def __len__(self) -> int:
        """How many images have a field."""
        return self.index.count

    def search(
        self,
        localizer: Localizer,
        targets: str | Sequence[str],
        against: References = None,
        *,
        strength: float = 0.6,
        top: int = 50,
    ) -> list[Answer]:
        """Rank the images by the score of each target against its references; no image is opened.

        Args:
            localizer: with the model, the preprocessing and the templates of the store, and a vocabulary for ``nearest``.
            targets: one concept or several, of which each is looked for alone.
            against: names to compare with, or ``nearest(k)``; without them images are ranked by the score of the target.
            strength: of the references.
            top: how many images of each answer.

        Raises:
            OutputError: the localizer has another model, preprocessing or templates than the store, or the store is damaged.
            OptionError: there are no targets, ``top`` is below one, or references would depend on the image.
            ComparisonError, UnknownConcept: see ``compare``.
        """
        wanted = [targets] if isinstance(targets, str) else list(targets)
        selector = as_selector(as_references(against, localizer.vocabulary))
        if not wanted or top < 1:
            raise OptionError(f"{len(wanted)} targets and top {top}; expected at least one of each.")
        if sees_scores(selector):
            raise OptionError("These references depend on the image, but a search has one direction; give names or nearest.")
        self.check(localizer)
        asked = [self._compared(localizer, target, selector, strength) for target in wanted]
        directions = torch.stack([comparison.direction(bank) for comparison, bank in asked])
        if self.index.count and directions.shape[1] != self.index.width:
            raise OutputError(f"{self.index.file}: its embeddings have not {directions.shape[1]} numbers; store them again.")
        try:
            best = self.index.best(directions, top)
        except Unreachable:
            raise
        except OutputError:
            # Its numbers have changed; those of the batches, which are the same again, are read once.
            best = _made_anew(self.folder, self.settings).best(directions, top)
        return [
            Answer(comparison, tuple(map(self._match, numbers.tolist(), scores.tolist())), bank, self)
            for (comparison, bank), (scores, numbers) in zip(asked, best, strict=True)
        ]

    def field(self, number: int) -> ConceptField:
        """The field of an image by its number in the index.

        Raises:
            OutputError: the index or the batch of the image is damaged.
        """
        stem, entries, place = self._entry(number)
        return read_field(stem, entries, place, self.settings["keep"])

    def check(self, localizer: Localizer) -> None:
        """Raise OutputError unless texts embedded by a localizer can be compared with the images of this store."""
        # A digest reads all of the model; as long as nothing of it has changed, once is enough.
        state = (localizer, localizer.templates, localizer.preprocess, localizer.backbone.text_state())
        if state in self._checked:
            return
        found = identity_of(localizer, Dataset("", (), []), {}, probe_texts(localizer))
        other = [what for key, what in _COMPARED.items() if found[key] != self.settings[key]]
        if other:
            own, made = localizer.backbone.name, one_line(self.settings["model"], 60)
            raise OutputError(
                f"{self.folder}: the store was made with {' and '.join(other)}: {made}, and this is {own}. "
                "Search with the model, the input and the templates that it was made with."
            )
        self._checked[:] = [state]

    def _compared(
        self, localizer: Localizer, target: str, selector: Selector | None, strength: float
    ) -> tuple[Comparison, ConceptBank]:
        """The comparison of a target, and a bank of what it is made from."""
        chooses = selector is not None and not isinstance(selector, Named)
        known = (target, *(selector.names if isinstance(selector, Named) else ()))
        others = tuple(name for name in known if name not in localizer.kept.names)
        made = localizer.bank_around(others) if chooses else localizer.bank(known)
        bank = ConceptBank(made.names, made.vectors.float().cpu(), None if made.biases is None else made.biases.float().cpu())
        unknown = torch.zeros(len(bank.names), dtype=torch.float32, device="cpu")
        return compare(bank, target, selector, unknown, strength if selector else 0.0), bank

    def _match(self, number: int, score: float) -> Match:
        _, entries, place = self._entry(number)
        return Match(number, score, address_of(self.images / entries[place].image), entries[place].sha256)

    def _entry(self, number: int) -> tuple[Path, list[Entry], int]:
        """The batch of an image, what it says of its images, and the place of this one."""
        batch, place = self.index.place(number)
        stem = stem_of(self.folder, batch)
        entries = read_entries(stem, _MOST_TOGETHER)
        check_place(entries, place, self.folder / NAME)
        return stem, entries, place


def _made_anew(folder: Path, settings: Mapping[str, Any]) -> Index:
    """The index of a store, made from its batches."""
    return Index.make(folder, digest_of(settings), int(settings["images"]), int(settings["batch"]))

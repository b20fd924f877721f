"""EMBED: concept names become vectors, held together with their names in a bank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.backbone import Backbone
from concept_cam.errors import PromptError, UnknownConcept, UnknownWord, did_you_mean
from concept_cam.prompts import check_templates

_BATCH = 256


@dataclass(frozen=True, eq=False)
class ConceptBank:
    """Concepts with their embeddings.

    Attributes:
        names: one for each concept, no two alike.
        vectors: in the order of the names: unit vectors of texts, or the rows of a linear classifier.
        biases: what a classifier adds to its scores, if it is one.

    Example:
        >>> from concept_cam import world
        >>> world.localizer().bank(world.species()).neighbours("ember finch", 1)
        ('frost finch',)
    """

    names: tuple[str, ...]
    vectors: Float[Tensor, "K E"]
    biases: Float[Tensor, " K"] | None = None

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def index(self, name: str) -> int:
        """The row of a concept.

        Raises:
            UnknownConcept: the bank does not hold it; the message suggests the nearest spelling.
        """
        try:
            return self._rows[name]
        except KeyError:
            raise UnknownConcept(
                f"No concept {name!r} among the {len(self.names)} of this bank.{did_you_mean(name, self.names)}"
            ) from None

    def vectors_of(self, names: Sequence[str]) -> Float[Tensor, "T E"]:
        """The vectors of some concepts, in the order asked for."""
        return self.vectors[[self.index(name) for name in names]]

    def select(self, names: Iterable[str]) -> ConceptBank:
        """A bank of some of the concepts, in the order asked for; a name that comes twice counts once."""
        unique = tuple(dict.fromkeys(names))
        biases = None if self.biases is None else self.biases[[self.index(name) for name in unique]]
        return ConceptBank(unique, self.vectors_of(unique), biases)

    def copy(self) -> ConceptBank:
        """The same with tensors of its own, for those who may write into them."""
        return ConceptBank(self.names, self.vectors.clone(), None if self.biases is None else self.biases.clone())

    def scores(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B K"]:
        """Of images and every concept: cosines, or the logits of a classifier."""
        scores = embedding.to(self.vectors) @ self.vectors.T
        return scores if self.biases is None else scores + self.biases

    @cached_property
    def units(self) -> Float[Tensor, "K E"]:
        """Unit vectors; those of texts are so to begin with."""
        return F.normalize(self.vectors, dim=-1)

    def similarities(self, name: str) -> Float[Tensor, " K"]:
        """Cosines between one concept and all."""
        # The last ones are kept: a batch asks for one target again and again.
        kept = vars(self).get("_similar")
        if kept is None or kept[0] != name:
            kept = vars(self)["_similar"] = name, self.units @ self.units[self.index(name)]
        found: Tensor = kept[1].clone()
        return found

    def neighbours(self, name: str, count: int) -> tuple[str, ...]:
        """The concepts nearest to one by cosine, itself left out, the nearest first."""
        return self.ranked(self.similarities(name), name, count)

    def ranked(self, values: Float[Tensor, " K"], without: str, count: int) -> tuple[str, ...]:
        """The concepts with the largest values, one left out, the largest first; equal ones in the bank's order."""
        # Sorted are those alone that may be among them: not a number counts as the largest.
        least = values.topk(min(count + 1, len(values))).values[-1:]
        rows = (~(values < least)).nonzero()[:, 0]
        order = rows[values[rows].argsort(descending=True, stable=True)].tolist()
        return tuple(self.names[i] for i in order if self.names[i] != without)[:count]

    def centred(self) -> ConceptBank:
        """With the mean of all taken off each concept: differences of scores on an image are as they were, maps are not."""
        biases = None if self.biases is None else self.biases - self.biases.mean()
        return ConceptBank(self.names, self.vectors - self.vectors.mean(0), biases)

    @cached_property
    def spread(self) -> float:
        """The mean cosine between two different concepts: how alike any two are. NaN with fewer than two."""
        count = len(self.names)
        total = self.units.sum(0).square().sum() - self.units.square().sum()
        return float(total / (count * (count - 1))) if count > 1 else float("nan")


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names in order, each once.

    Raises:
        PromptError: there are none, or one is empty, or it is one text.
    """
    if isinstance(names, str):
        raise PromptError(f"Names are expected, one by one; given the text {names!r}. Put it in a list.")
    wanted = tuple(dict.fromkeys(names))
    if not wanted or not all(name.strip() for name in wanted):
        empty = next((name for name in wanted if not name.strip()), None)
        given = "none" if empty is None else f"{empty!r} among {len(wanted)}"
        raise PromptError(f"Concepts are names of at least one letter; given {given}.")
    return wanted


def embed(backbone: Backbone, names: Iterable[str], templates: Sequence[str], known: ConceptBank | None = None) -> ConceptBank:
    """Embed concepts: texts as open_clip's zero-shot classifier does, classes of a linear classifier as their rows.

    Args:
        backbone: the text encoder, or the classifier, to which templates mean nothing.
        names: the concepts; a name that comes twice counts once.
        templates: sentences with one ``{}`` for the name.
        known: a bank made by the same encoder and templates, whose vectors are used again.

    Raises:
        UnknownConcept: the encoder has never seen a word of a name, or the classifier has no such class.
        PromptError: there are no names, an empty name, templates without a place, or names that are cut to the same text.

    Warns:
        UserWarning: a text is longer than what the encoder reads.

    Example:
        >>> from concept_cam import embed, world
        >>> embed(world.localizer().backbone, ["red crown", "bird"], ["a {}", "the {}"]).vectors.shape
        torch.Size([2, 192])
    """
    wanted = distinct(names)
    templates = check_templates(tuple(templates), "templates")
    fresh = tuple(name for name in wanted if known is None or name not in known)
    batch = max(1, _BATCH // len(templates))
    with backbone.evaluating():
        backbone.original.refresh()
        banks = [] if known is None else [known]
        if fresh and (reader := backbone.reader()) is not None:
            reader.check_names(fresh, templates, backbone.name)
        for start in range(0, len(fresh), batch):
            part = fresh[start : start + batch]
            with _blaming(templates, part):
                banks.append(ConceptBank(part, backbone.embed_concepts(part, templates), backbone.biases(part)))
        names = tuple(name for bank in banks for name in bank.names)
        biases = [bank.biases for bank in banks if bank.biases is not None]
        vectors = torch.cat([bank.vectors for bank in banks])
        return ConceptBank(names, vectors, torch.cat(biases) if biases else None).select(wanted)


@contextmanager
def _blaming(templates: Sequence[str], names: Sequence[str]) -> Iterator[None]:
    """Say it if a word that is unknown is one of a template, and of no name."""
    try:
        yield
    except UnknownWord as error:
        word = error.word.lower()
        holding = [template for template in templates if word in template.lower()]
        if not holding or any(word in name.lower() for name in names):
            raise
        raise UnknownWord(f"{error} It stands in the template {holding[0]!r}; use other templates.", error.word) from error

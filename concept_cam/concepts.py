"""EMBED: concept names become embeddings; a ConceptBank holds both."""

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
    """Concepts with their embeddings, as zero-shot class weights in open_clip.

    Attributes:
        names: one for each concept, all different.
        vectors: in the order of the names: unit text embeddings, or the rows of a linear classifier.
        biases: the biases of a linear classifier; None for texts.

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
            UnknownConcept: the bank does not hold the name; the message suggests the nearest spelling.
        """
        try:
            return self._rows[name]
        except KeyError:
            raise UnknownConcept(
                f"No concept {name!r} among the {len(self.names)} of this bank.{did_you_mean(name, self.names)}"
            ) from None

    def vectors_of(self, names: Sequence[str]) -> Float[Tensor, "T E"]:
        """The vectors of some concepts, in the order of the names."""
        return self.vectors[[self.index(name) for name in names]]

    def select(self, names: Iterable[str]) -> ConceptBank:
        """A bank of some of the concepts, in the order of the names; a name that is repeated counts once."""
        unique = tuple(dict.fromkeys(names))
        biases = None if self.biases is None else self.biases[[self.index(name) for name in unique]]
        return ConceptBank(unique, self.vectors_of(unique), biases)

    def to(self, device: str | torch.device) -> ConceptBank:
        """A bank with its tensors on a device."""
        return ConceptBank(self.names, self.vectors.to(device), None if self.biases is None else self.biases.to(device))

    def copy(self) -> ConceptBank:
        """A copy with tensors of its own."""
        return ConceptBank(self.names, self.vectors.clone(), None if self.biases is None else self.biases.clone())

    def scores(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B K"]:
        """Scores of every concept on every image: cosines, or the logits of a classifier."""
        scores = embedding.to(self.vectors) @ self.vectors.T
        return scores if self.biases is None else scores + self.biases

    @cached_property
    def units(self) -> Float[Tensor, "K E"]:
        """The vectors, normalised; text embeddings are unit vectors already."""
        return F.normalize(self.vectors, dim=-1)

    def similarities(self, name: str) -> Float[Tensor, " K"]:
        """Cosines between one concept and every concept of the bank."""
        # The last result is kept: a batch has one target for many images.
        kept = vars(self).get("_similar")
        if kept is None or kept[0] != name:
            kept = vars(self)["_similar"] = name, self.units @ self.units[self.index(name)]
        found: Tensor = kept[1].clone()
        return found

    def neighbours(self, name: str, count: int) -> tuple[str, ...]:
        """The ``count`` other concepts with the largest cosine to a concept, the nearest first."""
        return self.ranked(self.similarities(name), name, count)

    def ranked(self, values: Float[Tensor, " K"], without: str, count: int) -> tuple[str, ...]:
        """The concepts with the largest values, the largest first; ties keep the order of the bank.

        Args:
            values: one for each concept.
            without: a concept that does not count, such as the target.
            count: how many concepts.
        """
        # Sorted are those alone that may be among them: not a number counts as the largest.
        least = values.topk(min(count + 1, len(values))).values[-1:]
        rows = (~(values < least)).nonzero()[:, 0]
        order = rows[values[rows].argsort(descending=True, stable=True)].tolist()
        return tuple(self.names[i] for i in order if self.names[i] != without)[:count]

    def centred(self) -> ConceptBank:
        """A bank with the mean vector subtracted from each: probabilities stay the same, base maps change."""
        biases = None if self.biases is None else self.biases - self.biases.mean()
        return ConceptBank(self.names, self.vectors - self.vectors.mean(0), biases)

    @cached_property
    def spread(self) -> float:
        """The mean cosine between two different concepts; NaN with fewer than two."""
        count = len(self.names)
        total = self.units.sum(0).square().sum() - self.units.square().sum()
        return float(total / (count * (count - 1))) if count > 1 else float("nan")


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names in their order, each once.

    Raises:
        PromptError: there are no names, a name is empty, or the argument is a single string.

    Example:
        >>> from concept_cam.concepts import distinct
        >>> distinct(["bird", "fish", "bird"])
        ('bird', 'fish')
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
    """Embed concepts: texts as open_clip's zero-shot classifier does, classes of a linear classifier as its rows.

    Args:
        backbone: a dual encoder, or a classifier, which ignores the templates.
        names: the concepts; a name that is repeated counts once.
        templates: sentences with one ``{}`` for the name.
        known: a bank of the same encoder and templates, whose vectors are reused.

    Raises:
        UnknownConcept: the vocabulary of the encoder lacks a word of a name, or the classifier has no such class.
        PromptError: there are no names, a name is empty, a template has no ``{}``, or two names are truncated to one text.

    Warns:
        UserWarning: a text is longer than the context of the encoder.

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
    """Name the template in the error if the unknown word comes from it and not from a name."""
    try:
        yield
    except UnknownWord as error:
        word = error.word.lower()
        holding = [template for template in templates if word in template.lower()]
        if not holding or any(word in name.lower() for name in names):
            raise
        raise UnknownWord(f"{error} It stands in the template {holding[0]!r}; use other templates.", error.word) from error

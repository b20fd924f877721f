"""One family of exceptions. A message says what was given, what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConceptCamError(Exception):
    """Base of every error that the library raises on purpose."""


class PictureError(ConceptCamError, ValueError):
    """A picture that cannot be read or is not what a model can see."""


class PromptError(ConceptCamError, ValueError):
    """A template or vocabulary that cannot be read, or that does not mean what it should."""


class UnknownConcept(ConceptCamError, LookupError):
    """A concept that the bank does not hold."""


class UnknownWord(UnknownConcept):
    """A word that the text encoder has never seen.

    Attributes:
        word: as the encoder gets it.
    """

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


class ComparisonError(ConceptCamError, ValueError):
    """A comparison that asks nothing: no references, the target among them, a strength that is not a number."""


class OptionError(ConceptCamError, ValueError):
    """An option out of its range, or none of those there are."""


class DatasetError(ConceptCamError, ValueError):
    """A data set that is not in its layout, or an example of one that is not what it should be."""


class EmptyMask(ConceptCamError, ValueError):
    """A mask without a pixel: nothing can be inside, so neither a hit nor a miss means anything."""


class BackboneError(ConceptCamError, RuntimeError):
    """A model that cannot be loaded, or whose insides are not those of any family we know."""


class NoSpatialGradient(ConceptCamError, RuntimeError):
    """A site whose patch tokens do not reach the embedding, so that every map would be blank."""


class AuditFailed(ConceptCamError):
    """A model that has not passed the conditions that were set for it."""


class OutputError(ConceptCamError, OSError):
    """A result that cannot be written or read back."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'red crown'?"`` if a known name is spelt much like this one, else nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""

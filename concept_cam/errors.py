"""One family of exceptions. A message says what was given, what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST = 1000
"""Letters of a message at most: names and values from outside stand in it."""


class ConceptCamError(Exception):
    """Base of every error that the library raises on purpose; its text is one line that a terminal can be given."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ImageError(ConceptCamError, ValueError):
    """An image that cannot be read or is not what a model can see."""


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
    """A model that has not passed the conditions that were set for it, or the checks: not an error, but exit code 1."""


class OutputError(ConceptCamError, OSError):
    """A result that cannot be written or read back."""


def one_line(text: object, limit: int = LONGEST) -> str:
    r"""A text on one line of printable letters, so that a terminal, a log and a table show it and do nothing else.

    Line breaks, tabs and other spaces become a space; control characters, escape codes and marks that turn the direction of
    writing are shown as Python writes them, and so are bytes of a file name that are not UTF-8. Of a longer text the middle is
    left out: what was given stands at the start of a message, what to do next at its end.

    Args:
        text: anything that has a ``str``.
        limit: of its length; the beginning and the end of a longer one are kept.

    Example:
        >>> print(one_line("a name\nwith \x1b[31m colour"))
        a name with \x1b[31m colour
        >>> one_line("a" * 30 + "b" * 30, 15)
        'aaaaa ... bbbbb'
    """
    given = str(text).replace("\r\n", "\n")
    if len(given) > 2 * limit:
        given = given[:limit] + given[-limit:]
    shown = "".join(map(_printable, given))
    if len(shown) <= limit:
        return shown
    end = len(shown) - limit // 3
    return f"{shown[: limit - limit // 3 - len(_CUT)]}{_CUT}{shown[end:]}"


_CUT = " ... "


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    if letter.isspace():
        return " "
    byte = ord(letter) - 0xDC00  # how Python holds a byte of a file name that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()


def reason(error: BaseException, limit: int = 200) -> str:
    """Why something failed, in one short line: the text of an error, with its kind where the text alone says too little."""
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror, limit)
    if isinstance(error, OSError | ValueError | ConceptCamError) and str(error):
        return one_line(error, limit)
    return one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, limit)


@contextmanager
def refused_as(kind: type[ConceptCamError], name: object, what: str = "") -> Iterator[None]:
    """Whatever goes wrong while something from outside is read becomes an error of one kind, with the name of what was read.

    Decoders and parsers raise what they like on a damaged file; what they may raise is not listed anywhere. What is of that
    kind already is passed on, and so is a lack of memory.

    Args:
        kind: of the error.
        name: of the file or the example.
        what: of it is read: ``the mask``; by default all.

    Example:
        >>> with refused_as(DatasetError, "set.json"):
        ...     [][1]
        Traceback (most recent call last):
        concept_cam.errors.DatasetError: set.json: cannot be read (IndexError: list index out of range).
    """
    try:
        yield
    except (kind, MemoryError):
        raise
    except Exception as error:
        raise kind(f"{name}: {what}{' ' if what else ''}cannot be read ({reason(error)}).") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'red crown'?"`` if a known name is spelt much like this one, else nothing."""
    # A name from a file may be of any length, and the comparison takes the square of it.
    close = get_close_matches(name[:100], list(known), n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""

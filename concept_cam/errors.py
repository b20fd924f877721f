"""One family of exceptions. A message says what was given, what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST = 1000
"""Largest length of a message, which may contain names and values from outside."""


class ConceptCamError(Exception):
    """Base of all errors that the library raises on purpose; its text is one line, safe for a terminal."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ImageError(ConceptCamError, ValueError):
    """An image that cannot be read, or that a model cannot take."""


class PromptError(ConceptCamError, ValueError):
    """A template or vocabulary that cannot be read or is malformed."""


class UnknownConcept(ConceptCamError, LookupError):
    """A concept that the bank does not hold."""


class UnknownWord(UnknownConcept):
    """A word that is not in the vocabulary of the text encoder.

    Attributes:
        word: the word as it reaches the encoder.
    """

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


class ComparisonError(ConceptCamError, ValueError):
    """A comparison that cannot be made: no references, the target among them, or an invalid strength."""


class OptionError(ConceptCamError, ValueError):
    """An option that is out of range or does not exist."""


class DatasetError(ConceptCamError, ValueError):
    """A data set that is not in its layout, or a malformed example of one."""


class EmptyMask(ConceptCamError, ValueError):
    """A mask without a pixel, for which neither a hit nor a miss is defined."""


class BackboneError(ConceptCamError, RuntimeError):
    """A model that cannot be loaded, or that belongs to no known family."""


class NoSpatialGradient(ConceptCamError, RuntimeError):
    """A site whose patch tokens do not reach the embedding, so that every map would be blank."""


class AuditFailed(ConceptCamError):
    """A model that fails a condition or a check; exit code 1."""


class OutputError(ConceptCamError, OSError):
    """A result that cannot be written or read back."""


class Unreachable(OutputError):
    """An object store that cannot be reached or refuses; it ends the run, and the next start goes on."""


def missing(extra: str, purpose: str) -> str:
    """The message where an extra of this package is not installed.

    Args:
        extra: its name.
        purpose: what it is needed for, after "To".

    Example:
        >>> missing("parquet", "write Parquet")
        "To write Parquet: pip install 'concept-cam[parquet]'"
    """
    return f"To {purpose}: pip install 'concept-cam[{extra}]'"


def one_line(text: object, limit: int = LONGEST) -> str:
    r"""A text on one line of printable characters, which is safe to show on a terminal, in a log and in a table.

    Line breaks, tabs and other spaces become a space. Control characters, escape codes, marks of writing direction and bytes
    of a file name that are not UTF-8 are shown as Python escapes. A longer text loses its middle: the start of a message says
    what was given, the end what to do next.

    Args:
        text: any object with a ``str``.
        limit: largest length.

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
    """The reason of a failure in one short line: the text of the error, with its class where the text alone says too little.

    Example:
        >>> reason(KeyError("images"))
        "KeyError: 'images'"
    """
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror, limit)
    if isinstance(error, OSError | ValueError | ConceptCamError) and str(error):
        return one_line(error, limit)
    return one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, limit)


@contextmanager
def refused_as(kind: type[ConceptCamError], name: object, what: str = "") -> Iterator[None]:
    """Turn any exception while something from outside is read into an error of one class, with the name of what was read.

    Decoders and parsers raise exceptions of many classes on a damaged file. An error of the class itself,
    ``Unreachable`` and a ``MemoryError`` are passed on.

    Args:
        kind: class of the error.
        name: of the file or the example.
        what: the part that is read, such as ``the mask``; by default the whole.

    Example:
        >>> with refused_as(DatasetError, "set.json"):
        ...     [][1]
        Traceback (most recent call last):
        concept_cam.errors.DatasetError: set.json: cannot be read (IndexError: list index out of range).
    """
    try:
        yield
    except (kind, MemoryError, Unreachable):
        raise
    except Exception as error:
        raise kind(f"{name}: {what}{' ' if what else ''}cannot be read ({reason(error)}).") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint if a known name is spelt similarly, else an empty string.

    Example:
        >>> did_you_mean("red crwn", ["red crown", "bird"])
        " Did you mean 'red crown'?"
    """
    # A name from a file may have any length, and the comparison is quadratic in it.
    close = get_close_matches(name[:100], list(known), n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""

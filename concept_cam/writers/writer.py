"""What every writer does: it takes results one by one, and its files are whole or not there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, final

from PIL import Image

R_contra = TypeVar("R_contra", contravariant=True)
W = TypeVar("W", bound="Writer[Any]")


class Writer(ABC, Generic[R_contra]):
    """Takes results one by one and writes files of them; as a context it is closed at the end.

    A writer of one file for each result has written it when ``add`` returns. A writer of one file for all results keeps it
    under a temporary name until it is closed. If an exception ends the context, such a file is deleted.
    """

    draws: bool = False
    """Whether ``add`` needs the image."""

    @abstractmethod
    def add(self, name: str, result: R_contra, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a result.

        Args:
            name: of the image, or of the files of this result, which then lie under this name.
            result: of the image.
            image: needed by writers that draw.

        Returns:
            The files that are written and whole now.

        Raises:
            OutputError: a file cannot be written.
        """

    def close(self) -> None:
        """Finish the files of all results.

        Raises:
            OutputError: a file cannot be written.
        """

    def discard(self) -> None:
        """Delete what is not finished."""

    def __enter__(self: W) -> W:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


@final
class Renamed(Writer[R_contra]):
    """Gives results to another writer under other names.

    Args:
        writer: the other one.
        names: the name there by the name here.
    """

    def __init__(self, writer: Writer[R_contra], names: Mapping[str, str]) -> None:
        self._writer, self._names, self.draws = writer, names, writer.draws

    def add(self, name: str, result: R_contra, image: Image.Image | None = None) -> tuple[Path, ...]:
        """Take a result; see ``Writer``."""
        return self._writer.add(self._names[name], result, image)

    def close(self) -> None:
        """Close the other writer."""
        self._writer.close()

    def discard(self) -> None:
        """Delete what the other writer has not finished."""
        self._writer.discard()

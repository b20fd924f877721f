"""IMAGE IN: the file that Pillow reads."""

from __future__ import annotations

import io
import re

_MAX_HEADER = 128 << 20
"""Bytes that may be read before the size of an image is known."""

_MAX_READS = 2_000_000
"""Pieces in which a file may be read: some formats allow pieces of a few bytes, each of which takes its time."""

_MAX_SCANS = 500
"""Scans of a JPEG file; it may have any number of empty ones, and each goes over all of the image."""


class Metered:
    """A file that Pillow reads, of which a header takes no more than it should.

    Pillow never sees the EXIF block of a JPEG or AVIF file, which it would read whole, and would refuse the file for if it is
    damaged, nor that it has more images than the first.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.start = file.read(16)
        file.seek(0)
        self._left: float = _MAX_HEADER
        self._reads = 0
        self._scans = 0
        self._is_jpeg = self.start.startswith(b"\xff\xd8\xff")
        self.exif = b""
        self.last = b""

    def header_is_read(self) -> None:
        """From now on pixels are read: all there are."""
        self._left = float("inf")

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def read(self, count: int | None = -1) -> bytes:
        """As of any file, unless a header takes too much; without what Pillow is not to see.

        Raises:
            ValueError: it does.
        """
        rest = max(0, self.size - self._file.tell())
        count = rest if count is None or count < 0 else min(count, rest)
        self._left -= count
        self._reads += 1
        if self._left < 0:
            raise ValueError(f"more than {_MAX_HEADER:,} bytes before the first pixel")
        if self._reads > _MAX_READS:
            raise ValueError(f"more than {_MAX_READS:,} pieces")
        found = self._file.read(count)
        if self._is_jpeg and self._left != float("inf"):
            self.last = found
            if found.startswith(b"Exif\0\0"):
                self.exif = self.exif or found
                return bytes(len(found))
            if found.startswith(b"MPF\0"):
                return bytes(len(found))
        elif self._is_jpeg:
            self._scans += found.count(b"\xff\xda")
            if self._scans > _MAX_SCANS:
                raise ValueError(f"more than {_MAX_SCANS} scans")
        elif found[4:8] == b"ftyp":
            # The type of an item; one of no known type is passed over.
            return re.sub(rb"(infe[\x02\x03].{3}(?:.{4}|.{6}))Exif", rb"\1none", found, flags=re.DOTALL)
        return found

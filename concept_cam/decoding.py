"""IMAGE IN: opens image files, and nowhere else: accepted formats, limits of size, orientation."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from concept_cam.address import Address, absolute, address_of
from concept_cam.errors import ConceptCamError, ImageError, reason
from concept_cam.exif import first_values, orientation_in, png_exif
from concept_cam.formats import FORMATS
from concept_cam.metered import Metered
from concept_cam.outside import length_of
from concept_cam.quiet import quiet_libtiff, quiet_pillow

MAX_SIDE = 65_535
"""Pixels on a side of an image at most."""

MAX_BYTES = 1_000_000_000
"""What one image may take: its file, what its decoder holds, and the pixels as stored and as RGB."""

MAX_PIXELS = MAX_BYTES // 8
"""Pixels of an image at most: those of colour take four bytes each, once as they are stored and once as RGB."""

_MAX_VALUES = 1 << 18
"""Values of one tag that says how a TIFF file is laid out; Pillow makes an object of each."""

_SLOW = ("bmp_rle", "ppm", "ppm_plain")
"""Decoders of Pillow that are written in Python."""

_MAX_SLOW = 1 << 26
"""Bytes of a file for one of those, which they go through in seconds."""

DEADLY = set[str]()
"""Paths of images on which processes died: they are not opened here."""

_LARGE = threading.Lock()
"""Images that need an eighth of ``MAX_BYTES`` are decoded one at a time, however many threads read."""


@contextmanager
def refusing(name: str, kind: type[ConceptCamError] = ImageError, what: str = "image") -> Iterator[None]:
    """Turn any exception of a decoder into an error of one line; a ``MemoryError`` is passed on.

    Args:
        name: of the image.
        kind: class of the error.
        what: what is read, for the message.
    """
    try:
        with quiet_pillow():
            yield
    except (ConceptCamError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise kind(
            f"{name}: the {what} cannot be read: it is not an image in a known format ({known}); convert it to JPEG or PNG."
        ) from error
    except Image.DecompressionBombError as error:
        raise kind(f"{name}: the {what} has too many pixels ({reason(error)}); make it smaller first.") from error
    except Exception as error:
        raise kind(f"{name}: the {what} cannot be read and seems damaged ({reason(error)}); export it anew.") from error


@dataclass(frozen=True)
class Stored:
    """An opened image of which only the header has been read.

    Attributes:
        image: as Pillow opened it; only ``pixels`` reads its pixels.
        size: (width, height) as stored.
        orientation: of EXIF, 1 to 8.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        width, height = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    def pixels(self) -> Image.Image:
        """The pixels as stored, neither rotated nor converted, as a new image.

        Raises:
            Exception: whatever the decoder raises; see ``refusing``.
        """
        quiet_libtiff()
        if self.image.format in ("TIFF", "PNG"):
            # A TIFF image would be turned here, and its EXIF block written anew, which fails where that is damaged; of a
            # PNG file, all would be read that comes after the pixels.
            self.image.load_end = lambda: None  # type: ignore[attr-defined]
        self.image.load()
        core = self.image.im
        if core.size != self.size:
            raise ValueError(f"the header says {self.size}, the pixels are {core.size}")
        profile = self.image.info.get("icc_profile")
        image: Image.Image = self.image._new(core)
        image.info = {key: self.image.info[key] for key in ("transparency", "icc_profile") if key in self.image.info}
        if not isinstance(profile, bytes) or len(profile) > 1 << 20:
            image.info.pop("icc_profile", None)
        return image


def located(source: str | PathLike[str] | bytes, name: str | None) -> tuple[Path | bytes, str]:
    """A path, or the content of a file, and its name in messages, by default the path."""
    if isinstance(source, bytes):
        return source, name or "the image"
    path = address_of(source)
    return path, name or str(path)


@contextmanager
def opened(
    source: Path | bytes, called: str, kind: type[ConceptCamError] = ImageError, what: str = "image"
) -> Iterator[Stored]:
    """Open an encoded image and check its size from its header.

    Args:
        source: a path, or the content of a file.
        called: its name in messages.
        kind: class of the error that is raised.
        what: what is read, for messages.

    Raises:
        ConceptCamError: of that class, here and within the block: the file is missing, empty, damaged or too large, or its
            format is not supported.
    """
    one = f"{'an' if what.startswith(tuple('aeiou')) else 'a'} {what}"
    with ExitStack() as stack:
        stack.enter_context(refusing(called, kind, what))
        if DEADLY and isinstance(source, Path) and str(absolute(source)) in DEADLY:
            raise kind(
                f"{called}: three processes died on this file, so it is skipped; a decoder or the model cannot take it."
            )
        file: io.BufferedIOBase
        if isinstance(source, Address):
            file = stack.enter_context(_at(source, called, kind, one))
        elif isinstance(source, Path) and not source.is_file():
            state = "is a folder" if source.is_dir() else "is no file" if source.exists() else "does not exist"
            raise kind(f"{called}: the file {state}; expected {one} such as a JPEG or PNG file.")
        else:
            file = stack.enter_context(source.open("rb") if isinstance(source, Path) else io.BytesIO(source))
        metered = Metered(file)
        if metered.size == 0:
            raise kind(f"{called}: the file is empty; expected {one} such as a JPEG or PNG file.")
        if metered.size > MAX_BYTES:
            raise kind(
                f"{called}: the file has {metered.size:,} bytes, but at most {MAX_BYTES:,} are read; make it smaller first."
            )
        _check_before(metered, called, kind)
        image = stack.enter_context(Image.open(metered, formats=_formats()))  # type: ignore[arg-type]
        stored = Stored(image, _stored_size(image), _orientation(image, metered))
        check_size(stored.size, called, kind)
        if metered.size > _MAX_SLOW and _decoder_of(image) in _SLOW:
            raise kind(f"{called}: {metered.size:,} bytes of {one} that is slow to decode; save it as PNG.")
        needed = metered.size + _needed(stored, metered)
        if needed > MAX_BYTES:
            raise kind(
                f"{called}: {stored.size[0]} x {stored.size[1]} pixels of {image.format} take {needed / 1e6:,.0f} MB to read, "
                f"but at most {MAX_BYTES / 1e6:,.0f} are given; make it smaller first."
            )
        metered.header_is_read()
        if needed > MAX_BYTES // 8:
            stack.enter_context(_LARGE)
        yield stored


def _at(source: Address, called: str, kind: type[ConceptCamError], one: str) -> io.BufferedIOBase:
    """What is at an address, fetched at once where it is not too large: decoders go back and forth in it."""
    try:
        file: io.BufferedReader = source.open()
    except FileNotFoundError as error:
        raise kind(f"{called}: the file does not exist; expected {one} such as a JPEG or PNG file.") from error
    if length_of(file) > MAX_BYTES:
        return file
    with file:
        return io.BytesIO(file.read())


def check_size(size: tuple[int, int], name: str, kind: type[ConceptCamError] = ImageError) -> None:
    """Raise an error if an image is empty or too large.

    Args:
        size: (width, height).
        name: of the image in messages.
        kind: class of the error.

    Raises:
        ConceptCamError: of that class.
    """
    width, height = size
    if width < 1 or height < 1:
        raise kind(f"{name}: {width} x {height} pixels; there is nothing to see.")
    if max(size) > MAX_SIDE:
        raise kind(f"{name}: {width} x {height} pixels, but at most {MAX_SIDE} on a side are read; make it smaller first.")
    if width * height > MAX_PIXELS:
        raise kind(f"{name}: {width} x {height} pixels, but at most {MAX_PIXELS} are read; make it smaller first.")


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_before(file: Metered, name: str, kind: type[ConceptCamError]) -> None:
    """What has to be known of two formats before Pillow opens them, for it reads or makes too much at once."""
    if file.start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        for tag, _, count, _ in first_values(file):
            # 270 is the description.
            if tag < 700 and tag != 270 and count > _MAX_VALUES:
                raise kind(f"{name}: {count:,} values in tag {tag}; expected {_MAX_VALUES:,} at most. Export it anew.")
    elif file.start[:4] == b"\0\0\1\0":
        file.seek(0)
        head = file.read(6)
        entries = [file.read(16) for _ in range(int.from_bytes(head[4:6], "little"))]
        for entry in entries:
            file.seek(int.from_bytes(entry[12:16], "little"))
            start = file.read(24)
            if start.startswith(b"\x89PNG"):
                size = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
            elif start[:4] == b"\x0c\0\0\0":
                size = int.from_bytes(start[4:6], "little"), int.from_bytes(start[6:8], "little")
            else:
                # The height is that of the image and of its mask, and negative where rows go down.
                high = int.from_bytes(start[8:12], "little", signed=True)
                size = int.from_bytes(start[4:8], "little"), abs(high) // 2
            if len(start) == 24 and 0 not in size:
                check_size(size, name, kind)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "TIFF":
        # Pillow gives the size as it is once turned.
        return image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    return image.size


def _orientation(image: Image.Image, file: Metered) -> int:
    here, block = file.tell(), image.info.get("exif")
    if image.format == "TIFF":
        found = orientation_in(file)
    elif image.format == "JPEG":
        found = orientation_in(io.BytesIO(file.exif))
    elif image.format == "PNG":
        found = orientation_in(io.BytesIO(png_exif(file)))
    else:
        found = orientation_in(io.BytesIO(block)) if isinstance(block, bytes) else 1
    file.seek(here)
    return found


_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Of a pixel in Pillow's memory; four in all other modes."""

_DECODER = {"WEBP": 16, "AVIF": 16, "GIF": 1, "ICO": 4}
"""Bytes a pixel that a decoder holds besides the image, at most, as measured."""


def _needed(stored: Stored, file: Metered) -> int:
    """Bytes that are held at once when an image is decoded and made RGB, besides its file."""
    image, pixels = stored.image, stored.size[0] * stored.size[1]
    plain = image.mode == "RGB" and stored.orientation == 1 and "transparency" not in image.info
    held = _BYTES.get(image.mode, 4) + (0 if plain else 4) + _DECODER.get(image.format or "", 0)
    if image.format == "JPEG":
        layers = image.layer  # type: ignore[attr-defined]
        if image.info.get("progressive") or file.last[:1] != bytes([len(layers)]):
            # Of several scans, all coefficients are kept until the last.
            held += 2 * len(layers)
    elif image.format == "JPEG2000":
        held += 6 * len(image.getbands())
    elif _decoder_of(image) in _SLOW:
        held += 8
    elif image.format == "TIFF":
        return pixels * held + 12 * _tiff_piece(image)
    return pixels * held


def _decoder_of(image: Any) -> str:
    return str(image.tile[0][0]) if image.tile else ""


def _tiff_piece(image: Any) -> int:
    """Pixels of a strip or tile of a TIFF file, which is decoded at once."""
    width, height = (image.tag_v2[tag] for tag in (256, 257))
    tile = image.tag_v2.get(322, 0), image.tag_v2.get(323, 0)
    rows = image.tag_v2.get(278, height)
    if not all(isinstance(side, int) for side in (*tile, rows)):
        raise ValueError("a side of its strips or tiles is no number")
    return int(max(tile[0] * tile[1], width * min(rows, height)))

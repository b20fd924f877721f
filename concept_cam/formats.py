"""IMAGE IN: the formats of image files, by Pillow's names, and how such files end; nothing is imported for it."""

from __future__ import annotations

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpf"),
    "ICO": (".ico",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""What is read, by what is in the file and not by its name. Others are refused: to open EPS, Pillow starts another program."""

SUFFIXES = tuple(sorted(suffix for suffixes in FORMATS.values() for suffix in suffixes))
"""Suffixes of the files that count as images when a folder is searched."""

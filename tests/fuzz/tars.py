"""Tar files: headers, names, sizes and notes that are not what a writer makes."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from PIL import Image

from concept_cam.cli.folders import sources
from concept_cam.errors import ImageError
from concept_cam.images import read_image
from fuzz.sets import damaged

_NAMES = (
    "a.png",
    "a/b.png",
    "../a.png",
    "/a.png",
    "a\0b.png",
    "",
    ".",
    "a//b.png",
    "x" * 300 + ".png",
    "ü.png",
    "a.tar/b.png",
    "a.txt",
)
_KINDS = (*tarfile.REGULAR_TYPES, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"g", b"x", b"L", b"?")


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A tar file of a few members, and something wrong with it; read are the images that it is said to have."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    stream = io.BytesIO()
    for _ in range(rng.randrange(5)):
        info = tarfile.TarInfo(rng.choice(_NAMES))
        info.type = rng.choice(_KINDS) if rng.random() < 0.3 else tarfile.REGTYPE
        content = image.getvalue() if rng.random() < 0.8 else rng.randbytes(rng.randrange(600))
        info.size = rng.choice((1 << 20, 1 << 40, 1 << 62)) if rng.random() < 0.1 else len(content)
        head = info.tobuf(rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)))
        stream.write(head + content + bytes(-len(content) % 512))
    stream.write(bytes(rng.choice((0, 100, 1024))))
    file = folder / "set.tar"
    file.write_bytes(damaged(stream.getvalue(), rng) if rng.random() < 0.4 else stream.getvalue())

    def read() -> object:
        with redirect_stderr(io.StringIO()):
            found = sources([file])
        for path in found:
            try:
                read_image(path)
            except ImageError:
                continue
        return found

    return read

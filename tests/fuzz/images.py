"""Image files: of every format that is read and of some that are not, whole, damaged, and made to do harm."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from concept_cam.datasets.files import size_of
from concept_cam.datasets.masks import of_levels
from concept_cam.errors import ConceptCamError
from concept_cam.quiet import quiet_libtiff
from concept_cam.reading import read_image, read_levels

MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA", "L"),
    "GIF": ("1", "L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "ICO": ("RGB", "RGBA", "P", "L"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I"),
}
SUFFIXES = (".jpg", ".png", ".tif", ".webp", ".avif", ".gif", ".bmp", ".ico", ".jp2", ".ppm", ".eps", ".txt", "")
EXTREMES = (0, 1, 2, 127, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
OTHERS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x09\0\0\0\x09\0\x08\0\3" + bytes(40),
    b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"P5 3 3 255\n" + bytes(9),
    b"Pf 3 3 -1.0\n" + bytes(36),
    b"P3 2 1 999\n1 2 3 999 5 6\n",
    b"PK\3\4" + bytes(60),
    b"\x89HDF\r\n\x1a\n" + bytes(60),
    b"DDS " + bytes(124),
    b"qoif" + bytes(20),
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"/* XPM */\n",
)


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A file, which all readers are given."""
    quiet_libtiff()
    name = rng.choice(list(MODES))
    data = rng.choice(OTHERS) if rng.random() < 0.03 else valid(rng, name)
    if rng.random() < 0.3:
        data = HOSTILE[name](rng, data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        data = rng.choice(DAMAGES)(rng, data)
    stem = rng.choice(("photo", "a b", "ä", "new\nline", "esc\x1b[31m", "x" * 200))
    file = folder / f"{stem}{rng.choice(SUFFIXES)}"
    file.write_bytes(data)
    return lambda: read_by_all(file, data)


def read_by_all(file: Path, data: bytes) -> object:
    """What comes of it; all readers have to agree."""
    outcomes: list[object] = []
    for reader in (
        lambda: read_image(file),
        lambda: read_image(data, "row 3"),
        lambda: size_of(file),
        of_levels(file, file),
        lambda: read_levels(data, "row 3"),
    ):
        try:
            outcomes.append(reader())
        except ConceptCamError as error:
            outcomes.append(error)
    for line in (str(outcome) for outcome in outcomes if isinstance(outcome, ConceptCamError)):
        assert line.isprintable()
        assert len(line) <= 2100
    image, again, size, mask, levels = outcomes
    assert type(image) is type(again)
    assert isinstance(mask, ConceptCamError) == isinstance(levels, ConceptCamError)
    if isinstance(image, Exception):
        raise image
    assert image.mode == "RGB"
    assert (image.height, image.width) == size
    assert image.tobytes() == again.tobytes()
    if not isinstance(mask, ConceptCamError):
        assert tuple(mask.shape) == size
    return image


# ---- whole files ------------------------------------------------------------------------------------------------------


def pixels(rng: random.Random, mode: str) -> Image.Image:
    width, height = rng.choice(((1, 1), (1, 40), (40, 1), (7, 5), (33, 20), (64, 64)))
    noise = np.random.default_rng(rng.getrandbits(32))
    if mode == "I;16":
        return Image.fromarray(noise.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode in ("I", "F"):
        top = rng.choice((200, 60000, 2**31 - 1))
        return Image.fromarray(noise.integers(0, top, (height, width), dtype=np.int32)).convert(mode)
    image = Image.fromarray(noise.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    if mode == "LAB":
        return Image.merge("LAB", image.convert("RGB").split())
    return (
        image if mode == "RGBA" else image.convert("L").convert("LA") if mode == "LA" else image.convert("RGB").convert(mode)
    )


def exif(rng: random.Random) -> bytes:
    """A block that may be damaged."""
    block = Image.Exif()
    block[274] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 0))
    block[271] = "maker" * rng.choice((1, 50))
    block.get_ifd(0x8769)[36867] = "2024:01:01 00:00:00"
    data = block.tobytes()
    for _ in range(rng.choice((0, 0, 1, 5))):
        data = rng.choice(DAMAGES[:3])(rng, data)
    return data[:60_000]


def valid(rng: random.Random, name: str) -> bytes:
    """A file as a program writes it."""
    mode = rng.choice(MODES[name])
    image, options, out = pixels(rng, mode), {}, io.BytesIO()
    if name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF") and rng.random() < 0.4:
        options["exif"] = exif(rng)
    if name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF") and rng.random() < 0.1:
        options["icc_profile"] = rng.randbytes(rng.choice((10, 5000)))
    if name == "JPEG":
        options["progressive"] = rng.random() < 0.5
    elif name == "TIFF":
        kinds = {
            "1": ("raw", "group3", "group4", "packbits"),
            "YCbCr": ("raw", "jpeg"),
            "RGB": ("raw", "jpeg", "tiff_lzw", "zstd"),
        }
        options["compression"] = rng.choice(kinds.get(mode, ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")))
    elif name == "WEBP":
        options["lossless"] = rng.random() < 0.5
    elif name == "AVIF":
        options |= {"speed": 10, "quality": 30}
    elif name == "ICO":
        options["bitmap_format"] = rng.choice(("png", "bmp"))
    if name in ("PNG", "TIFF", "WEBP", "GIF") and mode not in ("I", "I;16", "F", "LAB", "YCbCr") and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [image.copy() for _ in range(rng.choice((1, 5)))]}
    if mode == "P" and name in ("PNG", "GIF") and rng.random() < 0.5:
        options["transparency"] = rng.randrange(256)
    try:
        image.save(out, name, **options)
    except Exception:  # noqa: BLE001 - some writers refuse the damaged block
        out = io.BytesIO()
        image.save(out, name)
    return out.getvalue()


# ---- damages that any file may have -----------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if out:
            out[min(int(rng.expovariate(8 / len(out))), len(out) - 1)] = rng.randrange(256)
    return bytes(out)


def extreme(rng: random.Random, data: bytes) -> bytes:
    """A number in the header is one that nobody expects."""
    form, value = rng.choice(("<B", "<H", ">H", "<I", ">I")), rng.choice(EXTREMES)
    size = struct.calcsize(form)
    at = rng.randrange(max(1, min(len(data), rng.choice((32, 256, 4096)))))
    return data[:at] + struct.pack(form, value % 256**size) + data[at + size :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def lengthen(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\0", rng.randbytes(100), bytes(100_000), valid(rng, "JPEG"), valid(rng, "PNG"), OTHERS[0]))


def doubled(rng: random.Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 12, 200))
    return data[: at + length] + data[at:]


def before(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((b"\0", b"\n", OTHERS[0], b"\xff\xd8\xff", b"GIF89a", b"II*\0")) + data


DAMAGES = (flip, extreme, cut, lengthen, doubled, before)


# ---- files that are made to do harm -----------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes, rng: random.Random | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if rng is None or rng.random() < 0.9 else rng.getrandbits(32)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(rng: random.Random, data: bytes) -> bytes:
    """Sides and depths that were never drawn, and chunks that are much larger than they look."""
    side = lambda: rng.choice((1, 5, 300, 65535, 65536, 200_000, 2**31 - 1))  # noqa: E731
    head = struct.pack(
        ">IIBBBBB", side(), side(), rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6)), 0, 0, rng.choice((0, 1))
    )
    zeros = zlib.compress(bytes(rng.choice((10, 10_000, 20_000_000))), 1)
    extra = (
        chunk(b"iCCP", b"x\0\0" + zeros),
        chunk(b"zTXt", b"Comment\0\0" + zeros),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros),
        chunk(b"eXIf", exif(rng)),
        chunk(b"acTL", struct.pack(">II", rng.choice(EXTREMES), 0)),
        chunk(b"tRNS", rng.randbytes(rng.choice((1, 2, 6, 256)))),
        chunk(b"PLTE", rng.randbytes(rng.choice((0, 3, 5, 768)))),
        chunk(b"xyZz", b"") * rng.choice((1, 20_000)),
        chunk(b"fcTL", rng.randbytes(26)),
    )
    if rng.random() < 0.5:
        return data[:33] + rng.choice(extra) + data[33:]
    chosen = b"".join(rng.sample(extra, rng.randrange(3)))
    return data[:8] + chunk(b"IHDR", head, rng) + chosen + chunk(b"IDAT", zeros, rng) + chunk(b"IEND", b"")


def jpeg(rng: random.Random, data: bytes) -> bytes:
    """Sides of the frame, and segments before it."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    if rng.random() < 0.5 and at > 0:
        return data[: at + 5] + struct.pack(">HH", *rng.choices((0, 1, 9, 4000, 65535), k=2)) + data[at + 9 :]
    content = rng.choice(
        (b"Exif\0\0" + exif(rng), b"MPF\0" + rng.randbytes(90), b"ICC_PROFILE\0\1\1" + bytes(60_000), b"JFIF\0")
    )
    marker = rng.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDC))
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
    return data[:2] + segment * rng.choice((1, 2, 40)) + data[2:]


def tiff(rng: random.Random, data: bytes) -> bytes:
    """Entries of the directory, or a directory of nothing but large ones."""
    at = int.from_bytes(data[4:8], "little")
    (count,) = struct.unpack_from("<H", data, at) if at + 2 <= len(data) else (0,)
    out = bytearray(data)
    if rng.random() < 0.2:
        length = rng.choice((10, 5000))
        tags = b"".join(struct.pack("<HHII", tag, 7, len(data) + 12 * length, 0) for tag in range(700, 700 + length))
        return b"II*\0" + struct.pack("<I", len(data)) + data[8:] + struct.pack("<H", length) + tags + bytes(4)
    for _ in range(rng.choice((1, 2))):
        entry = at + 2 + 12 * rng.randrange(max(1, count))
        if entry + 12 <= len(out):
            form, where = rng.choice((("<H", 0), ("<H", 2), ("<I", 4), ("<I", 8), ("<H", 8)))
            value = rng.choice((*EXTREMES, 256, 257, 258, 259, 273, 274, 277, 278, 322, 338, at, len(data)))
            struct.pack_into(form, out, entry + where, value % 256 ** struct.calcsize(form))
    return bytes(out)


def gif(rng: random.Random, data: bytes) -> bytes:
    """A canvas that is larger than its frames, and many of those."""
    size = struct.pack("<HH", *rng.choices((0, 1, 500, 20_000, 65535), k=2))
    return data[:6] + size + data[10:-1] + data[13:-1] * rng.choice((0, 1, 50)) + data[-1:]


def webp(rng: random.Random, data: bytes) -> bytes:
    """A canvas of another size than the frame."""
    size = b"".join(struct.pack("<I", rng.choice((0, 5, 16_000, 2**24 - 1)))[:3] for _ in "wh")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([rng.choice((0, 2, 0x3E)), 0, 0, 0]) + size
    return data[:4] + struct.pack("<I", len(data) - 8 + len(extended)) + b"WEBP" + extended + data[12:]


def ico(rng: random.Random, data: bytes) -> bytes:
    """An icon of 16 x 16 pixels that is an image of any size, or many of them."""
    inner = rng.choice((png(rng, valid(rng, "PNG")), valid(rng, "BMP")[14:], bmp(rng, valid(rng, "BMP"))[14:]))
    count = rng.choice((1, 1, 3, 5000))
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 6 + 16 * count)
    return b"\0\0\1\0" + struct.pack("<H", count) + entry * count + inner


def bmp(rng: random.Random, data: bytes) -> bytes:
    """Sides, depth, compression and number of colours."""
    out = bytearray(data)
    form, at = rng.choice((("<i", 18), ("<i", 22), ("<H", 28), ("<I", 30), ("<I", 46), ("<I", 10), ("<I", 14)))
    value = rng.choice((0, 1, 2, 3, 4, 8, 16, 24, 32, 40, 124, -5, 30_000, 2**31 - 1, -(2**31)))
    if len(out) < 60:
        return data
    struct.pack_into(form, out, at, value % 256**2 if form == "<H" else value % 2**32 if form == "<I" else value)
    return bytes(out)


def jp2(rng: random.Random, data: bytes) -> bytes:
    """What the box says of the size, or the stream itself."""
    at = data.find(rng.choice((b"ihdr", b"\xff\x51", b"colr", b"\xff\x52")))
    if at < 0:
        return data
    place = at + 4 + 4 * rng.randrange(9) + rng.choice((0, 2))
    return data[:place] + struct.pack(">I", rng.choice(EXTREMES)) + data[place + 4 :]


def ppm(rng: random.Random, data: bytes) -> bytes:
    """Sides, the largest value, and plain text."""
    sides = rng.choices((0, 1, 3, 70_000, 10**9, -1), k=2)
    top = rng.choice((1, 200, 255, 256, 65535, 65536, 0))
    head = f"{rng.choice(('P1', 'P2', 'P3', 'P4', 'P5', 'P6', 'Pf', 'P7'))} {sides[0]} {sides[1]} {top}\n"
    return head.encode() + rng.choice((data[10:], b"1 0 " * 50, b"#" * 50, b"\n" * 50, b"1" * 50))


def avif(rng: random.Random, data: bytes) -> bytes:
    """Boxes that say something else: sizes, turns, the type of an item."""
    at = data.find(rng.choice((b"ispe", b"irot", b"iloc", b"iinf", b"infe", b"Exif", b"av1C", b"ftyp", b"meta")))
    place = max(0, at + rng.choice((-4, 4, 8, 12, 14)))
    return data[:place] + struct.pack(">I", rng.choice(EXTREMES)) + data[place + 4 :]


HOSTILE = {
    "PNG": png,
    "JPEG": jpeg,
    "TIFF": tiff,
    "GIF": gif,
    "WEBP": webp,
    "ICO": ico,
    "BMP": bmp,
    "JPEG2000": jp2,
    "PPM": ppm,
    "AVIF": avif,
}

"""Image files from outside: what is read of them, how large they may be, and that one that is bad is one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slow import by_default

from concept_cam import decoding, drawing, images, regions, world
from concept_cam.datasets.files import size_of
from concept_cam.datasets.masks import of_levels
from concept_cam.errors import DatasetError, ImageError
from concept_cam.evidence import EvidenceMap
from concept_cam.formats import FORMATS, SUFFIXES
from concept_cam.images import Placement, read_image, read_levels
from concept_cam.regions import bounding_boxes
from concept_cam.result import Localization

UPRIGHT = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 250, 250], [90, 90, 90]]], np.uint8)
"""Two rows of three pixels, each of its own colour."""

STORED = {
    1: [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (1, 2)]],
    2: [[(0, 2), (0, 1), (0, 0)], [(1, 2), (1, 1), (1, 0)]],
    3: [[(1, 2), (1, 1), (1, 0)], [(0, 2), (0, 1), (0, 0)]],
    4: [[(1, 0), (1, 1), (1, 2)], [(0, 0), (0, 1), (0, 2)]],
    5: [[(0, 0), (1, 0)], [(0, 1), (1, 1)], [(0, 2), (1, 2)]],
    6: [[(0, 2), (1, 2)], [(0, 1), (1, 1)], [(0, 0), (1, 0)]],
    7: [[(1, 2), (0, 2)], [(1, 1), (0, 1)], [(1, 0), (0, 0)]],
    8: [[(1, 0), (0, 0)], [(1, 1), (0, 1)], [(1, 2), (0, 2)]],
}
"""Which pixel of the upright image is stored where, by hand, for each orientation (EXIF 2.3, 4.6.4 A)."""

WRITERS = {
    "PNG": {},
    "TIFF": {"compression": "raw"},
    "TIFF, packed": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def stored(orientation: int, scale: int = 1) -> Image.Image:
    pixels = np.array([[UPRIGHT[place] for place in row] for row in STORED[orientation]], np.uint8)
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))


def written(image: Image.Image, name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, name.partition(",")[0], **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[274] = orientation
    return block


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("orientation", STORED)
def test_each_orientation_in_each_format(tmp_path, orientation, name):
    scale = 16 if name in ("JPEG", "AVIF") else 1
    data = written(stored(orientation, scale), name, exif=exif(orientation), **WRITERS[name])
    for read in (read_image(data), read_image(Image.open(io.BytesIO(data)))):
        seen = np.asarray(read)[scale // 2 :: scale, scale // 2 :: scale].astype(int)
        assert np.abs(seen - UPRIGHT).max() <= (12 if scale > 1 else 0)
    (tmp_path / "photo").write_bytes(data)
    assert size_of(tmp_path / "photo") == (2 * scale, 3 * scale)


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_mask_lies_as_its_image_does(tmp_path, orientation, name):
    levels = np.array([[row * 3 + column for row, column in line] for line in STORED[orientation]], np.uint8)
    (tmp_path / "mask.png").write_bytes(written(Image.fromarray(levels), name, exif=exif(orientation)))
    assert read_levels(tmp_path / "mask.png").tolist() == [[0, 1, 2], [3, 4, 5]]
    fours = of_levels(tmp_path / "mask.png", tmp_path / "mask.png", lambda found: found == 4)
    assert fours().tolist() == [[False] * 3, [False, True, False]]


def damaged_blocks() -> dict[str, bytes]:
    whole = exif(6).tobytes()
    entry = struct.pack(">HHII", 0x0112, 3, 1, 6 << 16)
    far = struct.pack(">HHII", 0x010F, 2, 2**31, 2**31)
    sub = struct.pack(">HHII", 0x8769, 4, 1, 2**32 - 1)
    head = b"Exif\0\0MM\0*\0\0\0\x08"
    return {
        "cut": whole[:20],
        "nothing": b"Exif\0\0",
        "no order of bytes": b"Exif\0\0XX" + whole[8:],
        "a directory that is not there": b"Exif\0\0MM\0*\xff\xff\xff\xff",
        "more entries than there are": head + b"\xff\xff" + far,
        "an orientation of text": head + b"\0\1" + struct.pack(">HHII", 0x0112, 2, 4, 0x41414141) + bytes(4),
        "an orientation out of range": head + b"\0\1" + struct.pack(">HHII", 0x0112, 3, 1, 9 << 16) + bytes(4),
        "a part that leads nowhere, upright": head + b"\0\1" + sub + bytes(4),
        "a good orientation in bad company": head + b"\0\3" + far + entry + sub + bytes(4),
    }


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("block", damaged_blocks())
def test_a_damaged_exif_block_does_not_matter(tmp_path, block, name):
    image = Image.new("RGB", (30, 20), (200, 30, 40))
    # Pillow writes no damaged block, and so a good one is written and changed.
    bad, good = damaged_blocks()[block][6:], exif(1)
    good[271] = "maker" * 20
    whole = written(image, name, exif=good)
    start = whole.find(b"MM\0*")
    length = whole.find(b"makermaker") + 100 - start
    data = whole[:start] + bad.ljust(length, b"\0") + whole[start + length :]
    if name == "PNG":
        kind = data.find(b"eXIf")
        end = kind + 4 + int.from_bytes(data[kind - 4 : kind], "big")
        data = data[:end] + struct.pack(">I", zlib.crc32(data[kind:end])) + data[end + 4 :]
    assert start > 0
    turned = "good orientation" in block and name != "AVIF"  # there, the container says how it lies
    read = read_image(data)
    assert read.size == ((20, 30) if turned else (30, 20))
    assert np.abs(np.asarray(read).astype(int) - (200, 30, 40)).max() <= 12
    (tmp_path / "photo").write_bytes(data)
    assert size_of(tmp_path / "photo") == (read.height, read.width)


def test_a_tiff_with_damaged_tags_is_read_as_it_lies():
    """Pillow's own turn writes the tags anew, and these cannot be."""
    data = tiff((274, 3, 1, 6), (0x8769, 4, 1, 2**32 - 1), (0x010F, 5, 1, 8), content=bytes([10, 20, 30, 40, 0, 0, 0, 0]))
    assert np.asarray(read_image(data))[:, :, 0].tolist() == [[30, 10], [40, 20]]
    assert read_levels(data).tolist() == [[30, 10], [40, 20]]


def test_what_comes_after_the_pixels_is_not_read():
    whole = written(Image.new("RGB", (5, 4), (1, 2, 3)), "PNG")
    junk = struct.pack(">I", 2**31 - 1) + b"zTXt" + bytes(50)
    assert read_image(whole[:-12] + junk).getpixel((4, 3)) == (1, 2, 3)


def test_metadata_goes_but_for_a_colour_profile_of_sensible_size():
    for length, kept in ((3000, True), (2_000_000, False)):
        profile = bytes(length)
        data = written(Image.new("RGB", (4, 4)), "TIFF", icc_profile=profile, exif=exif(1))
        assert read_image(data).info == ({"icc_profile": profile} if kept else {})
    turned = read_image(written(stored(6), "PNG", exif=exif(6)))
    assert read_image(turned).size == turned.size == (3, 2)


# ---- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_what_is_in_it_and_not_what_it_is_called(tmp_path, name):
    image = Image.new("RGB", (32, 32), (60, 120, 180))
    for suffix in (".jpg", ".eps", ""):
        path = tmp_path / f"photo{suffix}"
        path.write_bytes(written(image, name))
        assert read_image(path).size == (32, 32)
        assert np.abs(np.asarray(read_image(path)).astype(int) - (60, 120, 180)).max() <= 6


def test_endings_are_those_of_the_formats():
    """As Pillow registers them; no ending of another format is among them."""
    Image.init()
    assert {Image.registered_extensions()[suffix] for suffix in SUFFIXES} == set(FORMATS)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
def test_eps_starts_no_program(tmp_path, monkeypatch, suffix):
    """Pillow hands EPS to Ghostscript, which is found on the PATH."""
    for name in ("gs", "gswin64c", "gswin32c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(written(Image.new("RGB", (9, 9)), "EPS"))
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: started.append(args))
    for read in (read_image, size_of, read_levels, lambda file: of_levels(file, file)()):
        with pytest.raises((ImageError, DatasetError), match="not an image in a known format"):
            read(path)
    assert not started
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["TGA", "PCX", "SGI", "DDS", "ICNS", "MSP", "PDF", "XBM", "SPIDER", "BLP", "QOI"])
def test_other_formats_are_refused(tmp_path, name):
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F", "BLP": "P"}.get(name, "RGB")
    image = Image.new(mode, (16, 16))
    try:
        data = written(image, name)
    except (KeyError, OSError):
        pytest.skip("this Pillow does not write it")
    with pytest.raises(ImageError, match=r"photo: the image cannot be read.*JPEG, PNG"):
        read_image(data, "photo")


def test_the_first_of_several_images_is_read():
    first, second = Image.new("RGB", (8, 6), (200, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 200))
    for name in ("GIF", "PNG", "TIFF", "WEBP", "AVIF", "MPO"):
        read = read_image(written(first, name, save_all=True, append_images=[second]))
        assert read.getpixel((3, 3))[0] > 150, name


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is no file"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(DatasetError, match="does not exist"):
        size_of(tmp_path / "none.png")


# ---- limits -----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, colour: int = 2, content: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int], content: bytes = b"") -> bytes:
    """A file of grey pixels; of a tag that is given twice, the last is written."""
    base = [(256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 2)]
    found = sorted({tag[0]: tag for tag in (*base, (279, 4, 1, 4), *tags)}.values())
    body = b"".join(struct.pack("<HHII", *tag) for tag in found)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + struct.pack("<H", len(found)) + body + bytes(4)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def icon(inner: bytes) -> bytes:
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


JPEG = written(Image.new("L", (20, 20)), "JPEG", progressive=True)
EXIF_BOMB = b"MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + struct.pack(">HHII", 1, 7, 60000, 0) * 5000

HOSTILE = {
    "a strip of a pixel": (png(1, 170_000_000), "at most 65535 on a side"),
    "a wide strip": (png(65_536, 1), "at most 65535 on a side"),
    "too many pixels": (png(60_000, 60_000), "make it smaller first"),
    "no side": (png(0, 5), "cannot be read"),
    "an icon that is a large image": (icon(png(60_000, 60_000)), "make it smaller first"),
    "an icon that is a large bitmap": (icon(bmp(50_000, 50_000)[14:]), "make it smaller first"),
    "a bitmap": (bmp(50_000, 50_000), "make it smaller first"),
    "a TIFF image": (tiff((256, 4, 1, 50_000), (257, 4, 1, 50_000)), "make it smaller first"),
    "tiles larger than their image": (
        tiff((322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 8), (259, 3, 1, 8), content=zlib.compress(bytes(99))),
        "take 10,800 MB to read",
    ),
    "strips by the million": (tiff((273, 4, 1_000_000, 8), content=bytes(4_000_000)), "1,000,000 values in tag 273"),
    "a canvas of GIF": (
        b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(3) + b"," + bytes(9) + b"\2\0;",
        "make it smaller",
    ),
    "numbers of PPM": (b"P6 50000 50000 255\n", "make it smaller first"),
    "plain numbers of PPM": (b"P3 10000 10000 255\n", "MB to read"),
    "scans without end": (JPEG[:-2] + JPEG[JPEG.rfind(b"\xff\xda") : -2] * 600 + JPEG[-2:], "more than 500 scans"),
    "a header without end": (png(1, 1)[:33] + chunk(b"abcd", bytes(140_000_000)), "before the first pixel"),
    "a comment that is a bomb": (
        png(1, 1)[:33] + chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(100_000_000), 1)) + png(1, 1)[33:],
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_asks_for_too_much_is_refused_before_it_is_given(tmp_path, case):
    data, words = HOSTILE[case]
    (tmp_path / "hostile").write_bytes(data)
    begin = time.perf_counter()
    for read in (read_image, lambda file: of_levels(file, file)()):
        with pytest.raises((ImageError, DatasetError), match=f"hostile: .*{words}"):
            read(tmp_path / "hostile")
    assert time.perf_counter() - begin < 20


def test_exif_blocks_that_are_bombs_are_not_unfolded():
    segment = b"\xff\xe1" + struct.pack(">H", len(EXIF_BOMB) + 8) + b"Exif\0\0" + EXIF_BOMB
    begin = time.perf_counter()
    assert read_image(JPEG[:2] + segment * 300 + JPEG[2:]).size == (20, 20)
    assert time.perf_counter() - begin < 10


MEASURE = """
import sys
from concept_cam import drawing, world
from concept_cam.images import read_image
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
localizer = world.localizer()
localizer(world.draw_species("ember finch").image, "ember finch", "frost finch")
before = peak()
image = read_image(sys.argv[1])
if sys.argv[2] == "all":
    result = localizer(image, "ember finch", "frost finch")
    for made in (result.heatmap, result.mask, result.boxes):
        made()
    for draw in (drawing.overlay, drawing.side_by_side):
        draw(result, image)
print(before, peak())
"""


def peaks(path: Path, what: str) -> tuple[float, float]:
    """Megabytes of a process before and after it reads an image, or does all that is done with one."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell what a process holds")
    command = [sys.executable, "-c", MEASURE, str(path), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-500:]
    before, after = map(float, done.stdout.split())
    return before, after


@pytest.mark.slow
def test_16_bits_take_no_more_than_they_are(tmp_path):
    """100 million pixels of 16 bits in a file of 200 kB: 200 MB as they are stored, and 400 MB as RGB."""
    (tmp_path / "deep.png").write_bytes(png(10_000, 10_000, 16, 0, bytes(20_001) * 10_000))
    before, after = peaks(tmp_path / "deep.png", "read")
    assert after < before + 750
    assert after < 2048


@pytest.mark.full
@pytest.mark.parametrize("case", ["16 bits", "transparent", "a wide strip", "a tall strip", "a palette"])
def test_the_largest_images_stay_under_2_gb(tmp_path, case):
    """Of the whole way: read, localized, heat map, mask, boxes and drawings."""
    width, height, depth, colour, channels = {
        "16 bits": (11_100, 11_100, 16, 0, 2),
        "transparent": (11_100, 11_100, 8, 6, 4),
        "a wide strip": (65_535, 1_900, 8, 2, 3),
        "a tall strip": (1_900, 65_535, 8, 2, 3),
        "a palette": (11_100, 11_100, 8, 0, 1),
    }[case]
    path = tmp_path / "large.png"
    path.write_bytes(png(width, height, depth, colour, bytes(channels * width + 1) * height))
    _, after = peaks(path, "all")
    assert after < 2048


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    inside, most = 0, 0
    pixels = decoding.Stored.pixels

    def watched(self):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return pixels(self)

    monkeypatch.setattr(decoding.Stored, "pixels", watched)
    monkeypatch.setattr(decoding, "MAX_BYTES", 40_000)
    data = written(Image.new("L", (60, 50)), "PNG")
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(read_image, [data] * 8))
    assert [one.size for one in read] == [(60, 50)] * 8
    assert most == 1


# ---- what goes wrong --------------------------------------------------------------------------------------------------

RAISED = [
    *(RuntimeError, NotImplementedError, ValueError, SyntaxError, KeyError, IndexError, TypeError, AttributeError),
    *(EOFError, OSError, OverflowError, ZeroDivisionError, RecursionError, SystemError, struct.error, zlib.error),
    *(UnicodeError, AssertionError, Image.DecompressionBombError),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.__name__)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    path = tmp_path / "a\nphoto\x1b[31m.png"
    Image.new("L", (4, 4)).save(path)

    def load(self):
        raise error("first\nsecond\x1b[31m\x00" + "x" * 5000)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for read, kind in ((read_image, ImageError), (lambda file: of_levels(file, file)(), DatasetError)):
        with pytest.raises(kind, match="photo") as caught:
            read(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= 1000
    with Image.open(path) as image, pytest.raises(ImageError):
        read_image(image)


def test_a_lack_of_memory_is_not_the_image_s_fault(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_decoders_say_nothing_on_standard_error(capfd, compression):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
    image = Image.fromarray(noise)
    whole = written(image, "TIFF", compression=compression)
    capfd.readouterr()
    refused = 0
    for at in range(0, 300, 12):
        data = bytearray(whole)
        data[8 + at : 16 + at] = b"\xff\0\xff\0\xfe\1\x80\x90"
        try:
            read_image(bytes(data))
        except ImageError:
            refused += 1
    assert refused
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_warnings_of_pillow_are_silent_and_those_of_others_are_not(tmp_path):
    """In threads too: those that read leave the filters as they found them."""
    before = list(warnings.filters)
    told = []
    data = icon(written(Image.new("RGB", (40, 40)), "PNG"))  # Pillow warns of its size

    def read(_):
        assert read_image(data).size == (40, 40)
        with decoding.refusing("x"):
            try:
                warnings.warn("mine", stacklevel=1)
            except UserWarning:
                told.append(threading.get_ident())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(200)))
    assert len(told) == 200
    assert list(warnings.filters) == before


# ---- the whole way, on odd images -------------------------------------------------------------------------------------


ODD = ((1, 1), (1, 3000), (3000, 1), (65_535, 1), (1, 65_535), (7, 2))


@pytest.mark.parametrize("size", by_default(ODD, (1, 1), (3000, 1), (1, 65_535)))
@pytest.mark.parametrize("fit", by_default([None, "pad", "squash", "native"], None, "native"))
def test_odd_images_are_localized_and_drawn(size, fit):
    image = Image.new("RGB", size, (90, 140, 60))
    result = world.localizer(fit=fit)(image, "ember finch", "frost finch") if fit else None
    result = result or world.localizer()(image, "ember finch", "frost finch")
    assert result.heatmap().shape == (size[1], size[0])
    assert result.mask().shape == (size[1], size[0])
    assert drawing.overlay(result, image).size == size
    assert max(drawing.side_by_side(result, image).size) < 2000


def result_on(height: int, width: int, grid: torch.Tensor) -> Localization:
    result = world.localizer()(world.draw_species("ember finch").image, "ember finch", "frost finch")
    placement = Placement((width / 4, -2.0, 1.5 * width, height + 3.0), (height, width))
    evidence = EvidenceMap(grid, placement)
    return Localization(evidence, evidence, result.comparison, result.scores, result.provenance)


def test_strips_make_the_same_map_mask_boxes_and_drawing(monkeypatch):
    grid = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    result, image = result_on(83, 61, grid), Image.new("RGB", (61, 83), (10, 200, 90))
    whole, mask, boxes, drawn = result.heatmap(), result.mask(0.3), result.boxes(0.3), drawing.overlay(result, image)
    seen = whole.nan_to_num(nan=float("-inf"))
    assert torch.equal(mask, seen >= 0.3 * seen.max())
    assert boxes == bounding_boxes(mask, whole)
    assert len(boxes) > 1
    for pixels in (1, 61 * 7, 61 * 82):
        monkeypatch.setattr(images, "_STRIP", pixels)
        monkeypatch.setattr(regions, "_STRIP", pixels)
        strips = list(result.placement.strips(grid))
        assert len(strips) == -(-83 // max(1, pixels // 61))
        torch.testing.assert_close(torch.cat([strip for _, strip in strips]), whole, rtol=0, atol=1e-6, equal_nan=True)
        assert (result.mask(0.3) != mask).sum() == 0
        assert result.boxes(0.3) == boxes
        assert np.abs(np.asarray(drawing.overlay(result, image)).astype(int) - np.asarray(drawn)).max() <= 1

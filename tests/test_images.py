"""Images come out as a person sees them, frames as open_clip makes them, and maps at the right place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from concept_cam import decoding
from concept_cam.errors import ImageError
from concept_cam.images import Frame, Placement, Preprocess, read_image

RED, GREEN, BLUE, GREY = (200, 30, 40), (30, 160, 60), (40, 60, 190), (150, 150, 150)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def quarters() -> np.ndarray:
    """32 high, 48 wide; every corner its own colour, so that no turn or flip looks like another."""
    image = np.empty((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24], image[16:, 24:] = RED, GREEN, BLUE, GREY
    return image


def assert_quarters(image: Image.Image, tolerance: int = 0) -> None:
    assert image.mode == "RGB"
    assert image.size == (48, 32)
    seen = {place: image.getpixel(place) for place in ((6, 6), (42, 6), (6, 26), (42, 26))}
    for found, wanted in zip(seen.values(), (RED, GREEN, BLUE, GREY), strict=True):
        assert np.abs(np.subtract(found, wanted)).max() <= tolerance, seen


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng([width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# ---- reading ----------------------------------------------------------------------------------------------------------


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.fromarray(quarters()).convert("CMYK").save(path, quality=95)
    assert mode_of(path) == "CMYK"
    assert_quarters(read_image(path), tolerance=10)


def test_palette_png(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    Image.fromarray(quarters()).quantize(4).save(path)
    assert mode_of(path) == "P"
    assert_quarters(read_image(path), tolerance=2)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["one index", "an alpha for each index"])
def test_transparent_palette_lies_on_white(tmp_path: Path, as_bytes: bool) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    path = tmp_path / "palette.png"
    image.save(path, transparency=bytes([255, 0, 128]) if as_bytes else 1)
    read = read_image(path)
    assert read.getpixel((0, 0)) == RED
    assert read.getpixel((1, 0)) == (255, 255, 255)
    half = tuple(round((c * 128 + 255 * 127) / 255) for c in BLUE)
    assert np.abs(np.subtract(read.getpixel((2, 0)), half if as_bytes else BLUE)).max() <= 1


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "I;16"), (".tif", "I;16"), (".tif", "I;16B")])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, suffix: str, mode: str) -> None:
    levels = [0, 3, 128, 200, 255]
    values = 257 * np.array([levels], dtype=">u2" if mode == "I;16B" else "<u2")
    path = tmp_path / f"scan{suffix}"
    Image.frombytes(mode, (5, 1), values.tobytes()).save(path)
    assert mode_of(path) == mode
    read = read_image(path)
    assert [read.getpixel((x, 0)) for x in range(5)] == [(v, v, v) for v in levels]


def test_grey_with_alpha_lies_on_white(tmp_path: Path) -> None:
    path = tmp_path / "ink.png"
    image = Image.new("LA", (3, 1))
    image.putdata([(0, 0), (0, 255), (0, 128)])
    image.save(path)
    read = read_image(path)
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 0)) == (0, 0, 0)
    assert np.abs(np.subtract(read.getpixel((2, 0)), 127)).max() <= 1


# How the camera stored the upright image: which side the first row and the first column show (EXIF 2.3, 4.6.4 A).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright[:, ::-1].transpose(1, 0, 2),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: upright[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    stored.save(path, exif=exif, quality=95)
    assert_quarters(read_image(path), tolerance=10 if suffix == ".jpg" else 0)
    assert_quarters(read_image(str(path)), tolerance=10 if suffix == ".jpg" else 0)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    first, second = Image.new("RGB", (8, 6), RED), Image.new("RGB", (8, 6), BLUE)
    first.save(path, save_all=True, append_images=[second])
    with Image.open(path) as animation:
        assert animation.n_frames == 2
    assert np.unique(np.asarray(read_image(path)).reshape(-1, 3), axis=0).tolist() == [list(RED)]


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_slivers(tmp_path: Path, size: tuple[int, int]) -> None:
    ramp = np.repeat(np.linspace(0, 255, 5000).round().astype(np.uint8)[:, None], 3, axis=1)
    path = tmp_path / "sliver.png"
    Image.fromarray(ramp.reshape(size[1], size[0], 3)).save(path)
    read = read_image(path)
    assert read.size == size
    assert read.getpixel((size[0] - 1, size[1] - 1)) == (255, 255, 255)
    frame = Frame.of(read, Preprocess((96, 96), (0.0,) * 3, (1.0,) * 3))
    # The one pixel in the middle fills the whole input.
    middle = (0, 2499.5, 1, 2500.5) if size[0] == 1 else (2499.5, 0, 2500.5, 1)
    assert frame.placement.window == pytest.approx(middle, abs=0.01)
    assert ((frame.pixels * 255).round() - 127.5).abs().max() <= 1.5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "CMYK", "1", "I;16"])
def test_a_pil_image_is_left_as_it_is(mode: str) -> None:
    image = Image.fromarray(quarters())
    image = image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    image.getexif()[0x0112] = 6
    before = image.tobytes(), image.size, image.mode, dict(image.getexif())
    read = read_image(image)
    read.paste((1, 2, 3), (0, 0, *read.size))
    assert (image.tobytes(), image.size, image.mode, dict(image.getexif())) == before
    assert read.size == (32, 48)  # upright


def _bytes(image: Image.Image, path: Path) -> bytes:
    image.save(path)
    return path.read_bytes()


def _cut(suffix: str, part: float):
    def make(path: Path) -> None:
        whole = _bytes(noise(60, 50), path.with_name(f"whole{suffix}"))
        path.write_bytes(whole[: int(part * len(whole))])

    return make


BROKEN = {
    "missing": ("a.png", lambda path: None, "does not exist"),
    "folder": ("a.png", lambda path: path.mkdir(), "is a folder"),
    "empty": ("a.png", lambda path: path.touch(), "is empty"),
    "half a jpeg": ("a.jpg", _cut(".jpg", 0.5), "damaged"),
    "half a png": ("a.png", _cut(".png", 0.5), "damaged"),
    "half a gif": ("a.gif", _cut(".gif", 0.5), "damaged"),
    "half a webp": ("a.webp", _cut(".webp", 0.5), "damaged"),
    "head of a jpeg": ("a.jpg", _cut(".jpg", 0.01), "not an image|damaged"),
    "text": ("a.png", lambda path: path.write_text("hello\n" * 50), "not an image"),
    "floats": ("a.tif", lambda path: Image.new("F", (3, 3), 0.5).save(path), "floating-point"),
    "32 bits": ("a.tif", lambda path: Image.new("I", (3, 3), 70000).save(path), "8 or 16 bits"),
    "negative": ("a.tif", lambda path: Image.new("I", (3, 3), -1).save(path), "8 or 16 bits"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_named_in_one_line(tmp_path: Path, case: str) -> None:
    name, make, words = BROKEN[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("opened", [False, True], ids=["path", "PIL image"])
def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool) -> None:
    path = tmp_path / "large.png"
    noise(20, 11).save(path)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 220)
    assert read_image(path).size == (20, 11)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 219)
    with Image.open(path) as image, pytest.raises(ImageError, match="20 x 11 pixels") as caught:
        read_image(image if opened else path)
    assert opened or str(path) in str(caught.value)


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow refuses at twice its limit and warns at once; neither gets out."""
    path = tmp_path / "bomb.png"
    noise(20, 11).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    assert read_image(path).size == (20, 11)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match=r"bomb\.png.*smaller"):
        read_image(path)


def test_a_pil_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    """PIL decodes late: an image cut short opens without complaint."""
    path = tmp_path / "cut.png"
    _cut(".png", 0.5)(path)
    with Image.open(path) as image, pytest.raises(ImageError, match="damaged"):
        read_image(image)


@pytest.mark.parametrize("mode", ["RGB", "I"])
def test_a_image_without_pixels(mode: str) -> None:
    with pytest.raises(ImageError, match="pixels"):
        read_image(Image.new(mode, (0, 5)))


# ---- what the model sees ----------------------------------------------------------------------------------------------

SHAPES = [(1, 1), (3, 2), (28, 35), (30, 230), (230, 30), (45, 80), (97, 27), (126, 25), (96, 96), (333, 250), (1200, 900)]
"""Width and height. (28, 35) scales to exactly 120 rows of 96, where a rounding error loses one; tall and wide ones are
cropped far from a whole pixel."""


RESIZE_MODES = {"crop": "shortest", "pad": "longest", "squash": "squash"}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("size", [(96, 96), (40, 40), (32, 48), (48, 32)], ids=lambda s: f"input {s[0]}x{s[1]}")
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
def test_frame_is_open_clips_own(mode: str, interpolation: str, size: tuple[int, int], shape: tuple[int, int]) -> None:
    if mode == "crop" and size[0] != size[1] and interpolation == "bilinear":
        pytest.skip("open_clip ignores the interpolation here and takes bicubic")
    image = noise(*shape)
    transform = image_transform(
        size, is_train=False, mean=MEAN, std=STD, resize_mode=RESIZE_MODES[mode], interpolation=interpolation, fill_color=90
    )
    frame = Frame.of(image, Preprocess(size, MEAN, STD, mode, interpolation, fill=90))
    assert frame.placement.image_size == (shape[1], shape[0])
    # One grey level is 0.013 here.
    torch.testing.assert_close(frame.pixels, transform(image), rtol=0, atol=1e-5)


# ---- and back ---------------------------------------------------------------------------------------------------------

CELLS = [(0, 0), (0, 4), (1, 2), (1, 3), (2, 0), (2, 4)]
IMAGES = [(200, 120), (200, 90), (60, 200), (37, 29), (300, 80)]


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"cell {c[0]},{c[1]}")
@pytest.mark.parametrize("shape", IMAGES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
def test_a_spike_comes_out_at_its_place(mode: str, shape: tuple[int, int], cell: tuple[int, int]) -> None:
    """A light where the map says "here" is what the model sees in that very cell."""
    preprocess = Preprocess((24, 40), (0.0,) * 3, (1.0,) * 3, mode)
    placement = Frame.of(Image.new("RGB", shape), preprocess).placement
    spike = torch.zeros(3, 5)
    spike[cell] = 1
    heat = placement.project(spike)
    assert heat.shape == (shape[1], shape[0])
    x, y = placement.locate(*cell, (3, 5))
    if not (0 <= x < shape[0] and 0 <= y < shape[1]):
        # The cell's centre is padding: nothing of the image is nearer to it than the edge.
        assert mode == "pad"
        assert heat.nan_to_num(0).max() < 1
        return
    hottest = heat.nan_to_num(-1).max()
    left, top, right, bottom = placement.window
    half_width, half_height = (right - left) / 10, (bottom - top) / 6
    # Half a pixel off the centre at most, on slopes of one cell.
    assert heat[int(y), int(x)] >= hottest - 0.25 / half_width - 0.25 / half_height - 1e-6
    for row, column in (heat >= hottest - 1e-6).nonzero().tolist():
        assert abs(column + 0.5 - x) <= half_width + 0.5
        assert abs(row + 0.5 - y) <= half_height + 0.5
    lit = np.zeros((shape[1], shape[0], 3), np.uint8)
    reach_x, reach_y = max(1, round(half_width / 2)), max(1, round(half_height / 2))
    lit[max(0, int(y) - reach_y) : int(y) + reach_y, max(0, int(x) - reach_x) : int(x) + reach_x] = 255
    seen = Frame.of(Image.fromarray(lit), preprocess).pixels.mean(0).reshape(3, 8, 5, 8).mean((1, 3))
    assert divmod(int(seen.argmax()), 5) == cell


SEEN = {
    # (width, height), model input, mode: the columns and the rows seen, half-open, by hand.
    "wide": ((100, 40), (20, 20), "crop", (30, 70), (0, 40)),
    "tall": ((40, 100), (20, 20), "crop", (0, 40), (30, 70)),
    "exact": ((40, 40), (20, 20), "crop", (0, 40), (0, 40)),
    "half to even": ((45, 30), (10, 10), "crop", (6, 36), (0, 30)),  # 15 - 10 = 5 columns, 2 of them on the left
    "parts of pixels": ((25, 10), (4, 4), "crop", (7, 18), (0, 10)),  # 7.5 to 17.5
    "a sliver": ((1, 5000), (96, 96), "crop", (0, 1), (2499, 2501)),
    "not square": ((100, 40), (20, 40), "crop", (10, 90), (0, 40)),
    "a whole pixel, nearly": ((495, 100), (96, 96), "crop", (198, 299), (0, 100)),  # 190 * 495 / 475 is 198
    "padded, wide": ((100, 40), (20, 20), "pad", (0, 100), (0, 40)),
    "padded, tall": ((40, 100), (20, 20), "pad", (0, 40), (0, 100)),
    "squashed": ((100, 40), (20, 20), "squash", (0, 100), (0, 40)),
}


@pytest.mark.parametrize("case", SEEN)
def test_nan_exactly_where_not_seen_and_constant_elsewhere(case: str) -> None:
    (width, height), size, mode, columns, rows = SEEN[case]
    placement = Frame.of(Image.new("RGB", (width, height)), Preprocess(size, MEAN, STD, mode)).placement
    heat = placement.project(torch.full((3, 5), 0.37))
    expected = torch.full((height, width), float("nan"))
    expected[slice(*rows), slice(*columns)] = 0.37
    torch.testing.assert_close(heat, expected, equal_nan=True, rtol=0, atol=1e-6)


def test_what_is_not_seen_does_not_matter_and_what_is_seen_does() -> None:
    """The window against the pixels: recolouring a pixel of the image changes the input if and only if it is in it."""
    image = np.full((10, 26, 3), 100, np.uint8)
    preprocess = Preprocess((10, 10), (0.0,) * 3, (1.0,) * 3)
    plain = Frame.of(Image.fromarray(image), preprocess)
    seen = ~plain.placement.project(torch.ones(2, 2)).isnan()
    for column in range(26):
        changed = image.copy()
        changed[:, column] = 255
        moved = not torch.equal(Frame.of(Image.fromarray(changed), preprocess).pixels, plain.pixels)
        assert moved == bool(seen[0, column]), column


def test_bilinear_by_hand() -> None:
    """Two cells on eight pixels: centres at 2 and 6, a straight line between, level outside."""
    placement = Placement((0.0, 0.0, 8.0, 1.0), (1, 8))
    line = placement.project(torch.tensor([[0.0, 1.0]]))[0]
    assert line.tolist() == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    upright = Placement((0.0, 0.0, 1.0, 8.0), (8, 1)).project(torch.tensor([[0.0], [1.0]]))[:, 0]
    assert upright.tolist() == line.tolist()
    # The same two cells on a window that hangs over the left edge by half: centres at 0 and 4.
    shifted = Placement((-2.0, 0.0, 6.0, 1.0), (1, 8)).project(torch.tensor([[0.0, 1.0]]))[0]
    assert shifted[:6].tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875, 1, 1])
    assert shifted[6:].isnan().all()


def test_signs_and_sizes_survive() -> None:
    grid = torch.tensor([[-2.0, 5.0], [0.5, -7.0]])
    heat = Placement((0.0, 0.0, 2.0, 2.0), (2, 2)).project(grid)
    assert torch.equal(heat, grid)


def test_locate_by_hand() -> None:
    placement = Placement((10.0, -6.0, 60.0, 24.0), (30, 100))
    assert placement.locate(0, 0, (3, 5)) == pytest.approx((15, -1))
    assert placement.locate(2, 4, (3, 5)) == pytest.approx((55, 19))

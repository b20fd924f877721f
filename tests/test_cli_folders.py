"""Which images a command line means, what their results are called, and that what lies there in bad order is told."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from PIL import Image

from concept_cam.cli.folders import sources
from concept_cam.cli.images import size_of
from concept_cam.errors import ImageError, OptionError
from concept_cam.writers.names import names_of
from concept_cam.writers.run import state_of


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make files and folders here; what ends in a slash is a folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = Path(name)
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(b"x")

    return make


def found(*given, but=None):
    return [path.as_posix() for path in sources([Path(one) for one in given], but=but)]


def test_a_folder_of_species_stands_for_all_that_is_below(tree, capsys):
    tree("mine/b/2.png", "mine/a/1.JPG", "mine/a/deep/er/3.png", "mine/.hidden/4.png", "mine/c/.5.png", "mine/c/")
    assert found("mine") == ["mine/a/1.JPG", "mine/a/deep/er/3.png", "mine/b/2.png"]
    assert capsys.readouterr().err == ""


def test_a_folder_with_images_stands_for_those(tree, capsys):
    tree("mine/1.png", "mine/other/2.png")
    assert found("mine") == ["mine/1.png"]
    assert capsys.readouterr().err == (
        "concept-cam: mine: 1 entry (other) skipped: folders beside images, or what is no file.\n"
    )


def test_the_folder_of_the_results_is_not_looked_into(tree, capsys):
    tree("mine/a/1.png", "mine/out/1-overlay.png", "flat/1.png", "flat/out/1-overlay.png")
    assert found("mine", but=Path("mine/out")) == ["mine/a/1.png"]
    assert found("flat", but=Path("flat/../flat/out")) == ["flat/1.png"]
    assert capsys.readouterr().err == ""


def test_what_is_skipped_because_of_its_ending_is_counted_and_named(tree, capsys):
    tree("mine/1.png", *(f"mine/{k}.xcf" for k in range(7)), "mine/a\x1b[31m\n.txt")
    assert found("mine") == ["mine/1.png"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("concept-cam: mine: 8 files (0.xcf, 1.xcf, 2.xcf, 3.xcf, 4.xcf, ...) skipped because of the ending")
    (Path("mine") / "1.png").unlink()
    with pytest.raises(ImageError, match=r"mine: no images in this folder; 8 files \(0\.xcf") as raised:
        found("mine")
    assert str(raised.value).isprintable()
    tree("empty/")
    with pytest.raises(ImageError, match=r"empty: no images in this folder; looked for \.avif, \.bmp, \.gif"):
        found("empty")


def test_links_that_lead_in_a_circle(tree, capsys):
    tree("mine/a/1.png", "elsewhere/2.png")
    Path("mine/a/up").symlink_to(Path("mine").absolute())
    Path("mine/loop").symlink_to("loop")
    Path("mine/ring.png").symlink_to("ring.png")
    Path("mine/gone.png").symlink_to("nowhere.png")
    Path("mine/linked").symlink_to(Path("elsewhere").absolute())
    Path("mine/again").symlink_to(Path("elsewhere").absolute())
    assert found("mine") == ["mine/a/1.png", "mine/again/2.png"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 file (loop) skipped because of the ending" in line
    assert "2 entries (gone.png, ring.png) skipped" in line


def test_pipes_and_devices_are_no_images(tree, capsys):
    tree("mine/1.png")
    os.mkfifo("mine/pipe.png")
    Path("mine/zero.png").symlink_to("/dev/zero")
    assert found("mine") == ["mine/1.png"]
    assert "2 entries (pipe.png, zero.png) skipped" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="who may do everything may read every folder")
def test_folders_that_may_not_be_read(tree, capsys):
    tree("mine/a/1.png", "mine/b/2.png")
    Path("mine/b").chmod(0)
    assert found("mine") == ["mine/a/1.png"]
    assert "what cannot be read is skipped: mine/b: Permission denied" in capsys.readouterr().err
    Path("mine").chmod(0)
    with pytest.raises(ImageError, match="mine: the folder cannot be read"):
        found("mine")


def test_a_folder_that_cannot_be_listed(tree, capsys, monkeypatch):
    tree("mine/a/1.png", "mine/b/2.png")
    real = os.listdir
    refuse = {"mine/b"}

    def listdir(folder):
        if str(folder) in refuse:
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    assert found("mine") == ["mine/a/1.png"]
    assert "what cannot be read is skipped: mine/b: Permission denied" in capsys.readouterr().err
    refuse.add("mine")
    with pytest.raises(ImageError, match=r"mine: the folder cannot be read \(mine: Permission denied\)"):
        found("mine")


def test_a_deep_tree_comes_to_an_end(tree):
    deep = Path("mine")
    for _ in range(300):
        deep /= "d"
    tree(f"{deep}/1.png")
    assert found("mine") == [f"{deep}/1.png"]
    shutil.rmtree("mine")


def test_each_image_once(tree):
    tree("mine/1.png", "mine/2.png")
    here = Path.cwd()
    assert found("mine/2.png", "mine", here / "mine" / "1.png", "./mine/2.png") == ["mine/2.png", "mine/1.png"]


# ---- names ------------------------------------------------------------------------------------------------------------


def test_names_are_stems_with_numbers():
    paths = [Path(name) for name in ("one/a.png", "two/a.jpg", "a-2.png", "A.png", "three/a.png", "b.png", "a-2.gif")]
    assert list(names_of(paths).values()) == ["a", "a-2", "a-2-2", "A-3", "a-4", "b", "a-2-3"]
    assert list(names_of([Path("x/e\u0301.png"), Path("y/\u00e9.png")]).values()) == ["e\u0301", "\u00e9-2"]


def test_no_two_names_are_one():
    rng = random.Random(0)
    stems = ["a", "A", "a-2", "a-3", "a-2-2", "b", "x" * 240, "x" * 239 + "y", "é" * 120, "E\u0301" * 80]
    paths = [Path(f"{k}/{rng.choice(stems)}.png") for k in range(500)]
    names = list(names_of(paths).values())
    assert len({name.casefold() for name in names}) == len(paths)
    assert max(len(os.fsencode(name)) for name in names) < 220


@pytest.mark.parametrize("letter", ["x", "é", "鳥", "🐦", "\udcff"], ids=ascii)
def test_a_long_name_is_shortened_alike_each_time(tmp_path, letter):
    stem = letter * (250 // len(os.fsencode(letter)))
    (first,), (second,) = (names_of([Path(f"{folder}/{stem}.png")]).values() for folder in ("a", "b"))
    assert first == second
    assert first.startswith(letter * 10)
    assert len(os.fsencode(first)) <= 200
    (tmp_path / f"{first}-references.png").write_bytes(b"")
    (other,) = names_of([Path(f"{stem[:-1]}.png")]).values()
    assert other != first
    short = letter * (200 // len(os.fsencode(letter)))
    assert list(names_of([Path(f"{short}.png")]).values()) == [short]


# ---- sizes, and files that change -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "size"), [(None, None), ("336", 336), ("336x504", (336, 504)), ("1X16384", (1, 16384))])
def test_sizes(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0x5",
        "5x0",
        "16385",
        "1000000",
        pytest.param("9" * 5000, id="many digits"),
        "-1",
        "1x2x3",
        "x",
        "1x",
        "٣",
        "1.5",
        " 1",
    ],
)
def test_sizes_that_no_input_has(text):
    with pytest.raises(OptionError, match=r"expected a side in pixels such as 336, .* from 1 to 16384 each"):
        size_of(text)


@pytest.mark.parametrize("change", ["written", "replaced", "same size, old date", "gone", "a folder"])
def test_a_image_that_was_changed_is_not_taken_for_itself(tmp_path, change):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    seen = state_of(path)
    assert seen == state_of(path) is not None
    before = path.stat()
    if change == "replaced":
        Image.new("RGB", (4, 4), "blue").save(tmp_path / "b.png")
        (tmp_path / "b.png").replace(path)
    elif change in ("gone", "a folder"):
        path.unlink()
        if change == "a folder":
            path.mkdir()
    else:
        Image.new("RGB", (4, 4), "blue" if change == "written" else "lime").save(path)
    if change == "same size, old date":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert state_of(path) != seen

"""A Localization built by hand: masks, boxes and files; and files that are whole or not there."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import save_file

from concept_cam import world
from concept_cam.comparison import Comparison
from concept_cam.concepts import ConceptBank
from concept_cam.drawing import overlay
from concept_cam.errors import OptionError, OutputError
from concept_cam.evidence import EvidenceMap
from concept_cam.files import write_file
from concept_cam.images import Placement
from concept_cam.localizer import Localizer
from concept_cam.result import Localization

COMPARISON = Comparison("ember finch", ("frost finch", "reed"), (0.25, 0.75), (0.9, 0.7), 0.6)
PROVENANCE = {"model": "by hand", "templates": ["a {}", "{}"], "versions": {"torch": "2"}}
PIXEL_FOR_CELL = Placement((0.0, 0.0, 5.0, 3.0), (3, 5))
"""The grid lies on the pixels: a heatmap is its map, to the bit."""


def localization(cells: torch.Tensor, placement: Placement = PIXEL_FOR_CELL, base: torch.Tensor | None = None) -> Localization:
    scores = {"ember finch": 0.3, "frost finch": 0.2, "reed": -0.1}
    own = cells.flip(0) if base is None else base
    return Localization(EvidenceMap(cells, placement), EvidenceMap(own, placement), COMPARISON, scores, PROVENANCE)


def grid(**values: float) -> torch.Tensor:
    """Zeros, 3 x 5, but for ``r1c2=...``."""
    cells = torch.zeros(3, 5)
    for place, value in values.items():
        cells[int(place[1]), int(place[3])] = value
    return cells


# ---- what is shown, and where it lies ---------------------------------------------------------------------------------


def test_a_result_is_one_line() -> None:
    shown = repr(localization(grid(r1c2=2)))
    assert (
        shown
        == "<Localization: ember finch against frost finch, reed (strength 0.6), 3 x 5 map of a 5 x 3 image, peak at (2, 2)>"
    )
    odd = replace(COMPARISON, target="two\nlines \x1b[31m" + "x" * 5000)
    shown = repr(replace(localization(grid(r1c2=2)), comparison=odd))
    assert shown.isprintable()
    assert len(shown) <= 1000


def test_a_notebook_shows_the_map_on_its_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (500, 300), (30, 60, 200))
    placement = Placement((0.0, 0.0, 500.0, 300.0), (300, 500))
    result = localization(grid(r1c2=2), placement)
    assert result._repr_png_() is None
    shown = Image.open(io.BytesIO(replace(result, image=image)._repr_png_() or b""))
    assert ImageChops.difference(shown, overlay(result, image, legend=True)).getbbox() is None
    file = tmp_path / "image.png"
    image.save(file)
    of_file = replace(result, image=file)
    assert Image.open(io.BytesIO(of_file._repr_png_() or b"")).size == shown.size
    image.resize((50, 30)).save(file)
    assert of_file._repr_png_() is None  # another image by now
    file.unlink()
    assert of_file._repr_png_() is None
    large = Image.new("RGB", (4000, 2400))
    of_large = replace(localization(grid(r1c2=2), Placement((0.0, 0.0, 4000.0, 2400.0), (2400, 4000))), image=large)
    assert Image.open(io.BytesIO(of_large._repr_png_() or b"")).width == 640


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    return world.localizer()


def test_a_result_knows_the_image_that_was_given(localizer: Localizer, tmp_path: Path) -> None:
    plate, file = world.draw_species("ember finch", seed=3, size=96).image, tmp_path / "finch.png"
    plate.save(file)
    pixels = localizer.frame(plate).pixels
    for given, kept in ((file, file), (str(file), str(file)), (plate, plate), (pixels, None)):
        result = localizer(given, "ember finch", "frost finch")
        assert result.image is kept
        assert (result._repr_png_() is None) is (kept is None)
    ((_, streamed),) = localizer.stream([file], "ember finch", "frost finch")
    assert streamed.image == file
    assert Localization.load(streamed.save(tmp_path / "saved.safetensors")).image is None


def test_maps_go_to_a_device(localizer: Localizer) -> None:
    result = localization(grid(r1c2=2))
    there = result.to("meta")
    assert {there.map.device.type, there.base_map.device.type} == {"meta"}
    assert (there.comparison, there.placement, there.scores) == (result.comparison, result.placement, result.scores)
    assert "peak" not in repr(there)
    assert torch.equal(result.to(torch.device("cpu")).map, result.map)
    (field,) = localizer.fields([world.draw_species("ember finch", seed=3, size=96).image])
    assert {one.device.type for one in (field.to("meta").vectors, field.to("meta").embedding)} == {"meta"}
    bank = ConceptBank(("a", "b"), torch.eye(2), torch.ones(2)).to("meta")
    assert bank.biases is not None
    assert {bank.vectors.device.type, bank.biases.device.type} == {"meta"}


# ---- heat, masks, boxes -----------------------------------------------------------------------------------------------


def test_heatmap_is_the_signed_map() -> None:
    cells = torch.linspace(-2, 3, 15).reshape(3, 5)
    result = localization(cells)
    assert torch.equal(result.heatmap(), cells)
    assert torch.equal(result.heatmap(base=True), cells.flip(0))
    part = localization(cells, Placement((1.0, 0.0, 6.0, 3.0), (3, 7))).heatmap()
    assert part[:, [0, 6]].isnan().all()
    assert torch.equal(part[:, 1:6], cells)


@pytest.mark.parametrize(
    ("threshold", "inside"),
    [
        (1, {(1, 2)}),
        (0.5, {(1, 2), (0, 0)}),
        (0.500001, {(1, 2)}),
        (0.25, {(1, 2), (0, 0), (2, 4)}),
        (1e-9, {(1, 2), (0, 0), (2, 4)}),
    ],
)
def test_mask_holds_at_least_the_threshold(threshold: float, inside: set[tuple[int, int]]) -> None:
    """At the threshold is in; below it, zero and negative are out."""
    mask = localization(grid(r1c2=4, r0c0=2, r2c4=1, r0c4=-9)).mask(threshold)
    assert mask.dtype == torch.bool
    assert set(map(tuple, mask.nonzero().tolist())) == inside


@pytest.mark.parametrize("cells", [-torch.ones(3, 5), torch.zeros(3, 5), -torch.arange(15.0).reshape(3, 5)])
@pytest.mark.parametrize("threshold", [1e-9, 0.5, 1])
def test_nothing_speaks_for_the_target(cells: torch.Tensor, threshold: float) -> None:
    result = localization(cells)
    assert not result.mask(threshold).any()
    assert result.boxes(threshold) == ()


def test_what_was_not_seen_is_in_no_mask() -> None:
    result = localization(torch.ones(3, 5), Placement((1.0, 0.0, 6.0, 3.0), (3, 7)))
    assert result.mask(0.5).tolist() == [[False, *[True] * 5, False]] * 3
    assert result.boxes(0.5) == ((1, 0, 6, 3),)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.0001, float("nan"), float("inf")])
def test_thresholds_that_mean_nothing(threshold: float) -> None:
    result = localization(grid(r1c2=1))
    with pytest.raises(OptionError, match="threshold is"):
        result.mask(threshold)
    with pytest.raises(OptionError, match="threshold is"):
        result.boxes(threshold)


def test_boxes_are_half_open_in_pixels_of_the_image_the_strongest_first() -> None:
    result = localization(grid(r0c0=0.6, r0c1=0.6, r2c4=1, r2c0=0.7))
    assert result.boxes(0.5) == ((4, 2, 5, 3), (0, 2, 1, 3), (0, 0, 2, 1))
    assert result.boxes(0.65) == ((4, 2, 5, 3), (0, 2, 1, 3))
    assert result.boxes(1) == ((4, 2, 5, 3),)


def test_box_of_a_spike_by_hand() -> None:
    """Ten pixels a cell. The nearest pixels to the cell's centre hold 0.95 ** 2; half of it is 0.475 on either axis, which
    0.55 at 4.5 pixels from the centre reaches and 0.45 at 5.5 does not."""
    spike = grid(r1c2=3)
    assert localization(spike, Placement((0.0, 0.0, 50.0, 30.0), (30, 50))).boxes() == ((20, 10, 30, 20),)
    # The same window within a larger image: the box moves with it.
    assert localization(spike, Placement((7.0, 4.0, 57.0, 34.0), (60, 90))).boxes() == ((27, 14, 37, 24),)


def test_peak() -> None:
    result = localization(grid(r1c2=1, r2c3=2, r0c0=-9), Placement((10.0, 0.0, 60.0, 30.0), (30, 80)))
    assert result.peak() == pytest.approx((10 + 10 * (2 + 2 * 3) / 3 + 5, 10 * (1 + 2 * 2) / 3 + 5))
    assert localization(-1 - grid(r0c0=1, r1c1=-0.5)).peak() == pytest.approx((1.5, 1.5))


def test_peak_lies_on_the_image() -> None:
    """Padding can be the strongest patch of all, but it is nowhere on the image."""
    padded = Placement((0.0, -30.0, 100.0, 60.0), (30, 100))
    x, y = localization(grid(r0c0=5, r1c3=2, r2c1=4), padded).peak()
    assert (x, y) == pytest.approx((70, 15))


# ---- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cells",
    [torch.randn(3, 5), torch.randn(5, 3).T, torch.randn(2, 3, 5)[1], torch.tensor([[1e-30, -0.0], [3e38, 3.0]])],
    ids=["plain", "transposed", "a view", "extremes"],
)
def test_save_and_load(tmp_path: Path, cells: torch.Tensor) -> None:
    result = localization(cells, Placement((0.1, -7.0, 1 / 3, 1e5), (3, 5)))
    path = result.save(tmp_path / "new" / "found.safetensors")
    assert path == tmp_path / "new" / "found.safetensors"
    for again in (Localization.load(path), Localization.load(str(path))):
        assert torch.equal(again.map, result.map)
        assert torch.equal(again.base_map, result.base_map)
        assert again.map.dtype == torch.float32
        assert again.placement == result.placement
        assert again.comparison == result.comparison
        assert dict(again.scores) == dict(result.scores)
        assert list(again.scores) == list(result.scores)
        assert again.provenance == result.provenance
        assert again.summary() == result.summary()


def test_no_references_come_back_as_none(tmp_path: Path) -> None:
    ones, zeros = (EvidenceMap(cells, PIXEL_FOR_CELL) for cells in (torch.ones(2, 2), torch.zeros(2, 2)))
    alone = Localization(ones, zeros, Comparison("finch", (), (), (), 0.0), {"finch": 0.5}, {})
    assert Localization.load(alone.save(tmp_path / "a.safetensors")).comparison == alone.comparison


def test_both_maps_may_be_one_tensor(tmp_path: Path) -> None:
    """At strength 0 the two are equal; nothing forbids to hand over one object."""
    cells = torch.randn(3, 5)
    again = Localization.load(localization(cells, base=cells).save(tmp_path / "a.safetensors"))
    assert torch.equal(again.map, cells)
    assert torch.equal(again.base_map, cells)


def test_summary_is_json() -> None:
    result = localization(grid(r1c2=1))
    read = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert read["comparison"]["references"] == ["frost finch", "reed"]
    assert read["comparison"]["weights"] == [0.25, 0.75]
    assert read["scores"]["reed"] == -0.1
    assert read["placement"] == {"window": [0, 0, 5, 3], "image_size": [3, 5]}
    assert read["provenance"] == PROVENANCE


def _tensors(path: Path, metadata: dict[str, str] | None, *names: str) -> None:
    save_file({name: torch.zeros(3, 5) for name in names}, path, metadata)


def _saved(path: Path, **changes: object) -> None:
    summary = {**localization(grid()).summary(), **changes}
    _tensors(path, {"localization": json.dumps(summary)}, "map", "base_map")


NOT_SAVED = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.touch(),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "cut short": lambda path: path.write_bytes(localization(grid()).save(path).read_bytes()[:-8]),
    "other tensors": lambda path: _tensors(path, None, "weight"),
    "other metadata": lambda path: _tensors(path, {"format": "pt"}, "map", "base_map"),
    "not JSON": lambda path: _tensors(path, {"localization": "{"}, "map", "base_map"),
    "a list": lambda path: _tensors(path, {"localization": "[]"}, "map", "base_map"),
    "one map": lambda path: _tensors(path, {"localization": json.dumps(localization(grid()).summary())}, "map"),
    "no comparison": lambda path: _saved(path, comparison={}),
    "a list of comparisons": lambda path: _saved(path, comparison=[]),
    "a newer comparison": lambda path: _saved(path, comparison={**localization(grid()).summary()["comparison"], "more": 1}),
    "no placement": lambda path: _saved(path, placement={}),
}


def _said(**changes: object) -> Callable[[Path], None]:
    """A file of which something else is said; names with underscores twice lead into what is held."""

    def write(path: Path) -> None:
        summary = json.loads(json.dumps(localization(grid()).summary()))
        for name, value in changes.items():
            *way, last = name.split("__")
            held = summary
            for key in way:
                held = held[key]
            held[last] = value
        _tensors(path, {"localization": json.dumps(summary)}, "map", "base_map")

    return write


def _maps(*cells: torch.Tensor) -> Callable[[Path], None]:
    metadata = {"localization": json.dumps(localization(grid()).summary())}
    return lambda path: save_file(dict(zip(("map", "base_map"), cells, strict=True)), path, metadata)


_WHOLE_MAP = torch.ones(3, 5)

HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (os.mkfifo, "no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "NaN in a map": (_maps(_WHOLE_MAP * torch.nan, _WHOLE_MAP.clone()), "map does not hold finite"),
    "infinity in the base map": (_maps(_WHOLE_MAP, _WHOLE_MAP * torch.inf), "base_map does not hold finite"),
    "whole numbers": (_maps(_WHOLE_MAP.long(), _WHOLE_MAP.long()), "map does not hold finite floating-point"),
    "a line": (_maps(torch.ones(15), torch.ones(15)), "map is"),
    "a cube": (_maps(torch.ones(3, 5, 1), torch.ones(3, 5, 1)), "map is"),
    "no cells": (_maps(torch.ones(0, 5), torch.ones(0, 5)), "map does not hold"),
    "two shapes": (_maps(_WHOLE_MAP, torch.ones(5, 3)), r"base_map is \(5, 3\), map \(3, 5\)"),
    "a huge image": (_said(placement__image_size=[200_000, 200_000]), "image_size is"),
    "a large image": (_said(placement__image_size=[12_000, 12_000]), "at most 125,000,000"),
    "an image without a side": (_said(placement__image_size=[0, 5]), "image_size is"),
    "half a pixel": (_said(placement__image_size=[3.5, 5]), "image_size is"),
    "three sides": (_said(placement__image_size=[3, 5, 1]), "image_size is"),
    "a window of three": (_said(placement__window=[0, 0, 5]), "window is"),
    "a window in disorder": (_said(placement__window=[5, 0, 0, 3]), "left, top, right, bottom in order"),
    "a window elsewhere": (_said(placement__window=[50, 0, 60, 3]), "shows nothing of an image"),
    "a window of everything": (_said(placement__window=[-1e300, 0, 1e300, 3]), "window is"),
    "a window of texts": (_said(placement__window=["0", "0", "5", "3"]), "window is|a number"),
    "cells in disorder": (_said(placement__cells=[0, 3, 5, 0]), "cells is"),
    "no target": (_said(comparison__target=None), "target is"),
    "a target of none": (_said(comparison__target=""), "target is"),
    "a number as a reference": (_said(comparison__references=["frost finch", 7]), "references is"),
    "half a letter": (_said(comparison__target="\ud800"), "target is"),
    "the target as a reference": (_said(comparison__references=["ember finch", "reed"]), "not all different"),
    "one weight": (_said(comparison__weights=[1.0]), "weights is .*; expected 2 numbers"),
    "weights of another sum": (_said(comparison__weights=[0.25, 0.25]), "weights have the sum 0.5"),
    "negative weights": (_said(comparison__weights=[-0.5, 1.5]), "weights is|a number"),
    "a similarity of 2": (_said(comparison__similarities=[2, 0.5]), "similarities is"),
    "a negative strength": (_said(comparison__strength=-1), "strength is -1"),
    "a strength of yes": (_said(comparison__strength=True), "strength is True"),
    "no score of a reference": (_said(scores={"ember finch": 0.1}), "scores has ember finch"),
    "a score of none": (_said(scores__reed=None), "a score is None"),
    "provenance of text": (_said(provenance="model"), "provenance is"),
    "deep": (lambda path: _tensors(path, {"localization": '{"a":' * 9000 + "}" * 9000}, "map", "base_map"), "64 levels"),
    "NaN in the text": (lambda path: _tensors(path, {"localization": '{"a": NaN}'}, "map", "base_map"), "NaN is no number"),
    "an endless header": (lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f{}"), "header is cut short"),
    "a huge file": (lambda path: _sparse(path, 2**40), "at most 268,435,456 are read"),
}


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_before_there_is_a_localization(tmp_path: Path, case: str) -> None:
    path = tmp_path / "found.safetensors"
    write, message = HOSTILE[case]
    write(path)
    with pytest.raises(OutputError, match=rf"found\.safetensors: not a saved localization \(.*{message}") as caught:
        Localization.load(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("case", NOT_SAVED)
def test_what_is_not_a_saved_localization(tmp_path: Path, case: str) -> None:
    path = tmp_path / "found.safetensors"
    NOT_SAVED[case](path)
    with pytest.raises(OutputError, match=r"found\.safetensors: not a saved localization") as caught:
        Localization.load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_what_save_writes_is_what_load_reads(tmp_path: Path) -> None:
    """The cases above fail for their own reasons: without a change the same file loads."""
    _saved(tmp_path / "a.safetensors")
    assert Localization.load(tmp_path / "a.safetensors").comparison == COMPARISON


# ---- whole or not at all ----------------------------------------------------------------------------------------------


def _half_then_full_disk(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    raise OSError(errno.ENOSPC, "No space left on device")


def _full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


FAILURES = {
    "full while writing": (os, "fsync", _half_then_full_disk, OutputError),
    "full while renaming": (Path, "replace", _full_disk, OutputError),
    "interrupted while renaming": (Path, "replace", _interrupt, KeyboardInterrupt),
}


@pytest.mark.parametrize("older", [b"older", None])
@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_write_leaves_things_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, older: bytes | None
) -> None:
    path = tmp_path / "out.bin"
    if older is not None:
        path.write_bytes(older)
    of, attribute, fail, error = FAILURES[case]
    with monkeypatch.context() as patch:
        patch.setattr(of, attribute, fail)
        with pytest.raises(error, match="cannot be written.*No space left" if error is OutputError else None) as caught:
            write_file(path, b"newer and longer")
    assert error is not OutputError or str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == (["out.bin"] if older is not None else [])
    assert older is None or path.read_bytes() == older
    assert write_file(path, b"newer") == path
    assert path.read_bytes() == b"newer"


def test_a_failing_save_keeps_the_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = localization(grid(r1c2=1)).save(tmp_path / "a.safetensors")
    monkeypatch.setattr(Path, "replace", _full_disk)
    with pytest.raises(OutputError, match="No space left"):
        localization(grid(r0c0=1)).save(path)
    assert torch.equal(Localization.load(path).map, grid(r1c2=1))


@pytest.mark.parametrize("place", ["file/out.bin", "file/deeper/out.bin", "folder"], ids=["in a file", "deeper", "a folder"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_file(tmp_path / place, b"new")
    assert str(tmp_path / place) in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.bin"
    write_file(path, b"one, and long")
    write_file(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["out.bin"]

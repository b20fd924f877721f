"""Sets from outside: what is wrong with one example is its line, what leads out is not opened, nothing is cut in silence."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written import (
    HEIGHT,
    WIDTH,
    image,
    write,
    write_aircraft,
    write_cars,
    write_coco,
    write_cub,
    write_fishvista,
    write_folders,
    write_huggingface,
    write_pets,
    write_table,
)

from concept_cam.datasets import Dataset, Example, read_dataset
from concept_cam.datasets.files import files_below
from concept_cam.datasets.matlab import MAX_BYTES, read_matlab
from concept_cam.errors import DatasetError, ImageError

HEADER = "file,label,twin,mask,left,top,right,bottom"


def a_table(root: Path, *lines: str, name: str = "set.csv") -> Path:
    root.mkdir(exist_ok=True)
    write_table(root)
    (root / name).write_bytes("\n".join(lines).encode())
    return root / name


def only_problem(found: Dataset) -> str:
    (problem,) = found.problems
    assert problem.isprintable()
    assert len(problem) <= 400
    return problem


# ---- one bad row ------------------------------------------------------------------------------------------------------

ROWS = {
    "an infinite side": ("b.jpg,x,,,1,2,inf,7", r"b\.jpg: the box \(1, 2, inf, 7\) is not inside an image of 40 x 30"),
    "a side that is no number": ("b.jpg,x,,,1,2,nan,7", r"the box \(1, 2, nan, 7\) is not inside"),
    "a side beyond all numbers": ("b.jpg,x,,,1,2,1e999,7", r"the box \(1, 2, inf, 7\)"),
    "a huge side": ("b.jpg,x,,,1,2,1e30,7", r"the box \(1, 2, 1e\+30, 7\)"),
    "a side in words": ("b.jpg,x,,,1,2,eleven,7", r"b\.jpg: cannot be read \(could not convert string to float: 'eleven'\)"),
    "no left side": ("b.jpg,x,,,,2,11,7", r"b\.jpg: a box without left; expected all four sides, or none"),
    "two sides": ("b.jpg,x,,,1,,11,", r"b\.jpg: a box without top, bottom"),
    "a name of 300 letters": ("b" * 300 + ",x,,,,,,", r"cannot be read \(File name too long\)"),
    "a link to itself": ("loop,x,,,,,,", r"loop: cannot be read \(.*loop"),
    "a folder": ("sub,x,,,,,,", r"sub: there is no such file"),
    "a pipe": ("fifo,x,,,,,,", r"fifo: there is no such file"),
    "a name with a zero": ("a\0.jpg,x,,,,,,", "not UTF-8 text: it holds NUL"),
    "no label": ("b.jpg, ,,,,,,", r"set\.csv, row 3: no label"),
    "no file": (",x,,,,,,", r"set\.csv, row 3: no file"),
    "a comma too many": ("b.jpg,x, or y,,,1,2,11,7", r"line 3: 9 values, where the header names 8"),
    "a field of 200,000 letters": ("b.jpg," + "x" * 200_000, r"line 3: field larger than field limit"),
    "quotes that do not end": ('b.jpg,"x', "line 3: unexpected end of data"),
    "colours for a terminal": ("\x1b[31mb.jpg,x,,,,,,", r"\\x1b\[31mb\.jpg: there is no such file"),
    "up and away": ("../b.jpg,x,,,,,,", r"\.\./b\.jpg: leads out of .*; give a root that holds it"),
    "another folder": ("/etc/hostname,x,,,,,,", "/etc/hostname: leads out of"),
    "a link that leads out": ("out.jpg,x,,,,,,", r"out\.jpg: leads out of"),
    "a mask that leads out": ("b.jpg,x,,out.jpg,,,,", r"out\.jpg: leads out of"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_a_line_and_the_others_are_there(case, tmp_path):
    row, message = ROWS[case]
    file = a_table(tmp_path / "set", HEADER, "a.jpg,red finch,,,,,,", row)
    root = file.parent
    (root / "loop").symlink_to("loop")
    (root / "sub").mkdir()
    os.mkfifo(root / "fifo")
    image(tmp_path / "b.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "b.jpg")
    if "\0" in row:
        with pytest.raises(DatasetError, match=message):
            read_dataset(file)
        return
    found = read_dataset(file)
    assert [example.name for example in found.examples] == ["a.jpg"]
    assert re.search(message, only_problem(found))


def test_two_rows_of_a_image_add_up(tmp_path):
    file = a_table(tmp_path, HEADER, "a.jpg,x,y,a-mask.png,,,,", "a.jpg,x,,b-mask.png,,,,", "a.jpg,x,,,0,0,2,1")
    levels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    levels[20:, 30:] = 1
    Image.fromarray(levels).save(tmp_path / "b-mask.png")
    (example,) = read_dataset(file).examples
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[5:10, 20:30] = expected[20:, 30:] = expected[0, :2] = True
    assert torch.equal(example.region(), expected)
    assert (example.boxes, example.twin) == (((0, 0, 2, 1),), "y")
    two = read_dataset(a_table(tmp_path, HEADER, "b.jpg,x,,,,,,", "a.jpg,x,y,,,,,", "a.jpg,x,z,,,,,"))
    assert only_problem(two) == "a.jpg: its rows name the twins y, z; expected one."


def test_no_label_is_cut(tmp_path):
    labels = ["red\nfinch", "red\u2028finch", "red\x85finch", "red, blue", 'a "red" finch', "red\x0cfinch"]
    quoted = ['"' + label.replace('"', '""') + '"' for label in labels]
    file = a_table(tmp_path, "file,label", *(f"a.jpg,{label}" for label in quoted))
    found = read_dataset(file)
    assert [example.label for example in found.examples] == labels
    assert found.problems == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_write_them(tmp_path, encoding, separator, end):
    write_table(tmp_path)
    rows = [["file", "label", "site"], ["a.jpg", "Bläuling", "北"], ["b.jpg", "x", ""]]
    (tmp_path / "set.csv").write_bytes(end.join([separator.join(row) for row in rows] + [""]).encode(encoding))
    first, second = read_dataset(tmp_path / "set.csv").examples
    assert (first.name, first.label, first.extra, second.extra) == ("a.jpg", "Bläuling", {"site": "北"}, {})
    if separator == ";":
        (tmp_path / "set.csv").write_text(
            f"sep=;{end}" + end.join(";".join(row) for row in rows), encoding=encoding, newline=""
        )
        assert len(read_dataset(tmp_path / "set.csv").examples) == 2


def test_a_table_in_another_encoding_is_refused_with_a_reason(tmp_path):
    file = a_table(tmp_path, "")
    file.write_bytes("file,label\na.jpg,Bläuling\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"not UTF-8 text: invalid continuation byte at byte 19; save it as UTF-8"):
        read_dataset(file)


@pytest.mark.parametrize("name", ["file", "image", "picture", "Path", "file_name", "File Name", "FILENAME"])
@pytest.mark.parametrize("label", ["label", "class", "Species", "target"])
def test_columns_by_the_names_that_people_use(tmp_path, name, label):
    file = a_table(tmp_path, f"id,{name},{label},twin,xmin,ymin,xmax,ymax,date", "7,a.jpg,x,y,1,2,11,7,May")
    (example,) = read_dataset(file).examples
    assert (example.name, example.label, example.twin, example.boxes) == ("a.jpg", "x", "y", ((1, 2, 11, 7),))
    assert example.extra == {"id": "7", "date": "May"}


def test_one_of_the_sides_alone_is_no_box(tmp_path):
    found = read_dataset(a_table(tmp_path, "file,label,right", "a.jpg,x,1"))
    assert (found.examples[0].boxes, found.examples[0].extra, found.extra) == ((), {"right": "1"}, ("right",))
    with pytest.raises(DatasetError, match=r"a box needs left, top, right and bottom; .*no left\. It has the columns file"):
        read_dataset(a_table(tmp_path, "file,label,top,right,bottom", "a.jpg,x,1,2,3"))


HEADERS = {
    "no files": ("image id,label", "no column of files, such as file, image.*It has the columns image id, label"),
    "twice": ("file,label,label", "its header names 'label' twice"),
    "nothing": ("", "it has no header"),
    "no file of text": ("\0", "it holds NUL"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_table_that_is_none(case, tmp_path):
    header, message = HEADERS[case]
    with pytest.raises(DatasetError, match=message):
        read_dataset(a_table(tmp_path, header, "a.jpg,x"))


def test_a_root_says_where_files_may_lie(tmp_path):
    """Relative to it or to the table's folder, or absolute: inside it alone."""
    (tmp_path / "data" / "tables").mkdir(parents=True)
    for name in ("data/images/a.jpg", "data/tables/b.jpg", "data/c.jpg", "d.jpg"):
        image(tmp_path / name)
    table = tmp_path / "data" / "tables" / "set.csv"
    write(table, "file,label", "images/a.jpg,x", "b.jpg,x", "../c.jpg,x", f"{tmp_path}/data/images/a.jpg,y", "../../d.jpg,x")
    found = read_dataset(table, root=tmp_path / "data")
    assert [example.read().size for example in found.examples] == [(WIDTH, HEIGHT)] * 4
    assert [example.name for example in found.examples][:3] == ["images/a.jpg", "b.jpg", "../c.jpg"]
    assert "../../d.jpg: leads out of" in only_problem(found)
    assert [example.name for example in read_dataset(table).examples] == ["b.jpg"]
    with pytest.raises(DatasetError, match="there is no such folder; a root is"):
        read_dataset(table, root=tmp_path / "nowhere")


def test_parquet_from_outside(tmp_path):
    import pyarrow
    import pyarrow.parquet

    root = tmp_path / "year=2024"
    root.mkdir()
    write_table(root)
    rows = {"file": ["a.jpg", "b.jpg", "c.jpg"], "label": [7, 7, None], "photo": [b"\xff"] * 3, "when": [None, 2.5, None]}
    pyarrow.parquet.write_table(pyarrow.table(rows), root / "set.parquet")
    found = read_dataset(root / "set.parquet")
    # Numbers are texts here; bytes are no column, nor is a folder on the way.
    assert [(example.label, example.extra) for example in found.examples] == [("7", {}), ("7", {"when": "2.5"})]
    assert only_problem(found) == "set.parquet, row 3: no label; expected one in each row."
    (root / "set.parquet").write_bytes((root / "set.parquet").read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"set\.parquet: cannot be read"):
        read_dataset(root / "set.parquet")


# ---- EXIF -------------------------------------------------------------------------------------------------------------


def turned(file: Path, orientation: int) -> tuple[int, int]:
    """Store an image that EXIF turns; its (height, width) as it is shown."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(file, exif=exif)
    return (WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH)


def one_of_each(root: Path) -> dict[str, tuple[Path, Path]]:
    """Of each layout with boxes: the set, and an image of it whose box fits if it is 30 wide and 40 high, and else not."""
    table = a_table(root / "table", "file,label,left,top,right,bottom", "a.jpg,x,2,3,20,38", "b.jpg,x,1,1,2,2")
    cub = write_cub(root / "cub")
    write(cub / "bounding_boxes.txt", "1 2.0 3.0 18.0 35.0", "2 0 0 9 9", "3 1 1 2 3")
    aircraft = write_aircraft(root / "aircraft")
    write(aircraft / "data" / "images_box.txt", "0034309 3 4 20 38", "0034958 3 4 10 12", "1025794 2 2 5 6")
    coco = write_coco(root / "coco")
    held = json.loads(coco.read_text())
    held["images"][0] |= {"height": WIDTH, "width": HEIGHT}
    held["annotations"][:2] = [{"image_id": 1, "category_id": 3, "bbox": [2, 3, 18, 35]}]
    coco.write_text(json.dumps(held))
    return {
        "table": (table, root / "table" / "a.jpg"),
        "cub": (cub, cub / "images" / "001.Black_footed_Albatross" / "one.jpg"),
        "aircraft": (aircraft, aircraft / "data" / "images" / "0034309.jpg"),
        "coco": (coco, coco.parent / "images" / "one.jpg"),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_of_images_as_they_are_shown(orientation, tmp_path):
    for path, file in one_of_each(tmp_path).values():
        size = turned(file, orientation)
        found = read_dataset(path)
        high = [example for example in found.examples if example.boxes == ((2, 3, 20, 38),)]
        if orientation < 5:
            assert (high, len(found.problems)) == ([], 1)
            continue
        region = high[0].region()
        assert tuple(region.shape) == size == high[0].read().size[::-1]
        assert int(region.sum()) == 18 * 35


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_box_of_a_car_is_of_the_image_as_it_is_shown(orientation, tmp_path):
    root = write_cars(tmp_path / "cars")
    size = turned(root / "cars_test" / "00001.jpg", orientation)
    example = read_dataset(root).examples[0]
    assert tuple(example.region().shape) == size == example.read().size[::-1]
    assert int(example.region().sum()) == 72


def test_a_mask_of_another_size_is_not_read(tmp_path):
    file = a_table(tmp_path, HEADER, "a.jpg,x,,a-mask.png,,,,")
    turned(tmp_path / "a.jpg", 6)
    (example,) = read_dataset(file).examples
    with pytest.raises(DatasetError, match=r"a-mask\.png: the mask is 30 x 40, the image 40 x 30 \(upright\)"):
        example.region()
    Image.new("1", (9_000, 9_000)).save(tmp_path / "a-mask.png")
    with pytest.raises(DatasetError, match=r"the mask is 9000 x 9000, the image 40 x 30"):
        example.region()


# ---- COCO -------------------------------------------------------------------------------------------------------------


def a_coco(root: Path, **changes: object) -> Path:
    """One image, one category, an annotation as it is changed."""
    root.mkdir(exist_ok=True)
    image(root / "a.jpg")
    annotation = {"image_id": 1, "category_id": 3, "bbox": [2, 3, 4, 5], "segmentation": [[2, 3, 6, 3, 6, 8]], **changes}
    held = {"images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]}
    held |= {"categories": [{"id": 3, "name": "beak"}, {"id": 4, "name": "tail"}]}
    good = {"image_id": 1, "category_id": 4, "bbox": [0, 0, 9, 9]}
    annotations = [{key: value for key, value in annotation.items() if value is not None}, good]
    (root / "set.json").write_text(json.dumps({**held, "annotations": annotations}))
    return root / "set.json"


def test_boxes_without_outlines_are_the_region(tmp_path):
    """Today's exports of detectors have no outlines, or empty ones."""
    for outline in (None, [], {}):
        beak, tail = read_dataset(a_coco(tmp_path, segmentation=outline)).examples
        assert (beak.name, beak.label, beak.boxes) == ("a.jpg", "beak", ((2, 3, 6, 8),))
        assert (int(beak.region().sum()), int(tail.region().sum())) == (20, 81)
        assert beak.region()[3:8, 2:6].all()


def test_outlines_and_bare_boxes_of_one_category_add_up(tmp_path):
    file = a_coco(tmp_path, category_id=4)
    (tail,) = read_dataset(file).examples
    whole = tail.region()
    assert whole[0:9, 0:9].all()
    assert int(whole.sum()) == 81
    file = a_coco(tmp_path, category_id=4, bbox=[20, 20, 10, 10], segmentation=[[20, 20, 29, 20, 29, 29, 20, 29]])
    (tail,) = read_dataset(file).examples
    assert int(tail.region().sum()) == 81 + 100


OUTLINES = {
    "a flat list": {"segmentation": [2, 3, 6, 3, 6, 8]},
    "seven numbers": {"segmentation": [[2, 3, 6, 3, 6, 8, 1]]},
    "two points": {"segmentation": [[2, 3, 6, 3]]},
    "not a number": {"segmentation": [[2, 3, 6, 3, 6, float("nan")]]},
    "infinite": {"segmentation": [[2, 3, 6, 3, 6, float("inf")]]},
    "far outside": {"segmentation": [[2, 3, 1e9, 3, 6, 8]]},
    "numbers as text": {"segmentation": [["2", "3", "6", "3", "6", "8"]]},
    "true and false": {"segmentation": [[True] * 6]},
    "a text": {"segmentation": "polygon"},
    "a number beyond all": {"segmentation": [[10**400, 3, 6, 3, 6, 8]]},
    "no box, an empty outline": {"bbox": None, "segmentation": []},
    "three sides": {"bbox": [1, 2, 3]},
    "sides as text": {"bbox": ["1", "2", "3", "4"]},
    "an infinite side": {"bbox": [1, 2, float("inf"), 4]},
    "not a number of sides": {"bbox": [1, 2, float("nan"), 4]},
    "a huge side": {"bbox": [1, 2, 10**400, 4]},
    "a text for a box": {"bbox": "1 2 3 4"},
}


@pytest.mark.parametrize("case", OUTLINES)
def test_an_odd_annotation_is_a_line(case, tmp_path):
    found = read_dataset(a_coco(tmp_path, **OUTLINES[case]))
    assert [example.label for example in found.examples] == ["tail"]
    assert only_problem(found).startswith("a.jpg: ")


RUNS = {
    "no numbers": ["a", "b"],
    "halves": [600.5, 599.5],
    "negative": [-5, 1205],
    "too long": [10**9, 10**9],
    "letters that COCO never writes": "\x00\xff",
    "a number of many letters": "o" * 100_000 + "0",
    "half a number": "o",
    "nothing": None,
    "a mapping": {},
}


@pytest.mark.parametrize("case", RUNS)
def test_odd_run_lengths_are_a_line(case, tmp_path):
    beak, tail = read_dataset(a_coco(tmp_path, segmentation={"size": [HEIGHT, WIDTH], "counts": RUNS[case]})).examples
    with pytest.raises(DatasetError) as caught:
        beak.region()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert int(tail.region().sum()) == 81


@pytest.mark.parametrize("size", [[HEIGHT, WIDTH], [10**6, 10**6], [-1, 4], "x", None])
def test_sizes_are_held_against_the_image(size, tmp_path):
    """Before memory is asked for: of a million by a million pixels there is none."""
    counts = [HEIGHT * WIDTH]
    beak, _ = read_dataset(a_coco(tmp_path, segmentation={"size": size, "counts": counts})).examples
    if size == [HEIGHT, WIDTH]:
        assert not beak.region().any()
        return
    with pytest.raises(DatasetError, match="do not fill an image of"):
        beak.region()


def entries(file: Path, name: str, *more: object) -> Path:
    held = json.loads(file.read_text())
    held[name] += more
    file.write_text(json.dumps(held))
    return file


ENTRIES = {
    "an image of a million by a million": ("images", {"id": 9, "file_name": "a.jpg", "height": 10**6, "width": 10**6}),
    "an image that is no mapping": ("images", 7),
    "an image without a name": ("images", {"id": 9}),
    "an image whose name is a number": ("images", {"id": 9, "file_name": 7}),
    "an image with a number that is taken": ("images", {"id": 1, "file_name": "b.jpg"}),
    "an image with a list for a number": ("images", {"id": [1], "file_name": "b.jpg"}),
    "a category whose name is a number": ("categories", {"id": 9, "name": 7}),
    "a category that is no mapping": ("categories", None),
    "an annotation that is no mapping": ("annotations", "x"),
    "an annotation of nothing": ("annotations", {}),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_odd_entry_is_a_line(case, tmp_path):
    name, entry = ENTRIES[case]
    file = entries(a_coco(tmp_path), name, entry)
    if "million" in case:
        entries(file, "annotations", {"image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5]})
    found = read_dataset(file)
    assert [example.label for example in found.examples] == ["beak", "tail"]
    only_problem(found)


@pytest.mark.parametrize("name", ["../b.jpg", "/etc/hostname", "out.jpg"])
def test_a_name_in_coco_that_leads_out(name, tmp_path):
    file = a_coco(tmp_path / "set")
    image(tmp_path / "b.jpg")
    (file.parent / "out.jpg").symlink_to(tmp_path / "b.jpg")
    entries(file, "images", {"id": 9, "file_name": name})
    entries(file, "annotations", {"image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5]})
    assert "leads out of" in only_problem(read_dataset(file))
    found = read_dataset(file, root=tmp_path)
    assert len(found.examples) == (2 if name.startswith("/etc") else 3)


def test_deep_json_is_one_line(tmp_path):
    for text in ("[" * 100_000, '{"images":' * 100_000, "\0", "{", '{"images": 7}'):
        (tmp_path / "set.json").write_text(text)
        with pytest.raises(DatasetError) as caught:
            read_dataset(tmp_path / "set.json")
        assert str(caught.value).isprintable()


# ---- folders ----------------------------------------------------------------------------------------------------------


def test_what_is_skipped_in_folders_is_named(tmp_path):
    root = write_folders(tmp_path / "set")
    for k in range(6):
        write(root / "red_finch" / f"{k}.heic", "x")
    image(root / "beside.jpg")
    write(root / "red_finch" / ".DS_Store", "x")
    endings, beside = read_dataset(root).problems
    assert endings.startswith("7 files are skipped: red_finch/0.heic, red_finch/1.heic, red_finch/2.heic")
    assert ", ... (an image ends in one of ." in endings
    assert beside == "1 file is skipped: beside.jpg (expected in the folder of a class)."


def test_links_in_folders(tmp_path):
    root = write_folders(tmp_path / "set")
    image(tmp_path / "store" / "b.jpg")
    (root / "red_finch" / "notes.txt").unlink()
    (root / "red_finch" / "out.jpg").symlink_to(tmp_path / "store" / "b.jpg")
    (root / "red_finch" / "in.jpg").symlink_to(root / "red_finch" / "b.jpg")
    (root / "red_finch" / "loop.jpg").symlink_to("loop.jpg")
    (root / "red_finch" / "again").symlink_to(root)
    (root / "jay").symlink_to(tmp_path / "store")
    os.mkfifo(root / "red_finch" / "fifo.jpg")
    found = read_dataset(root)
    assert {example.name for example in found.examples} == {
        str(Path(name)) for name in ("002.blue_jay/c.JPG", "red_finch/a.png", "red_finch/b.jpg", "red_finch/in.jpg")
    }
    assert len(found.problems) == 5
    for message in (
        "out.jpg: leads out of",
        "jay/b.jpg: leads out of",
        "loop.jpg: cannot be read",
        "again: a link to a folder",
    ):
        assert any(message in problem for problem in found.problems), message
    assert any("fifo.jpg: is not a file" in problem for problem in found.problems)
    assert len(read_dataset(root, root=tmp_path).examples) == 6


def test_folders_of_any_depth(tmp_path):
    root = write_folders(tmp_path / "set")
    deep = root / "red_finch"
    for _ in range(300):
        deep /= "d"
    deep.mkdir(parents=True)
    image(deep / "e.jpg")
    problems: list[str] = []
    assert deep / "e.jpg" in set(files_below(root, problems))
    assert len(read_dataset(root).examples) == 4


# ---- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["absolute", "up", "link"])
def test_a_hugging_face_set_opens_nothing_outside(place, tmp_path, monkeypatch):
    import datasets
    import pyarrow

    root = tmp_path / "set"
    image(tmp_path / "secret.jpg")
    image(root / "in.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    monkeypatch.chdir(root)
    paths = {"absolute": str(tmp_path / "secret.jpg"), "up": "../secret.jpg", "link": "link.jpg"}
    kind = datasets.Image()
    features = datasets.Features({"photo": kind, "mask": kind, "breed": datasets.ClassLabel(names=["a", "b"])})
    there, inside = {"bytes": None, "path": paths[place]}, {"bytes": None, "path": "in.jpg"}
    rows = {"photo": [there, inside, inside], "mask": [there, there, None], "breed": [0, 1, 1]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(root))
    # That has put the files into the table; a set from outside may have left them where they are.
    file = str(next(root.glob("*.arrow")))
    with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, made.data.table.schema) as stream:
        stream.write_table(made.data.table)
    first, second, _ = read_dataset(root).examples
    with pytest.raises(ImageError, match=r"all-000000: the image cannot be read .*leads out of"):
        first.read()
    with pytest.raises(DatasetError, match="leads out of"):
        first.region()
    assert second.read().size == (WIDTH, HEIGHT)
    assert read_dataset(root, root=tmp_path).examples[0].read().size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("file", ["dataset_dict.json", "state.json"])
def test_the_lists_of_a_hugging_face_set_lead_nowhere_else(file, tmp_path):
    root, other = write_huggingface(tmp_path / "set"), write_huggingface(tmp_path / "other")
    if file == "dataset_dict.json":
        (root / file).write_text(json.dumps({"splits": ["../other/test"]}))
    else:
        state = json.loads((root / "test" / file).read_text())
        state["_data_files"] = [{"filename": str(next((other / "test").glob("*.arrow")))}]
        (root / "test" / file).write_text(json.dumps(state))
    with pytest.raises(DatasetError, match="leads out of"):
        read_dataset(root)


def test_the_format_of_a_hugging_face_set_changes_nothing(tmp_path):
    root = write_huggingface(tmp_path / "set")
    state = root / "test" / "state.json"
    held = json.loads(state.read_text()) | {"_format_type": "numpy", "_format_columns": ["breed"]}
    state.write_text(json.dumps(held))
    assert [example.label for example in read_dataset(root).examples] == ["blue jay", "red finch"]
    assert read_dataset(root).examples[0].read().size == (WIDTH, HEIGHT)


# ---- published sets ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_matlab_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    root = write_cars(tmp_path / "cars")
    file = root / "devkit" / "cars_meta.mat"
    head = file.read_bytes()[:128]
    packed = zlib.compress(bytes(2 * MAX_BYTES), 9)
    file.write_bytes(head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(DatasetError, match=r"cars_meta\.mat: cannot be read \(it has more than 67,108,864 bytes, unpacked\)"):
        read_dataset(root)
    file.write_bytes(b"no file of MATLAB's")
    with pytest.raises(DatasetError, match="it is no MATLAB file of version 5 to 7"):
        read_dataset(root)


@pytest.mark.parametrize("packed", [False, True])
def test_matlab_is_read_as_scipy_reads_it(packed, tmp_path):
    from scipy.io import loadmat, savemat

    cells = np.empty((1, 3), dtype=object)
    cells[0] = ["one", "Löwchen 鳥", np.arange(4.0)]
    rows = np.empty((1, 2), dtype=[("fname", "O"), ("a_long_name_of_a_field", "O")])
    rows[0] = [("a.jpg", 7), ("", np.array([[1, -2]], dtype=np.int16))]
    held = {"cells": cells, "rows": rows, "number": 2.5, "bytes": np.array([[1, 2]], dtype=np.uint8), "text": "x" * 99}
    savemat(tmp_path / "a.mat", held, do_compression=packed)
    found, theirs = read_matlab(tmp_path / "a.mat"), loadmat(tmp_path / "a.mat", squeeze_me=True)
    assert found["cells"] == ["one", "Löwchen 鳥", [0, 1, 2, 3]]
    assert found["rows"] == [{"fname": "a.jpg", "a_long_name_of_a_field": 7}, {"fname": "", "a_long_name_of_a_field": [1, -2]}]
    assert (found["number"], found["bytes"], found["text"]) == (2.5, [1, 2], "x" * 99)
    assert (theirs["rows"][0]["fname"], theirs["cells"][1], theirs["number"]) == ("a.jpg", "Löwchen 鳥", 2.5)


def test_an_array_of_more_than_there_is_is_refused(tmp_path):
    """The number of its values is a claim of the file: no memory is asked for, and nothing is counted to its end."""
    from scipy.io import savemat

    cells = np.empty((1, 2), dtype=object)
    cells[0] = ["a", "b"]
    savemat(tmp_path / "a.mat", {"cells": cells})
    content = (tmp_path / "a.mat").read_bytes()
    sides = np.array([1, 2], dtype="<i4").tobytes()
    assert content.count(sides) == 1
    for more in ([1, 3], [2**31 - 1, 2**31 - 1], [-1, 2]):
        (tmp_path / "a.mat").write_bytes(content.replace(sides, np.array(more, dtype="<i4").tobytes()))
        with pytest.raises(ValueError, match=r"cut short|without its values"):
            read_matlab(tmp_path / "a.mat")


LINKED = {
    "cub": (write_cub, "images/001.Black_footed_Albatross/one.jpg"),
    "pets": (write_pets, "images/Abyssinian_2.jpg"),
    "aircraft": (write_aircraft, "data/images/0034309.jpg"),
    "cars": (write_cars, "cars_test/00001.jpg"),
    "fishvista": (write_fishvista, "segmentation_masks/images/a.png"),
}


@pytest.mark.parametrize("layout", LINKED)
def test_links_of_published_sets_lead_nowhere_else(layout, tmp_path):
    write_layout, name = LINKED[layout]
    root = write_layout(tmp_path / layout)
    (root / name).rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    assert "leads out of" in only_problem(read_dataset(root))
    assert read_dataset(root, root=tmp_path).problems == ()


def test_a_number_that_is_there_twice(tmp_path):
    root = write_cub(tmp_path / "cub")
    with (root / "images.txt").open("a") as stream:
        stream.write("1 002.Laysan_Albatross/three.jpg\n")
    found = read_dataset(root)
    assert only_problem(found) == "images.txt: 1 is listed twice; the first is used."
    assert found.examples[0].name == "001.Black_footed_Albatross/one.jpg"


# ---- what is read later -----------------------------------------------------------------------------------------------


def test_whatever_a_region_raises_is_one_line():
    def raising(error: BaseException):
        def region():
            raise error

        return region

    for error in (KeyError("x"), RuntimeError("a\nb"), RecursionError(), OverflowError("x" * 9999), StopIteration()):
        example = Example("one", "one.jpg", "x", region=raising(error), parts=(("beak", raising(error)),))
        for region in (example.region, example.parts[0][1]):
            with pytest.raises(DatasetError, match=r"^one: the mask cannot be read") as caught:
                region()
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 300
        broken = Example("one", raising(error), "x")
        with pytest.raises(ImageError, match=r"^one: the image cannot be read"):
            broken.read()
    for error in (MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            Example("one", "one.jpg", "x", region=raising(error)).region()


@pytest.mark.parametrize("mask", [None, np.ones((3, 4), bool), torch.ones(3, 4), torch.ones(1, 3, 4, dtype=torch.bool)])
def test_a_region_that_is_no_mask_is_refused(mask):
    with pytest.raises(DatasetError, match=r"one: the mask is .*; expected a tensor of bool"):
        Example("one", "one.jpg", "x", region=lambda: mask).region()

"""Readers on small sets written in exactly their layout, and damaged: that is counted and reported, and the rest is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written import (
    HEIGHT,
    WIDTH,
    a_region,
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

from concept_cam.datasets import read_dataset
from concept_cam.errors import DatasetError, ImageError


def test_folders(tmp_path):
    found = read_dataset(write_folders(tmp_path / "set"))
    assert found.classes == ("blue jay", "red finch")
    assert [(e.name, e.label) for e in found.examples] == [
        (str(Path("002.blue_jay/c.JPG")), "blue jay"),
        (str(Path("red_finch/a.png")), "red finch"),
        (str(Path("red_finch/b.jpg")), "red finch"),
    ]
    (problem,) = found.problems
    assert problem.startswith("1 file is skipped: red_finch/notes.txt (an image ends in one of .")


def test_table(tmp_path):
    found = read_dataset(write_table(tmp_path))
    first, second, third = found.examples
    assert (found.classes, first.twin, second.twin) == (("red finch", "blue finch"), "blue finch", None)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[5:10, 20:30] = True
    assert torch.equal(first.region(), expected)
    assert second.boxes == ((1, 2, 11, 7), (30, 20, 40, 30))
    assert int(second.region().sum()) == 50 + 100
    assert third.region is None


def test_parquet_is_read_as_csv_is(tmp_path):
    import pyarrow
    import pyarrow.parquet

    write_table(tmp_path)
    rows = {"file": ["a.jpg", "b.jpg"], "label": ["red finch", "blue finch"], "left": [None, 1], "top": [None, 2]}
    rows |= {"right": [None, 11], "bottom": [None, 7]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "set.parquet")
    first, second = read_dataset(tmp_path / "set.parquet").examples
    assert (first.boxes, second.boxes) == ((), ((1, 2, 11, 7),))


def test_cub(tmp_path):
    found = read_dataset(write_cub(tmp_path / "CUB_200_2011"))
    assert found.classes == ("Black footed Albatross", "Laysan Albatross")
    first, third = found.examples
    assert [example.name for example in found.training] == ["001.Black_footed_Albatross/two.jpg"]
    assert first.boxes == ((5, 6, 25, 16),)  # width and height, not the other corner
    assert first.points == (("back", (12.0, 9.0)), ("left eye", (7.5, 8.5)))  # what is not visible is none
    assert (third.label, int(third.region().sum())) == ("Laysan Albatross", 6)


def test_attributes_of_cub_are_those_that_somebody_was_sure_of(tmp_path):
    root = write_cub(tmp_path / "CUB_200_2011")
    write(tmp_path / "attributes.txt", "1 has_bill_shape::hooked", "2 has_wing_color::blue")
    labels = ("1 1 1 3 2.5", "1 2 1 2 1.0", "3 1 0 4 1.0", "3 2 1 4 1.0 0")
    write(root / "attributes" / "image_attribute_labels.txt", *labels)
    assert [example.attributes for example in read_dataset(root).examples] == [
        ("has bill shape hooked",),  # 2 is a guess
        ("has wing color blue",),  # 0 is absent, however sure
    ]


def test_fishvista(tmp_path):
    found = read_dataset(write_fishvista(tmp_path / "fish-vista"))
    assert found.classes == ("esox lucius", "perca flavescens")
    assert ([e.name for e in found.examples], [e.name for e in found.training]) == (["a.jpg", "b.jpg"], ["c.jpg"])
    first = found.examples[0]
    assert int(first.region().sum()) == 56
    assert {name: int(region().sum()) for name, region in first.parts} == {"head": 50, "dorsal fin": 6}


def test_pets(tmp_path):
    found = read_dataset(write_pets(tmp_path / "pets"))
    assert found.classes == ("Abyssinian", "american bulldog")
    assert [e.name for e in found.training] == ["Abyssinian_1"]
    assert [e.label for e in found.examples] == ["Abyssinian", "american bulldog"]
    assert int(found.examples[0].region().sum()) == 110  # the border is the animal's, 2 is background


def test_aircraft(tmp_path):
    found = read_dataset(write_aircraft(tmp_path / "fgvc"))
    first, second = found.examples
    assert (first.label, first.boxes) == ("A340-300", ((0, 0, 40, 30),))
    assert (second.label, second.boxes) == ("707-320", ((2, 3, 10, 12),))  # from one, and inclusive
    assert [e.name for e in found.training] == ["1025794"]


def test_cars(tmp_path):
    found = read_dataset(write_cars(tmp_path / "stanford_cars"))
    first, second = found.examples
    assert found.classes == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert (first.label, first.boxes) == ("AM General Hummer SUV 2000", ((2, 3, 10, 12),))
    assert (second.label, second.boxes) == ("Acura RL Sedan 2012", ((0, 0, 40, 30),))
    assert [e.name for e in found.training] == ["cars_train/00001.jpg"]


def test_huggingface(tmp_path):
    found = read_dataset(write_huggingface(tmp_path / "set"))
    first, second = found.examples
    assert found.classes == ("red finch", "blue jay")
    assert [(e.name, e.label) for e in found.examples] == [("test-000000", "blue jay"), ("test-000001", "red finch")]
    assert torch.equal(first.region(), torch.from_numpy(a_box(20, 5, 30, 10)))
    assert second.region is None
    assert first.read().size == (WIDTH, HEIGHT)
    assert [e.name for e in found.training[:1]] == ["train-000000"]
    damaged = read_dataset(write_huggingface(tmp_path / "damaged", broken=True))
    with pytest.raises(ImageError, match=r"\.arrow/photo-000000: the image cannot be read"):
        damaged.examples[0].read()
    assert damaged.examples[1].read().size == (WIDTH, HEIGHT)
    (tmp_path / "damaged" / "test" / "state.json").unlink()
    with pytest.raises(DatasetError, match=r"state\.json: there is no such file"):
        read_dataset(tmp_path / "damaged")


def test_coco(tmp_path):
    found = read_dataset(write_coco(tmp_path / "parts"))
    assert found.classes == ("bird beak", "tail")
    beak, tail, plain = found.examples  # a crowd is none
    for example in (beak, plain):
        assert np.array_equal(example.region().numpy(), a_region().astype(bool))
    assert torch.equal(tail.region(), torch.from_numpy(a_box(10, 10, 20, 15)))
    assert tail.boxes == ((10, 10, 20, 15),)


def a_box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
    inside[top:bottom, left:right] = True
    return inside


def remove(*names: str):
    def damage(root: Path) -> None:
        for name in names:
            (root / name).unlink()

    return damage


def replace(name: str, old: str, new: str):
    def damage(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return damage


DAMAGED = {
    "table: image missing": (write_table, remove("c.jpg"), r"c\.jpg: there is no such file"),
    "table: box outside": (write_table, replace("set.csv", "30,20,40,30", "30,20,41,30"), "b.jpg: the box .* is not inside"),
    "table: not a number": (write_table, replace("set.csv", "1,2,11,7", "1,2,eleven,7"), "could not convert"),
    "table: leads out": (write_table, replace("set.csv", "c.jpg", "../c.jpg"), "leads out of"),
    "cub: image missing": (write_cub, remove("images/002.Laysan_Albatross/three.jpg"), r"three\.jpg: there is no such file"),
    "cub: box outside": (write_cub, replace("bounding_boxes.txt", "3 1.0 1.0 2.0", "3 1.0 1.0 99.0"), "is not inside"),
    "cub: unknown class": (write_cub, replace("image_class_labels.txt", "3 2", "3 9"), r"class 9 is not in classes\.txt"),
    "cub: no location": (write_cub, replace("parts/part_locs.txt", "1 2 0.0 0.0 0", "1 2 0.0 0.0"), r"part_locs\.txt: '1 2 0"),
    "cub: no such part": (write_cub, replace("parts/part_locs.txt", "3 2 2.0", "3 9 2.0"), r"part_locs\.txt: '3 9 2"),
    "cub: no box": (write_cub, replace("bounding_boxes.txt", "3 1.0 1.0 2.0 3.0\n", ""), "KeyError"),
    "pets: trimap missing": (write_pets, remove("annotations/trimaps/Abyssinian_2.png"), "there is no such file"),
    "aircraft: box outside": (write_aircraft, replace("data/images_box.txt", "3 4 10 12", "0 4 10 12"), "is not inside"),
    "aircraft: unknown variant": (
        write_aircraft,
        replace("data/images_variant_test.txt", "0034958 707-320", "0034958 707-32"),
        "Did you mean '707-320'",
    ),
    "cars: image missing": (write_cars, remove("cars_test/00002.jpg"), r"00002\.jpg: there is no such file"),
    "fishvista: image missing": (write_fishvista, remove("Images/b.jpg"), r"b\.jpg: there is no such file"),
    "fishvista: mask missing": (write_fishvista, remove("segmentation_masks/images/a.png"), r"a\.png: there is no such file"),
    "fishvista: no species": (write_fishvista, replace("segmentation_test.csv", "b.jpg,perca flavescens", "b.jpg,"), "KeyErr"),
    "coco: image missing": (write_coco, remove("images/two.jpg"), r"two\.jpg: there is no such file"),
    "coco: box outside": (write_coco, replace("annotations.json", "[10, 10, 10, 5]", "[10, 10, 31, 5]"), "is not inside"),
    "coco: unknown category": (write_coco, replace("annotations.json", '"id": 7', '"id": 8'), "category 7"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_reported_and_the_rest_is_there(case, tmp_path):
    write_layout, damage, message = DAMAGED[case]
    path = write_layout(tmp_path / "set") if write_layout is not write_table else write_layout(_made(tmp_path / "set"))
    whole = read_dataset(path)
    damage(tmp_path / "set")
    found = read_dataset(path)
    assert len(found.problems) == 1
    assert re.search(message, found.problems[0])
    assert len(found.examples) == len(whole.examples) - ("part_locs" not in message)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_masks_that_are_not_are_refused_when_they_are_read(tmp_path):
    example = read_dataset(write_table(tmp_path)).examples[0]
    (tmp_path / "a-mask.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"a-mask\.png: the mask cannot be read"):
        example.region()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a-mask.png")
    with pytest.raises(DatasetError, match="a mask has one channel of levels; this one is RGB"):
        example.region()


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"No layout 'cubs'\. Did you mean 'cub'"):
        read_dataset(tmp_path, "cubs")
    with pytest.raises(DatasetError, match="no example can be used"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"images\.txt: cannot be read"):
        read_dataset(tmp_path, "cub")
    write(tmp_path / "set.csv", "image,name", "a.jpg,red finch")
    with pytest.raises(
        DatasetError, match=r"no column of labels, such as label, class.* It has the columns image, name; expected file"
    ):
        read_dataset(tmp_path / "set.csv")
    write(tmp_path / "set.json", "[]")
    with pytest.raises(DatasetError, match="expected COCO's images"):
        read_dataset(tmp_path / "set.json")


@pytest.mark.parametrize("text", ["[]", '{"head": "1"}'])
def test_traits_that_are_none_are_refused(text, tmp_path):
    root = write_fishvista(tmp_path / "fish-vista")
    (root / "segmentation_masks" / "seg_id_trait_map.json").write_text(text)
    with pytest.raises(DatasetError, match="expected a trait for each level"):
        read_dataset(root)


def test_coco_that_knows_labels_alone(tmp_path):
    """As iNaturalist's lists; but where some outlines of an image are there, one that is missing is no label."""
    from PIL import Image

    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    held = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 5, "name": "wren"}]}
    plain = {"image_id": 1, "category_id": 5}
    (tmp_path / "set.json").write_text(json.dumps({**held, "annotations": [plain]}))
    (example,) = read_dataset(tmp_path / "set.json").examples
    assert (example.name, example.label, example.region, example.boxes) == ("a.png", "wren", None, ())
    (tmp_path / "set.json").write_text(json.dumps({**held, "annotations": [plain, {**plain, "bbox": [1, 2, 3, 4]}]}))
    with pytest.raises(DatasetError, match="neither bbox nor segmentation; others have"):
        read_dataset(tmp_path / "set.json")

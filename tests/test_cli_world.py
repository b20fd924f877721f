"""``concept-cam world``: what it writes is what it says, and the same each time."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from clis import Run, embedded, names, run
from PIL import Image

from concept_cam.world.birds import ATTRIBUTES, COLOURS, PARTS, part_of, species, twins


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def array(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_world_writes_what_it_says(run: Run, tmp_path: Path) -> None:
    ran = run("world", "set", "--count", 3, "--seed", 1)
    assert ran.code == 0
    assert "3 plates in set" in ran.out
    folder = tmp_path / "set"
    rows, differences = table(folder / "labels.csv"), table(folder / "differences.csv")
    kinds = {"bird": "mask", "difference": "difference_mask", "parts": "parts_mask"}
    assert names(folder) == {row["file"].split("/")[0] for row in rows} | {
        ".masks",
        "labels.csv",
        "differences.csv",
        "parts.csv",
    }
    about = ["attribute", "part", "habitat", "difference_mask", "parts_mask"]
    assert list(rows[0]) == ["file", "label", "twin", "mask", *about, *ATTRIBUTES]
    assert len(rows) == len({row["file"] for row in rows}) == 3
    shared = ("file", "label", "twin", "attribute", "part")
    assert differences == [{key: row[key] for key in shared} | {"mask": row["difference_mask"]} for row in rows]
    for kind, column in kinds.items():
        assert {f".masks/{kind}/{name}" for name in names(folder / ".masks" / kind)} == {row[column] for row in rows}
    levels = {row["part"]: int(row["level"]) for row in table(folder / "parts.csv")}
    assert levels == {part: 1 + k for k, part in enumerate(PARTS)}
    for row in rows:
        assert Path(row["file"]).parent.name.replace("_", " ") == row["label"]
        target, twin = species()[row["label"]], species()[row["twin"]]
        assert target.differences(twin) == (row["attribute"],)
        assert {attribute: row[attribute] for attribute in ATTRIBUTES} == target.card
        assert row["part"] == part_of(row["attribute"])
        image, bird, difference, parts = (array(folder / row[column]) for column in ("file", *kinds.values()))
        assert image.shape == (384, 384, 3)
        assert np.array_equal(difference.astype(bool), parts == levels[row["part"]])
        assert np.array_equal(bird.astype(bool), parts > 0)
        assert difference.any()
        assert set(np.unique(parts)) <= {0, *levels.values()}
        # The masks lie on the image: a part shows the colour that the card says, give or take the shade.
        for part in ("crown", "belly", "legs"):
            shown = np.median(image[parts == levels[part]], axis=0)
            assert np.abs(shown - COLOURS[row[part]]).max() < 45, (row["file"], part)


def test_world_asks_every_pair(run: Run, tmp_path: Path) -> None:
    """All pairs in turn, among them those that differ in a shape or a pattern: the part is named, not the attribute."""
    pairs = twins()
    assert run("world", "set", "--count", len(pairs), "--size", 96).code == 0
    rows = table(tmp_path / "set" / "labels.csv")
    assert [(row["label"], row["twin"], row["attribute"]) for row in rows] == list(pairs)
    levels = {row["part"]: int(row["level"]) for row in table(tmp_path / "set" / "parts.csv")}
    assert any(row["part"] != row["attribute"] for row in rows)
    for row in rows:
        parts, difference = (array(tmp_path / "set" / row[kind]) for kind in ("parts_mask", "difference_mask"))
        assert difference.any()
        assert np.array_equal(difference.astype(bool), parts == levels[row["part"]])


def test_world_is_reproducible(run: Run, tmp_path: Path) -> None:
    for name, seed, count in (("one", 1, 3), ("two", 1, 3), ("other", 2, 3), ("fewer", 1, 2)):
        assert run("world", name, "--count", count, "--seed", seed, "--size", 96).code == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 15
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    images = [file for file in files if file.suffix == ".png" and file.parts[0] != ".masks"]
    assert len(images) == 3
    for file in images:
        assert (tmp_path / "one" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()
    # The first plates of a set do not depend on how many follow.
    for file in images[:2]:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "fewer" / file).read_bytes()


def test_world_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    assert "file" in run("world", "file", "--count", 1).line()
    assert (tmp_path / "file").read_text() == "kept"

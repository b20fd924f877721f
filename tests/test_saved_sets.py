"""Images in the rows of tables: folders that Hugging Face's ``save_to_disk`` has written, and Parquet files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import crews
import pyarrow.parquet
import pytest
from clis import TWINS, embedded, run  # noqa: F401  (fixtures)
from PIL import Image

from concept_cam import world
from concept_cam.address import Address, address_of, images_within
from concept_cam.cli.folders import sources
from concept_cam.cli.tabled import of_tables, species_of
from concept_cam.datasets import read_dataset, saved_images
from concept_cam.datasets.huggingface import is_saved
from concept_cam.errors import DatasetError, ImageError
from concept_cam.images import read_image
from concept_cam.imagetables import image_table
from concept_cam.outside import read_bytes
from concept_cam.parts import read_parts
from concept_cam.runs import run_together
from concept_cam.runs.identity import digests_of_examples
from concept_cam.store import Store, store_fields, write_matches
from concept_cam.writers import find_parts_of_images, localize_images, read_results

datasets = pytest.importorskip("datasets")

COUNT = 10
BROKEN, EMPTY, LISTED, WHITE = 3, 5, 7, 8
"""Rows: no image, nothing, only the path of a file, and an image on which processes die."""


@pytest.fixture(autouse=True)
def dated(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(COUNT):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"{seed:02d}.png")
    return folder


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


def rows_of(photos, column="image"):
    return {column: [{"bytes": photo.read_bytes(), "path": photo.name} for photo in sorted(photos.iterdir())]}


def made_of(rows, labels=None):
    kinds = {name: datasets.Image() for name in rows}
    if labels:
        rows, kinds = rows | {"breed": labels}, kinds | {"breed": datasets.ClassLabel(names=["ember_finch", "blue_jay"])}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


@pytest.fixture(scope="module")
def saved(photos, tmp_path_factory):
    """A set in two files."""
    folder = tmp_path_factory.mktemp("saved") / "birds"
    made_of(rows_of(photos)).save_to_disk(str(folder), num_shards=2)
    return folder


@pytest.fixture(scope="module")
def damaged(photos, tmp_path_factory):
    """A set with rows that cannot be read, and one that kills whoever looks at it with a certain method."""
    folder, (name, held) = tmp_path_factory.mktemp("damaged"), *rows_of(photos).items()
    held[BROKEN] = {"bytes": b"no image", "path": None}
    held[EMPTY], held[LISTED] = None, {"bytes": None, "path": str(photos / "00.png")}
    Image.new("RGB", (96, 96), "white").save(folder / "white.png")
    held[WHITE] = {"bytes": (folder / "white.png").read_bytes(), "path": None}
    made = made_of({name: held})
    made.save_to_disk(str(folder / "birds"))
    # That has put the file into the table.
    (file,) = (folder / "birds").glob("*.arrow")
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, made.data.table.schema) as stream:
        stream.write_table(made.data.table)
    return folder / "birds"


def row(folder):
    with (folder / "rows.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_rows_of_a_saved_set_are_those_of_its_files(photos, saved, localizer, tmp_path):
    images = sources([saved])
    assert images == saved_images(saved)
    assert [image.relative_to(saved).as_posix() for image in images[4:6]] == [
        "data-00000-of-00002.arrow/image-000004",
        "data-00001-of-00002.arrow/image-000000",
    ]
    files = sorted(photos.iterdir())
    assert [read_bytes(image, 1 << 20) for image in images] == [file.read_bytes() for file in files]
    for given, out in ((files, "files"), (images, "rows")):
        assert localize_images(localizer, given, tmp_path / out, "ember finch", "frost finch", output="parquet") == 0
    ours, theirs = (row(tmp_path / name) for name in ("rows", "files"))
    plain = [{key: value for key, value in one.items() if key != "image"} for one in ours]
    assert plain == [{key: value for key, value in one.items() if key != "image"} for one in theirs]
    assert [one["image"] for one in ours] == list(map(str, images))
    ours, theirs = (list(read_results(tmp_path / name)) for name in ("rows", "files"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["id"] == other["id"]
        assert (one["map"] == other["map"]).all()


@pytest.mark.slow
def test_the_fields_of_rows_are_stored_and_found(photos, saved, localizer, tmp_path):
    assert store_fields(localizer, sources([saved]), tmp_path / "rows-fields") == 0
    (answer,) = Store.open(tmp_path / "rows-fields").search(localizer, "red crown", against="bird", top=2)
    write_matches([answer], tmp_path / "found")
    assert len(list((tmp_path / "found" / "overlays").iterdir())) == 2


def test_all_splits_and_the_labels_of_parts(photos, localizer, tmp_path):
    made = made_of(rows_of(photos, "photo"), [k % 2 for k in range(COUNT)])
    folder = tmp_path / "set"
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(folder))
    images = sources([folder])
    assert len(images) == 2 * COUNT
    assert sources([folder / "test"]) == images[COUNT:] == sources([next((folder / "test").glob("*.arrow"))])
    species = species_of(images, [folder], "bird")
    assert list(species.values())[:3] == ["ember finch", "blue jay", "ember finch"]
    plain = made_of(rows_of(photos))
    plain.save_to_disk(str(tmp_path / "plain"))
    assert set(species_of(sources([tmp_path / "plain"]), [tmp_path / "plain"], "bird").values()) == {"bird"}


@pytest.mark.slow
def test_the_parts_of_rows(saved, localizer, tmp_path):
    few = dict.fromkeys(sources([saved])[:2], "finch")
    find_parts_of_images(localizer, few, tmp_path / "parts", read_parts("world-parts"), data="set")
    assert all((tmp_path / "parts" / "annotated" / f"image-00000{k}.png").is_file() for k in range(2))


def test_a_row_that_cannot_be_read_says_why(damaged, localizer, tmp_path):
    reasons = {}
    hear = lambda path, problem: reasons.update({path.name: problem})  # noqa: E731
    images = sources([damaged])
    asked = ("ember finch", "frost finch")
    count = localize_images(localizer, images, tmp_path / "out", *asked, output="parquet", failed=hear)
    assert count == 3
    expected = {
        BROKEN: "not an image in a known format",
        EMPTY: "the row holds no image",
        LISTED: "holds the path of an image",
    }
    assert reasons.keys() == {f"image-{number:06d}" for number in expected}
    for number, said in expected.items():
        assert said in reasons[f"image-{number:06d}"]
    found = row(tmp_path / "out")
    assert [number for number, one in enumerate(found) if one["problem"]] == list(expected)


@pytest.mark.slow
def test_the_command_takes_a_saved_set(saved, run, tmp_path):  # noqa: F811
    ran = run("localize", saved, *TWINS, "--as", "parquet", "--out", "out")
    assert (ran.code, ran.err) == (0, "")
    assert "10 images in out/data/*.parquet" in ran.out
    ran = run("fields", saved, "--out", "store")
    assert ran.code == 0
    (tmp_path / "empty").mkdir()
    shutil.copy(saved / "state.json", tmp_path / "empty")
    assert "there is no such file" in run("localize", "empty", *TWINS).line()


def test_the_extra_is_named(saved, run, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("concept_cam.shards._shard_of", lambda *_: image_table(None, ".arrow"))
    assert "pip install 'concept-cam[huggingface]'" in run("localize", saved, *TWINS).line()


def test_tables_of_images_in_parquet(photos, localizer, tmp_path):
    made_of(rows_of(photos), [0] * COUNT).to_parquet(str(tmp_path / "birds.parquet"), batch_size=4)
    images = sources(of_tables([tmp_path / "birds.parquet"])[0])
    assert [image.name for image in images] == [f"image-{k:06d}" for k in range(COUNT)]
    assert [read_bytes(image, 1 << 20) for image in images] == [file.read_bytes() for file in sorted(photos.iterdir())]
    assert set(species_of(images, [tmp_path], "bird").values()) == {"ember finch"}
    # A table of paths is one as before, and one without images is none.
    assert sources([tmp_path / "birds.parquet"]) == images
    pyarrow.parquet.write_table(
        pyarrow.table({"file": [str(photos / "00.png")], "label": ["finch"]}), tmp_path / "list.parquet"
    )
    with pytest.raises(ImageError, match=r"table of images cannot be read \(it has no column of images"):
        sources([tmp_path / "list.parquet"])
    assert "leads out" in "; ".join(read_dataset_problems(tmp_path / "list.parquet"))


def read_dataset_problems(table):
    try:
        return read_dataset(table).problems
    except DatasetError as error:
        return (str(error),)


def test_a_row_group_that_is_too_large_is_refused(photos, tmp_path, monkeypatch):
    made_of(rows_of(photos)).to_parquet(str(tmp_path / "birds.parquet"))
    monkeypatch.setattr("concept_cam.imagetables._LARGEST_GROUP", 1000)
    with pytest.raises(ValueError, match=r"a row group of more than 1,000 bytes; .* row_group_size=100"):
        read_bytes(images_within(tmp_path / "birds.parquet")[0], 1 << 20)


def test_rows_of_one_image_are_as_large_as_they_are_unpacked(photos, tmp_path, monkeypatch):
    (name, held), file = *rows_of(photos).items(), tmp_path / "birds.parquet"
    pyarrow.parquet.write_table(made_of({name: held[:1] * 1000}).data.table, file)  # with a dictionary
    limit = 200 * len(held[0]["bytes"])
    monkeypatch.setattr("concept_cam.imagetables._LARGEST_GROUP", limit)
    assert pyarrow.parquet.ParquetFile(file).metadata.row_group(0).total_byte_size < limit
    with pytest.raises(ValueError, match="a row group of more than"):
        read_bytes(images_within(file)[0], 1 << 20)


def test_threads_unpack_a_row_group_once_and_two_are_kept(photos, tmp_path, monkeypatch):
    files = [tmp_path / f"{k}.parquet" for k in range(4)]
    for file in files:
        made_of(rows_of(photos)).to_parquet(str(file))
    images = [images_within(file)[0] for file in files]
    unpacked, real = [], pyarrow.parquet.ParquetFile.iter_batches

    def counted(*given, **named):
        unpacked.append(given)
        time.sleep(0.05)
        return real(*given, **named)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counted)
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(lambda _: read_bytes(images[0], 1 << 20), range(4)))) == 1
    assert len(unpacked) == 1
    for image in (*images[1:], images[3], images[0]):
        read_bytes(image, 1 << 20)
    assert len(unpacked) == 5


@pytest.mark.parametrize("name", ["image-10", "image-00000a", "image-0000000", "image-999999", "other-000001", "a/b", "../x"])
def test_no_other_name_is_an_image(saved, name):
    place = next(saved.glob("*.arrow"))
    with pytest.raises(FileNotFoundError, match="the table has no such image"):
        Address(place, name).stat()
    assert not Address(place, name).exists()


def test_what_a_saved_set_must_not_do(saved, photos, tmp_path):
    shutil.copytree(saved, tmp_path / "set")
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    for name in (str(next(saved.glob("*.arrow"))), "../other.arrow"):
        held = state | {"_data_files": [{"filename": name}]}
        (tmp_path / "set" / "state.json").write_text(json.dumps(held))
        with pytest.raises(DatasetError, match="leads out"):
            saved_images(tmp_path / "set")
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    file = next((tmp_path / "set").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DatasetError, match="cannot be read"):
        saved_images(tmp_path / "set")
    made = datasets.Dataset.from_dict({"number": [1]})
    made.save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DatasetError, match="no column of images, of bytes and path; its columns are number"):
        saved_images(tmp_path / "none")
    assert is_saved(tmp_path / "none")
    assert not is_saved(photos)


def test_sounds_and_masks_are_no_images(photos, tmp_path):
    rows = rows_of(photos, "a mask") | rows_of(photos, "photo")
    made_of(rows).save_to_disk(str(tmp_path / "masks"))
    assert {image.name.partition("-")[0] for image in saved_images(tmp_path / "masks")} == {"photo"}


def test_a_data_set_reads_its_images_from_their_rows(damaged, photos, tmp_path, monkeypatch):
    """So that they are protected and digested as files are: the process that begins a run does not decode them."""
    made = made_of(rows_of(photos), [k % 2 for k in range(COUNT)])
    made.save_to_disk(str(tmp_path / "set"))
    data = read_dataset(tmp_path / "set")
    assert [address_of(example.image) for example in data.examples] == saved_images(tmp_path / "set")
    monkeypatch.setattr("concept_cam.decoding.opened", None)
    monkeypatch.setattr("concept_cam.reading.opened", None)
    assert len(digests_of_examples(data.examples)) == 3


def test_a_set_whose_images_have_no_address_is_evaluated(photos, tmp_path):
    labels = [k % 2 for k in range(COUNT)]
    made_of(rows_of(photos, "photo/rgb"), labels).save_to_disk(str(tmp_path / "slash"))
    made_of(rows_of(photos), labels).save_to_disk(str(tmp_path / "ending"))
    (file,) = (tmp_path / "ending").glob("*.arrow")
    file.rename(file.with_suffix(".data"))
    state = tmp_path / "ending" / "state.json"
    state.write_text(state.read_text().replace(file.name, f"{file.stem}.data"))
    for name in ("slash", "ending"):
        data = read_dataset(tmp_path / name)
        assert len({example.read().tobytes() for example in data.examples}) == COUNT
    with pytest.raises(ValueError, match=r"its name ends in none of \.tar, \.arrow, \.parquet"):
        images_within(tmp_path / "ending" / f"{file.stem}.data")


def test_a_row_with_empty_bytes_is_the_file_that_it_names(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "set")
    held = {"image": [{"bytes": b"", "path": "00.png"}, {"bytes": (photos / "01.png").read_bytes(), "path": None}]}
    made_of(held, [0, 1]).save_to_disk(str(tmp_path / "set"))
    (file,) = (tmp_path / "set").glob("*.arrow")
    made = made_of(held, [0, 1]).data.table
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made)
    data = read_dataset(tmp_path / "set")
    assert [example.read().tobytes() for example in data.examples] == [
        read_image(photos / f"0{k}.png").tobytes() for k in range(2)
    ]
    with pytest.raises(ValueError, match="the row holds the path of an image"):
        read_bytes(saved_images(tmp_path / "set")[0], 1 << 20)


@pytest.mark.parametrize("make", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_compressed_table_is_not_unpacked(photos, tmp_path, make, compression):
    (name, held), file = *rows_of(photos).items(), tmp_path / "birds.arrow"
    held = [{"bytes": one["bytes"] + bytes(5000), "path": None} for one in held]
    made = made_of({name: held}).data.table
    beside = pyarrow.array(["the same text in many rows" * 1000] * COUNT).dictionary_encode()
    with make(
        str(file), made.append_column("text", beside).schema, options=pyarrow.ipc.IpcWriteOptions(compression=compression)
    ) as to:
        to.write_table(made.append_column("text", beside), max_chunksize=1)
    if compression is None:
        assert [read_bytes(image, 1 << 20) for image in images_within(file)] == [one["bytes"] for one in held]
    else:
        with pytest.raises(ValueError, match="it is compressed, and would be unpacked as a whole; write it without"):
            images_within(file)


# ---- launchers --------------------------------------------------------------------------------------------------------


def jobs(images, folder, localizer, name):
    species = dict.fromkeys(images, "ember finch")
    asked = {
        "localize": partial(localize_images, localizer, images, folder, "ember finch", "frost finch", batch_size=2),
        "parts": partial(find_parts_of_images, localizer, species, folder, read_parts("world-parts")),
        "fields": partial(store_fields, localizer, images, folder),
    }
    return asked[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["localize", "parts", "fields"])
def test_each_launcher_makes_the_same_bytes(photos, localizer, tmp_path, name, monkeypatch):
    rows = rows_of(photos)
    made_of({"image": rows["image"] * 5}).save_to_disk(str(tmp_path / "set"), num_shards=3)
    images = sources([tmp_path / "set"])
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    jobs(images, tmp_path / "here", localizer, name)()
    for engine in ("processes", "ray"):
        run_together(2, jobs(images, tmp_path / engine, localizer, name), engine=engine)
        assert files_of(tmp_path / engine) == files_of(tmp_path / "here")


def files_of(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_row_that_kills_costs_three_tries_and_says_so(damaged, tmp_path, engine, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    if engine == "ray":
        pytest.importorskip("ray")
    images, reasons = sources([damaged]), {}
    localizer = crews.localizer(crews.killed_by_white)
    hear = lambda path, problem: reasons.update({path.name: problem})  # noqa: E731
    asked = partial(localize_images, localizer, images, tmp_path / "out", "ember finch", "frost finch", batch_size=2)
    assert run_together(2, asked, engine=engine, failed=hear) == 4
    assert "three processes died on this file, so it is skipped" in reasons[f"image-{WHITE:06d}"]
    assert [k for k, one in enumerate(row(tmp_path / "out")) if one["problem"]] == [BROKEN, EMPTY, LISTED, WHITE]


@pytest.mark.slow
def test_a_large_table_is_never_in_memory(tmp_path):
    """400 MB of images are gone through, and the process grows by less than a tenth of it."""
    rows = {"image": [{"bytes": os.urandom(1_000_000), "path": None} for _ in range(40)]}
    made_of(rows).save_to_disk(str(tmp_path / "set"))
    many = datasets.concatenate_datasets([datasets.load_from_disk(str(tmp_path / "set"))] * 10)
    many.save_to_disk(str(tmp_path / "many"))
    code = (
        "import sys; from pathlib import Path; from concept_cam.datasets import saved_images\n"
        "from concept_cam.outside import read_bytes\n"
        "images = saved_images(Path(sys.argv[1])); read_bytes(images[0], 1 << 21)\n"
        "def held(): return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])\n"
        "before = held(); sum(len(read_bytes(image, 1 << 21)) for image in images); print(len(images), held() - before)\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "many")]
    count, grown = map(int, subprocess.run(line, check=True, capture_output=True, text=True, timeout=120).stdout.split())
    assert count == 400
    assert grown < 40_000

"""Images and folders that are no files of this machine: an object store, served here by moto, and tar files."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import torch
from clis import TWINS
from moto.server import ThreadedMotoServer
from safetensors.torch import load

from concept_cam import world
from concept_cam.address import Address, address_of, images_within, is_remote
from concept_cam.audit import Audit, audit, write_report, write_tables
from concept_cam.audit.maps import Drawing
from concept_cam.audit.packing import Sources
from concept_cam.cli.addressed import _ranged
from concept_cam.cli.folders import sources
from concept_cam.cli.tabled import of_tables, species_of
from concept_cam.datasets import Example, read_dataset, saved_images
from concept_cam.datasets.builder import DatasetBuilder
from concept_cam.errors import ConceptCamError, DatasetError, ImageError, OptionError, OutputError, Unreachable
from concept_cam.evaluation import evaluate
from concept_cam.explorer import write_explorer
from concept_cam.files import FileWriter
from concept_cam.images import Placement, read_image
from concept_cam.outside import read_bytes
from concept_cam.parts import read_parts
from concept_cam.remote import fetch, information
from concept_cam.runs import Run
from concept_cam.runs.batches import Batch
from concept_cam.runs.identity import digests_of_examples
from concept_cam.runs.share import NOWHERE, Share
from concept_cam.store import Store, store_fields, write_matches
from concept_cam.views import each_view
from concept_cam.writers import find_parts_of_images, localize_images
from concept_cam.writers.dataset import sha256_of

COUNT = 10

FEW = 3
"""Two batches of two."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(COUNT):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"{seed:02d}.png")
    return folder


@pytest.fixture(scope="module")
def server():
    made = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def s3(server, photos, monkeypatch):
    """A file system of a bucket with the photographs."""
    host, port = server.get_host_and_port()
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for key, value in {**given, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    system = fsspec.filesystem("s3")
    if not system.exists("bucket"):
        system.mkdir("bucket")
        for photo in photos.iterdir():
            system.pipe_file(f"bucket/photos/{photo.name}", photo.read_bytes())
    return system


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


def packed(photos, file):
    with tarfile.open(file, "w") as tar:
        for photo in sorted(photos.iterdir()):
            tar.add(photo, photo.name)
            about = tarfile.TarInfo(f"{photo.stem}.json")
            about.size = 2
            tar.addfile(about, io.BytesIO(b"{}"))
    return file


def tree(folder):
    """The files of a folder, here or in a store, by their names."""
    if is_remote(folder):
        system, top = fsspec.filesystem("s3"), str(folder).removeprefix("s3://")
        system.invalidate_cache()
        return {name[len(top) + 1 :]: system.cat_file(name) for name in system.find(top)}
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


def same(found, wanted, names=()):
    """Whether two folders hold the same files, but for how the images are called in some of them."""
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        own = found[name]
        for one, other in names:
            own = own.replace(one.encode(), other.encode())
        if name == "index.safetensors":  # its header has the digest of run.json
            start = 8 + int.from_bytes(content[:8], "little")
            assert own[start:] == content[start:]
            continue
        if name.startswith("batches/") and name.endswith(".safetensors"):
            ours, theirs = load(own), load(content)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        elif not name.startswith("batches/") and name not in ("how.json", "run.json"):
            assert own == content, name


def test_an_address_is_a_path():
    image = address_of(Path("s3://bucket/a/b.png"))
    assert isinstance(image, Address)
    assert isinstance(image, Path)
    assert str(image) == "s3://bucket/a/b.png"
    assert image == address_of("s3://bucket/a") / "b.png"
    assert hash(image) == hash(pickle.loads(pickle.dumps(image)))
    assert type(pickle.loads(pickle.dumps(image))) is Address
    assert type(image.parent) is Address
    assert (image.name, image.stem, image.suffix) == ("b.png", "b", ".png")
    assert str(image.relative_to(address_of("s3://bucket"))) == "a/b.png"
    assert str((image.parent / "../c.png").absolute()) == "s3://bucket/c.png"
    assert type(address_of("photos/a.png")) is type(Path())
    assert type(address_of("x.tar")) is type(Path())
    with pytest.raises(OptionError, match="give its path"):
        address_of("file:///etc/passwd")


# ---- tar files --------------------------------------------------------------------------------------------------------


def test_a_tar_file_gives_the_rows_of_its_folder(photos, localizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    tar = packed(photos, tmp_path / "000.tar")
    images = sources([tmp_path / "{000..000}.tar"])
    assert [image.name for image in images] == [f"{k:02d}.png" for k in range(COUNT)]
    assert not capsys.readouterr().err
    for given, out in ((sources([photos]), "plain"), (images, "tar")):
        assert localize_images(localizer, given[:FEW], tmp_path / out, "ember finch", "frost finch", batch_size=2) == 0
        assert store_fields(localizer, given[:FEW], tmp_path / f"{out}-fields", batch_size=2) == 0
    same(tree(tmp_path / "tar"), tree(tmp_path / "plain"), [(str(tar), str(photos))])
    same(tree(tmp_path / "tar-fields"), tree(tmp_path / "plain-fields"))
    (answer,) = Store.open(tmp_path / "tar-fields").search(localizer, "red crown", against="bird", top=2)
    write_matches([answer], tmp_path / "found")
    assert len(list((tmp_path / "found" / "overlays").iterdir())) == 2


def test_a_tar_file_names_no_species_but_its_folders_do(photos, tmp_path):
    flat = packed(photos, tmp_path / "000.tar")
    assert set(species_of(sources([flat]), [flat], "bird").values()) == {"bird"}
    with tarfile.open(tmp_path / "001.tar", "w") as tar:
        tar.add(photos / "00.png", "blue_jay/a.png")
        tar.add(photos / "01.png", "wren/b.png")
    given = [tmp_path / "001.tar"]
    assert list(species_of(sources(given), given, "bird").values()) == ["blue jay", "wren"]


def test_hidden_members_are_no_images(photos, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("._a.png", "a.png", ".DS/x.png"):
            tar.add(photos / "00.png", name)
    assert [image.name for image in sources([tmp_path / "a.tar"])] == ["a.png"]


def test_a_folder_or_a_bucket_may_be_called_as_a_tar_file(photos, tmp_path):
    folder = tmp_path / "set.tar"
    folder.mkdir()
    inner = packed(photos, folder / "000.tar")
    (folder / "own.png").write_bytes((photos / "00.png").read_bytes())
    assert read_image(address_of(folder / "own.png")).size == (96, 96)
    assert len(sources([inner])) == COUNT
    assert read_bytes(address_of(inner / "03.png"), 1 << 20) == (photos / "03.png").read_bytes()
    bucket = address_of("s3://my.tar/a.png")
    assert bucket._split() == (bucket, "")


def test_a_folder_may_be_called_as_a_protocol(photos, tmp_path, monkeypatch):
    """Unless it is that of a store, which an address shall always mean."""
    monkeypatch.chdir(tmp_path)
    for name in ("data:", "s3:"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes((photos / "00.png").read_bytes())
    packed(photos, tmp_path / "data:" / "000.tar")
    assert read_image("data:/a.png").size == (96, 96)
    assert sources([Path("data:")]) == [Path("data:/a.png")]
    assert len(sources([Path("data:/000.tar")])) == COUNT
    assert not is_remote("data:/000.tar/03.png")
    assert is_remote("s3:/a.png")
    (tmp_path / "data:" / "a.png").unlink()
    (tmp_path / "data:" / "000.tar").unlink()
    (tmp_path / "data:").rmdir()
    assert is_remote("data:/a.png")


def test_ranges_are_bounded_together():
    assert len(list(_ranged("{00..09}/{0..9}.tar"))) == 100
    assert list(_ranged("a{1..2}/{08..10}"))[1:4] == ["a1/09", "a1/10", "a2/08"]
    for text in ("{0..999}/{0..1000}.tar", "{2..1}", "{0..1000000}"):
        with pytest.raises(OptionError, match="of 1,000,000 files at most"):
            next(_ranged(text))


def test_a_tar_file_that_is_changed_is_read_anew(photos, tmp_path):
    tar = packed(photos, tmp_path / "a.tar")
    image = address_of(tar / "03.png")
    before = read_bytes(image, 1 << 20), image.stat()
    assert before[0] == (photos / "03.png").read_bytes()
    with tarfile.open(tar, "w") as other:
        other.add(photos / "04.png", "03.png")
    assert read_bytes(image, 1 << 20) == (photos / "04.png").read_bytes()
    assert image.stat() != before[1]
    with pytest.raises(ImageError, match="does not exist"):
        read_image(address_of(tar / "05.png"))


def member(name, content=b"", kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


HOSTILE = {
    "above": (member("../03.png", b"x"), "leads out"),
    "absolute": (member("/etc/03.png", b"x"), "leads out"),
    "link": (member("03.png", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "hard link": (member("03.png", kind=tarfile.LNKTYPE, linkname="good.png"), "a link"),
    "device": (member("03.png", kind=tarfile.CHRTYPE), "no regular file"),
    "pipe": (member("03.png", kind=tarfile.FIFOTYPE), "no regular file"),
    "sparse": (member("03.png", b"x", pax_headers={"GNU.sparse.major": "1"}), "no regular file"),
    "huge": (member("03.png", size=1 << 40), "damaged after 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_left_out_and_told(name, photos, tmp_path, capsys):
    (info, content), told = HOSTILE[name]
    file = tmp_path / "a.tar"
    good = (photos / "00.png").read_bytes()
    with file.open("wb") as stream:
        for one, what in (member("good.png", good), (info, content)):
            head = one.tobuf(tarfile.PAX_FORMAT)
            stream.write(head + what + b"\0" * (-len(what) % 512))
        stream.write(b"\0" * 1024)
    assert [image.name for image in sources([file])] == ["good.png"]
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_in_every_format(kind, photos, tmp_path):
    name = f"{'a' * 90}/{'b' * 60}/übersee.png"
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        tar.add(photos / "00.png", name)
    (image,) = sources([tmp_path / "a.tar"])
    assert image.relative_to(tmp_path / "a.tar").as_posix() == name
    assert read_bytes(image, 1 << 20) == (photos / "00.png").read_bytes()


def test_damaged_tar_files(photos, tmp_path, capsys):
    tar = packed(photos, tmp_path / "a.tar")
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    assert 0 < len(sources([tar])) < COUNT
    assert "damaged after" in capsys.readouterr().err
    broken = bytearray(whole)
    place = whole.index(b"05.png")
    broken[place + 1] ^= 1
    tar.write_bytes(broken)
    assert len(sources([tar])) == 5
    assert "a header is damaged" in capsys.readouterr().err
    for content, said in ((b"", "no tar file"), (b"x" * 2000, "no tar file"), (bytes(1024), "no images in this tar")):
        tar.write_bytes(content)
        with pytest.raises(ImageError, match=said):
            sources([tar])
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as packed_tar:
        packed_tar.add(photos / "00.png", "00.png")
    (tmp_path / "c.tar").write_bytes((tmp_path / "b.tar.gz").read_bytes())
    for name in ("b.tar.gz", "c.tar"):
        with pytest.raises(ImageError, match=r"compressed.*unpack it"):
            sources([tmp_path / name])
    with pytest.raises(ImageError, match="cannot be read"):
        sources([tmp_path / "{00..01}.tar"])


def test_patterns(photos, tmp_path, capsys):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("1.png", "b/2.png", "b/note.txt"):
        (tmp_path / "a" / name).write_bytes((photos / "00.png").read_bytes())
    assert [one.name for one in sources([tmp_path / "**" / "*.png"])] == ["1.png", "2.png"]
    assert [one.name for one in sources([tmp_path / "a" / "b" / "*"])] == ["2.png"]
    assert "note.txt" in capsys.readouterr().err
    with pytest.raises(ImageError, match="no images match"):
        sources([tmp_path / "*.jpg"])
    (tmp_path / "[1].png").write_bytes((photos / "00.png").read_bytes())
    assert [one.name for one in sources([tmp_path / "[1].png"])] == ["[1].png"]  # a file is taken at its word


# ---- an object store --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_flow_in_a_store(s3, photos, localizer, tmp_path):
    """localize, parts, fields and search read there and write there what they read and write here."""
    remote = sources([Path("s3://bucket/photos")])
    assert [str(image) for image in remote] == [f"s3://bucket/photos/{k:02d}.png" for k in range(COUNT)]
    names, parts = [("s3://bucket/photos", str(photos))], read_parts("world-parts")
    for top, whole in ((tmp_path, sources([photos])), (address_of("s3://bucket/flow"), remote)):
        images, table = whole[:FEW], top / "all.csv"
        assert localize_images(localizer, images, top / "maps", "ember finch", "frost finch", table=table, batch_size=2) == 0
        find_parts_of_images(localizer, dict.fromkeys(images, "finch"), top / "parts", parts, data="photos")
        assert store_fields(localizer, images, top / "fields", batch_size=2) == 0
        found = Store.open(top / "fields", photos if top == tmp_path else None).search(localizer, "red crown", "bird")
        write_matches(found, top / "found")
    there = tree("s3://bucket/flow")
    for name in ("maps", "parts", "fields"):
        same(tree(address_of(f"s3://bucket/flow/{name}")), tree(tmp_path / name), names)
    assert there["all.csv"].replace(b"s3://bucket/photos", str(photos).encode()) == (tmp_path / "all.csv").read_bytes()
    overlays = {name for name in there if name.startswith("found/overlays/")}
    assert len(overlays) == FEW
    assert all(there[name] == (tmp_path / name).read_bytes() for name in overlays)


@pytest.mark.slow
def test_evaluations_and_audits_in_a_store(s3, photos, localizer, tmp_path):
    """Their rows, tables and maps are those of a folder; the report finds its images there too."""
    lines = "".join(f"photos/{k:02d}.png,{'ember finch' if k % 2 else 'frost finch'}\n" for k in range(6))
    s3.pipe_file("bucket/list.csv", f"file,label\n{lines}".encode())
    (tmp_path / "list.csv").write_text(f"file,label\n{lines}")
    (tmp_path / "photos").symlink_to(photos)
    for top in (tmp_path, address_of("s3://bucket")):
        data = read_dataset(top / "list.csv", root=None if is_remote(top) else photos.parent.parent)
        for _ in range(2):  # and it is resumed
            found = evaluate(localizer, data, top / "evaluated", methods="grad_cam", strengths=1.0)
        assert (found.used, found.skipped) == (6, 0)
        audited = audit(localizer, data, top / "audited", parts=read_parts("world-parts"))
        write_tables(audited)
        page = write_report(Audit.load(top / "audited"))
        assert page == top / "audited" / "report.html"
        with pytest.raises(OutputError, match="holds a run with another"):
            audit(localizer, data, top / "audited", strength=0.5)
    for name in ("evaluated", "audited"):
        ours, theirs = tree(address_of(f"s3://bucket/{name}")), tree(tmp_path / name)
        assert ours.keys() == theirs.keys()
        for file in ("rows.csv", "means.csv", "classes.csv", "pairs.csv", "words.csv", "summary.json"):
            assert ours.get(file) == theirs.get(file)
        drawn = [file for file in theirs if file.endswith(".png")]
        assert all(ours[file] == theirs[file] for file in drawn)
    assert drawn


def test_an_audit_opens_no_other_bucket(s3, photos, tmp_path):
    """It keeps a copy of what is elsewhere, and refuses the name of it."""
    examples = [Example("a", address_of("s3://bucket/photos/00.png"), "finch"), Example("b", photos / "01.png", "finch")]
    for folder, copies in ((tmp_path, [True, False]), (address_of("s3://bucket/run"), [False, False])):
        sources_ = Sources(examples, folder)
        assert [callable(one.image) for one in sources_.examples] == copies
        for one in sources_.examples:
            one.read()
        held = sources_.tensors([0, 1])
        names = bytes(held["sources"].tolist())
        assert (b"../photos/00.png" in names) == (not copies[0])
    drawing = Drawing(
        torch.zeros(1, 1), torch.zeros(1, 1), None, Placement((0, 0, 1, 1), (1, 1)), b"../../other/a.png", bytes(32)
    )
    with pytest.raises(ImageError, match=r"s3://other/a\.png: the image is in another bucket than the audit"):
        drawing.image(address_of("s3://bucket/run"))


def test_a_run_in_a_store_is_resumed_and_compared(s3, localizer):
    images, out = sources([Path("s3://bucket/photos/0[0-2].png")]), address_of("s3://bucket/resumed")
    assert len(images) == FEW
    assert localize_images(localizer, images, out, "ember finch", "frost finch", batch_size=2) == 0
    before = tree(out)
    s3.rm_file("bucket/resumed/batches/00001.csv")
    s3.rm_file("bucket/resumed/01-overlay.png")
    assert localize_images(localizer, images, out, "ember finch", "frost finch", batch_size=2) == 0
    assert tree(out) == before
    with pytest.raises(OutputError, match="holds a run with another target"):
        localize_images(localizer, images, out, "frost finch", "ember finch")
    with pytest.raises(OutputError, match="holds a run of several images"):
        localize_images(localizer, images[:1], out, "frost finch", "ember finch")


def test_who_comes_second_does_not_claim_the_folder(s3, monkeypatch):
    """Both have seen an empty folder."""
    folder = address_of("s3://bucket/claimed")
    monkeypatch.setattr(Address, "exists", lambda _: False)
    with Run.held(folder, {"a": 1}, ("image",)):
        pass
    with pytest.raises(OutputError, match="another a"), Run.held(folder, {"a": 2}, ("image",)):
        pass
    assert s3.cat_file("bucket/claimed/run.json") == b'{\n  "a": 1\n}\n'


def test_an_object_is_there_whole_or_not_at_all(s3):
    file = FileWriter("s3://bucket/whole/a.bin")
    file.write(b"half")
    file.discard()
    assert not s3.exists("bucket/whole/a.bin")
    with FileWriter("s3://bucket/whole/b.bin") as file:
        file.write(b"one, ")
        file.write(b"two")
    assert s3.cat_file("bucket/whole/b.bin") == b"one, two"


def test_threads_fetch_a_tar_file_once(s3, photos, tmp_path, monkeypatch):
    s3.pipe_file("bucket/threads.tar", packed(photos, tmp_path / "a.tar").read_bytes())
    fetched = []

    def slowly(url, size):
        fetched.append(url)
        time.sleep(0.2)
        return fetch(url, size)

    monkeypatch.setattr("concept_cam.shards.fetch", slowly)
    images = [address_of(f"s3://bucket/threads.tar/{k:02d}.png") for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(lambda image: read_bytes(image, 1 << 20), images))
    assert contents == [(photos / image.name).read_bytes() for image in images]
    assert len(fetched) == 1


def lost(*_, **__):
    raise Unreachable("s3://bucket: the store cannot be reached.")


def _of_a_view(photos, localizer, folder):
    each_view([1], lost, localizer.passes, lambda *_: [], lambda *_: None)


def _of_a_mask(photos, localizer, folder):
    digests_of_examples([Example("a.png", photos / "00.png", "finch", region=lost)])


def _of_an_example(photos, localizer, folder):
    DatasetBuilder().add([1], lost)


def _of_a_digest(photos, localizer, folder):
    sha256_of(photos / "00.png")


def _of_an_explorer(photos, localizer, folder):
    world_of_two = world.localizer(vocabulary=["ember finch", "frost finch"])
    write_explorer(world_of_two, sorted(photos.iterdir()), folder / "page.html")


@pytest.mark.parametrize("work", [_of_a_view, _of_a_mask, _of_an_example, _of_a_digest, _of_an_explorer])
def test_a_store_that_is_lost_is_no_fault_of_an_image(work, photos, localizer, tmp_path, monkeypatch):
    """It ends the run, whoever asks; else a row would say for ever what was wrong with the network."""
    monkeypatch.setattr("concept_cam.writers.dataset.chunks_of", lost)
    monkeypatch.setattr("concept_cam.localizer.Localizer.read", lost)
    with pytest.raises(Unreachable, match="cannot be reached"):
        work(photos, localizer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_object_is_read_at_once(s3, photos, monkeypatch):
    """Two requests for an image: how large it is, and its bytes."""
    asked = []

    class Counting:
        def __getattr__(self, name):
            asked.append(name)
            return getattr(s3, name)

    content = os.urandom(3_000_000)
    s3.pipe_file("bucket/three.bin", content)
    monkeypatch.setattr("concept_cam.remote._system", lambda _: Counting())
    assert read_bytes(address_of("s3://bucket/three.bin"), 1 << 22) == content
    with address_of("s3://bucket/three.bin").open() as stream:
        assert stream.read() == content
    assert read_image("s3://bucket/photos/03.png") == read_image(photos / "03.png")
    assert sorted(asked) == ["cat_file"] * 3 + ["info"] * 3 + ["invalidate_cache"] * 3


def test_a_short_answer_ends_the_run(s3, monkeypatch):
    """Else the row of that image would say for ever what was wrong with the network."""

    class Short:
        def __getattr__(self, name):
            return getattr(s3, name)

        def cat_file(self, *given, **named):
            return s3.cat_file(*given, **named)[:-1]

    monkeypatch.setattr("concept_cam.remote._system", lambda _: Short())
    with pytest.raises(Unreachable, match=r"00\.png: [0-9,]+ bytes came, where .*Start the same command again"):
        read_image("s3://bucket/photos/00.png")


def test_a_seal_that_cannot_be_removed_ends_the_run(tmp_path, monkeypatch):
    """A batch that is made anew would count as the old one; one that is not there has no seal."""
    Batch(tmp_path / "00000", "run", ("a",)).unseal()
    monkeypatch.setattr(Address, "unlink", lost)
    with pytest.raises(Unreachable):
        Batch(address_of("s3://bucket/batches/00000"), "run", ("a",)).unseal()


def test_a_worker_that_loses_the_store_says_so():
    part = Share(0, frozenset(), 1, NOWHERE, frozenset(), {}, "digest", print)
    with pytest.raises(Unreachable, match="cannot be reached"):
        part.settings_in(address_of("s3://bucket/run"), lost)


def test_a_prefix_may_be_called_as_a_tar_file(s3, photos):
    content = (photos / "00.png").read_bytes()
    for name in ("set.tar/a.png", "set.tar/deep/b.png"):
        s3.pipe_file(f"bucket/odd/{name}", content)
    (image,) = sources([Path("s3://bucket/odd/set.tar")])
    assert str(image) == "s3://bucket/odd/set.tar/a.png"
    assert read_image(image).size == (96, 96)
    assert image.is_file()
    assert [one.name for one in sources([Path("s3://bucket/odd/set.tar/*.png")])] == ["a.png"]


def test_a_store_is_asked_once_for_a_tar_file(s3, photos, tmp_path, monkeypatch):
    """However many images are read; and once more whenever its images are listed."""
    s3.pipe_file("bucket/once/000.tar", packed(photos, tmp_path / "a.tar").read_bytes())
    asked = []
    monkeypatch.setattr("concept_cam.address.information", lambda url: asked.append(url) or information(url))
    monkeypatch.setattr("concept_cam.address.time.monotonic", lambda: 7.0)
    monkeypatch.setattr("concept_cam.remote.information", None)
    images = sources([Path("s3://bucket/once/000.tar")])
    assert asked == ["s3://bucket/once/000.tar"]
    for image in images:
        assert read_image(image).size == (96, 96)
        assert image.stat().st_size == len((photos / image.name).read_bytes())
    assert len(asked) == 1
    s3.pipe_file("bucket/once/000.tar", packed(photos, tmp_path / "b.tar").read_bytes()[:5000] + bytes(1024))
    assert read_image(images[0]).size == (96, 96)
    monkeypatch.setattr("concept_cam.address.time.monotonic", lambda: 70.0)
    with pytest.raises(ImageError, match="does not exist"):
        read_image(images[-1])
    assert len(asked) == 2
    assert len(images_within("s3://bucket/once/000.tar")) < len(images)
    assert len(asked) == 3


def test_a_saved_set_in_a_store(s3, photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(photos.iterdir())
    rows = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]}
    made = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "birds"))
    s3.put(str(tmp_path / "birds"), "bucket/birds", recursive=True)
    images = sources([Path("s3://bucket/birds")])
    assert str(images[3]) == "s3://bucket/birds/train/data-00000-of-00001.arrow/image-000003"
    assert [read_bytes(image, 1 << 20) for image in images] == [file.read_bytes() for file in files]
    made.select(range(2)).save_to_disk(str(tmp_path / "fewer"))
    s3.put(str(tmp_path / "fewer" / images[0].parent.name), str(images[0].parent))
    assert saved_images(address_of("s3://bucket/birds")) == images[:2]  # at once, whatever was known of the store


def test_a_saved_set_opens_no_other_bucket(s3):
    s3.pipe_file("bucket/leads/state.json", json.dumps({"_data_files": [{"filename": "../../other/a.arrow"}]}).encode())
    s3.pipe_file("bucket/leads/dataset_info.json", b"{}")
    with pytest.raises(DatasetError, match="leads out"):
        saved_images(address_of("s3://bucket/leads"))


@pytest.mark.slow
def test_a_large_object_is_sent_in_parts_and_read_by_range(s3):
    content = os.urandom(1 << 20) * 110
    with FileWriter("s3://bucket/large.bin") as file:
        file.write(content)
    with address_of("s3://bucket/large.bin").open() as stream:
        assert stream.seek(100_000_000)
        assert stream.read(5_000_000) == content[100_000_000:105_000_000]
    s3.rm_file("bucket/large.bin")


def test_tar_files_and_tables_in_a_store(s3, photos, localizer, tmp_path):
    s3.pipe_file("bucket/shards/007.tar", packed(photos, tmp_path / "a.tar").read_bytes())
    images = sources([Path("s3://bucket/shards/{007..007}.tar")])
    assert images == sources([Path("s3://bucket/shards/*.tar")])
    assert len(images) == COUNT
    assert read_bytes(images[3], 1 << 20) == (photos / "03.png").read_bytes()
    for given, out in ((images, "tar"), (sources([photos]), "plain")):
        assert localize_images(localizer, given[:FEW], tmp_path / out, "ember finch", "frost finch", batch_size=2) == 0
    same(tree(tmp_path / "tar"), tree(tmp_path / "plain"), [("s3://bucket/shards/007.tar", str(photos))])

    table = "file,label\ns3://bucket/photos/00.png,finch\nfile:///etc/passwd,finch\nftp://a/b.png,jay\n"
    (tmp_path / "list.csv").write_text(table)
    found, labels = of_tables([tmp_path / "list.csv"])
    assert [str(image) for image in found] == ["s3://bucket/photos/00.png"]
    assert list(labels.values()) == ["finch"]
    s3.pipe_file("bucket/list.csv", b"file,label\nphotos/01.png,finch\n/etc/passwd,finch\n../other/b.png,finch\n")
    found, _ = of_tables([Path("s3://bucket/list.csv")])
    assert [str(image) for image in sources(found)] == ["s3://bucket/photos/01.png"]


def test_what_a_store_does_not_have(s3, localizer):
    for given in ("s3://nowhere/photos", "s3://bucket/nothing", "s3://bucket/nothing/*.png"):
        with pytest.raises(ImageError, match=r"s3://.*(no such|no images)"):
            sources([Path(given)])
    gone = address_of("s3://bucket/photos/gone.png")
    problems = []
    images = [*sources([Path("s3://bucket/photos/00.png")]), gone]
    localize_images(
        localizer, images, "s3://bucket/gone", "ember finch", "frost finch", failed=lambda _, why: problems.append(why)
    )
    assert problems == ["s3://bucket/photos/gone.png: the file does not exist; expected an image such as a JPEG or PNG file."]
    with pytest.raises(OutputError, match=r"s3://nowhere/a/b.json: cannot be written \(there is no such"):
        FileWriter("s3://nowhere/a/b.json").close()


def test_a_store_that_refuses_or_is_not_there(s3, monkeypatch, localizer):
    with pytest.raises(Unreachable, match="no protocol of files is called 'nonsense'"):
        read_image("nonsense://a/b.png")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "s3fs", None)
        patch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
        with pytest.raises(ConceptCamError, match=r"install 'concept-cam\[s3\]'"):
            read_image("s3://bucket/photos/00.png")

    class Refusing:
        def __getattr__(self, name):
            return getattr(s3, name)

        def cat_file(self, *_, **__):
            raise PermissionError("Forbidden")

    images = sources([Path("s3://bucket/photos")])
    monkeypatch.setattr("concept_cam.remote._system", lambda _: Refusing())
    with pytest.raises(Unreachable, match=r"00.png: the store refuses it \(Forbidden\); check the credentials"):
        localize_images(localizer, images, "s3://bucket/refused", "ember finch", "frost finch")
    assert not s3.exists("bucket/refused/run.json")


# ---- processes --------------------------------------------------------------------------------------------------------


def asked(out, *more):
    return ("localize", "s3://bucket/photos", *TWINS, "--batch-size", "2", "--out", out, *more)


def finish(out, *more):
    """Run it in a process of its own: in that of the tests functions are checked, and so are others."""
    line = [sys.executable, "-m", "concept_cam", *asked(out, *more)]
    subprocess.run(line, check=True, capture_output=True, timeout=120)


def started(out):
    """A process that is in the middle of a run."""
    line = [sys.executable, "-m", "concept_cam", *asked(out)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    system = fsspec.filesystem("s3")
    for _ in range(3000):
        system.invalidate_cache()
        if process.poll() is not None or system.exists(f"{out.removeprefix('s3://')}/batches/00000.json"):
            break
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    return process


@pytest.fixture
def more_photos(s3, photos):
    """So many that a run takes some seconds."""
    names = [f"bucket/photos/{k}.png" for k in range(100, 115)]
    for name in names:
        s3.pipe_file(name, (photos / "00.png").read_bytes())
    yield
    for name in names:
        s3.rm_file(name)


def rows_of(found):
    """What a run holds, without the line that started it."""
    return {name: content for name, content in found.items() if name != "how.json"}


@pytest.mark.slow
def test_killed_lost_and_resumed(s3, server, more_photos):
    """The same bytes as a run that nothing happened to: after a kill, and after the store was away."""
    finish("s3://bucket/whole-run")
    whole = tree("s3://bucket/whole-run")
    assert len(whole["rows.csv"].splitlines()) == COUNT + 16

    process = started("s3://bucket/killed")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert "rows.csv" not in tree("s3://bucket/killed")
    finish("s3://bucket/killed")
    assert rows_of(tree("s3://bucket/killed")) == rows_of(whole)

    process = started("s3://bucket/lost")
    _, port = server.get_host_and_port()
    server.stop()
    try:
        _, said = process.communicate(timeout=120)
    finally:
        server._server_ready, server._port = False, port
        server.start()
    assert process.returncode == 2
    assert re.search("concept-cam: s3://.*cannot be reached.*start the same command again", said.splitlines()[-1])
    finish("s3://bucket/lost")
    assert rows_of(tree("s3://bucket/lost")) == rows_of(whole)


@pytest.mark.slow
def test_two_processes_in_a_store(s3):
    finish("s3://bucket/one")
    finish("s3://bucket/two", "--processes", "2")
    assert rows_of(tree("s3://bucket/one")) == rows_of(tree("s3://bucket/two"))

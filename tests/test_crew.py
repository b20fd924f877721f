"""Several processes make one run: the same bytes, nothing lost, nothing twice, whoever dies."""

from __future__ import annotations

import csv
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import crews
import pytest
import written
from PIL import Image

from concept_cam import world
from concept_cam.audit import audit
from concept_cam.cli.given import gpus_for
from concept_cam.datasets import read_dataset
from concept_cam.datasets.layouts import LAYOUTS
from concept_cam.errors import OptionError, OutputError
from concept_cam.evaluation import evaluate
from concept_cam.parts import read_parts
from concept_cam.runs import run_together
from concept_cam.runs.batches import Batch
from concept_cam.runs.crew import Crew
from concept_cam.runs.launcher import End
from concept_cam.runs.share import NOWHERE, Share, share
from concept_cam.runs.spawned import Processes
from concept_cam.store import store_fields
from concept_cam.world.dataset import birds_dataset, twins_dataset
from concept_cam.writers import find_parts_of_images, localize_images

COUNT, SIZE = 18, 2
"""Images: two batches of eight, and one of two."""

WHITE, BROKEN = "03.png", "12.png"


@pytest.fixture(autouse=True)
def dated(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed in range(COUNT):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"{seed:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def shared(monkeypatch):
    """How many batches were missing each time, all of which others than this process have made."""
    counts, real = [], Crew.make

    def make(crew, batches, missing, run):
        real(crew, batches, missing, run)
        counts.append(len(missing))

    monkeypatch.setattr(Crew, "make", make)
    return counts


@pytest.fixture
def alone(monkeypatch):
    """A run of which this process makes nothing."""
    real = Batch.write

    def write(batch, files):
        assert share() is not None, "this process has made a batch"
        real(batch, files)

    return lambda: monkeypatch.setattr(Batch, "write", write)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """What one process makes."""
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    folder = tmp_path_factory.mktemp("whole")
    assert job(images, folder)() == 0
    return tree(folder)


def job(images, folder, localizer=None):
    return partial(
        localize_images,
        localizer or crews.localizer(),
        images,
        folder,
        "ember finch",
        "frost finch",
        batch_size=SIZE,
    )


def tree(folder):
    """Files by their names; a method of another name makes the same maps, but the records say how they are made."""
    names = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    return {name: (Path(folder) / name).read_bytes() for name in names}


def maps(files):
    """Those that do not say how they are made."""
    return {name: content for name, content in files.items() if name.endswith((".png", "rows.csv"))}


def rows(folder):
    with (Path(folder) / "rows.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_bytes_are_those_of_one_process(images, whole, tmp_path, processes, shared, alone):
    heard = []
    alone()
    assert run_together(processes, job(images, tmp_path), told=lambda path, result: heard.append(path)) == 0
    assert tree(tmp_path) == whole
    assert heard == images
    assert shared == [3]


@pytest.mark.slow
def test_what_one_process_has_begun_two_finish(images, whole, tmp_path):
    assert job(images, tmp_path)() == 0
    for name in ("rows.csv", "batches/00001.json", "batches/00002.json"):
        (tmp_path / name).unlink()
    assert run_together(2, job(images, tmp_path)) == 0
    assert tree(tmp_path) == whole


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(images, whole, tmp_path, alone):
    alone()
    localizer = crews.localizer(crews.killed_once, tmp_path / "flag")
    assert run_together(2, job(images, tmp_path / "out", localizer)) == 0
    assert (tmp_path / "flag").exists()
    assert maps(tree(tmp_path / "out")) == maps(whole)


@pytest.fixture(scope="module")
def poisoned(images, tmp_path_factory):
    """Images of which one kills whoever looks at it, and one is none."""
    folder = tmp_path_factory.mktemp("poisoned")
    for path in images:
        (folder / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (96, 96), "white").save(folder / WHITE)
    (folder / BROKEN).write_bytes(b"no image")
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_an_image_that_kills_is_a_row_that_says_so(poisoned, tmp_path):
    failed = {}
    count = run_together(
        2,
        job(poisoned, tmp_path, crews.localizer(crews.killed_by_white)),
        failed=lambda path, problem: failed.update({path.name: problem}),
    )
    assert count == 2
    assert set(failed) == {WHITE, BROKEN}
    assert "three processes died on this file, so it is skipped" in failed[WHITE]
    found = rows(tmp_path)
    assert [Path(row["image"]).name for row in found] == [path.name for path in poisoned]
    assert [Path(row["image"]).name for row in found if row["problem"]] == [WHITE, BROKEN]
    # What is known is not tried again.
    assert run_together(2, job(poisoned, tmp_path, crews.localizer(crews.killed_by_white))) == 2
    assert rows(tmp_path) == found


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"probe": True}, {"mosaics": "nearest"}])
def test_an_image_that_kills_before_the_run_is_skipped_too(tmp_path, given, alone):
    """A probe and mosaics need the embeddings of all images first."""
    alone()
    for species in list(world.species())[:4]:
        (tmp_path / "set" / species).mkdir(parents=True)
        for seed in range(3):
            world.draw_species(species, seed, 96).image.save(tmp_path / "set" / species / f"{seed}.png")
    Image.new("RGB", (96, 96), "white").save(tmp_path / "set" / next(iter(world.species())) / "9.png")
    data = read_dataset(tmp_path / "set")
    data = replace(data, training=data.examples) if "probe" in given else data
    job = partial(evaluate, crews.fragile(), data, tmp_path / "out", methods="grad_cam", strengths=1.0, **given)
    found = run_together(2, job)
    assert found.used == 12
    (problem,) = found.problems
    assert "three processes died on this file, so it is skipped" in problem
    (folder,) = (tmp_path / "out" / "embeddings").iterdir()
    assert [Path(row["image"]).name for row in rows(folder) if row["problem"]] == ["9.png"]
    again = run_together(2, job)
    assert again.text == found.text


@pytest.mark.slow
def test_a_large_error_arrives_in_words(images, tmp_path):
    with pytest.raises(OutputError, match="A process stopped: UnicodeDecodeError: 'ascii' codec"):
        run_together(2, job(images, tmp_path, crews.localizer(crews.verbose)))


@pytest.mark.slow
def test_many_deaths_after_a_good_batch_end_the_run(images, tmp_path):
    """With a GPU that is lost, no image shall be blamed."""
    with pytest.raises(OutputError, match=r"Processes died 3 times on .* \(signal 9\); try with one process"):
        run_together(2, job(images, tmp_path / "out", crews.localizer(crews.killed_later, tmp_path)))


@pytest.mark.slow
def test_an_error_of_a_worker_is_that_of_the_run(images, tmp_path):
    with pytest.raises(ZeroDivisionError, match="as nobody has foreseen"):
        run_together(2, job(images, tmp_path, crews.localizer(crews.broken)))


@pytest.mark.slow
def test_each_process_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    launcher = Processes(partial(crews.tell_gpu, tmp_path), 3, gpus=2)
    for worker in range(3):
        tell = launcher.teller(worker)
        launcher.start(Share(worker, frozenset(), 1, NOWHERE, frozenset(), {}, "digest", tell))
    ended = {}
    wait_for(lambda: ended.update(launcher.ended(1.0)) or len(ended) == 3)
    assert set(ended.values()) == {End()}
    assert [(tmp_path / str(worker)).read_text() for worker in range(3)] == ["4", "7", "4"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


@pytest.mark.parametrize(("device", "expected"), [("cuda", 3), ("cuda:1", 0), ("cpu", 0)])
def test_only_cuda_is_all_gpus(monkeypatch, device, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert gpus_for("processes", device) == expected


@pytest.mark.parametrize(("processes", "expected"), [(3, [3, 3, 4]), (20, [1] * 10)])
def test_each_worker_has_one_piece_of_the_run(monkeypatch, processes, expected):
    """So that each of many shards is fetched by one or two of them."""

    class Recording:
        threads = 1

        def __init__(self):
            self.shares = []

        def teller(self, worker):
            return print

        def start(self, share):
            self.shares.append(share)

        def ended(self, seconds):
            return {share.worker: End() for share in self.shares}

        def made(self):
            return 0

    launcher = Recording()
    monkeypatch.setattr(Crew, "_launcher", lambda crew, count: nullcontext(launcher))
    missing = [2, 3, 5, 6, 7, 8, 11, 12, 13, 14]
    Crew(processes, print).make([["a.png"]] * 15, missing, "digest")
    pieces = [sorted(share.batches) for share in launcher.shares]
    assert [number for piece in pieces for number in piece] == missing
    assert [len(piece) for piece in pieces] == expected


def test_what_cannot_be_sent_is_said(images, tmp_path):
    unsendable = lambda bank, target, scores: ("frost finch",)  # noqa: E731
    asked = partial(localize_images, crews.localizer(), images, tmp_path, "ember finch", unsendable, batch_size=SIZE)
    with pytest.raises(OptionError, match="The job cannot be sent to other processes"):
        run_together(2, asked)
    with pytest.raises(OptionError, match=r"processes is 0; expected 1 or more"):
        run_together(0, asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parts", "evaluate", "audit", "fields"])
def test_each_job_has_the_bytes_of_one_process(images, tmp_path, name, shared, alone):
    localizer = world.localizer()
    more = [tmp_path / f"{k:02d}-{path.name}" for k in range(3) for path in images]
    for k, path in enumerate(more):
        path.write_bytes(images[k % COUNT].read_bytes())
    jobs = {
        "parts": lambda folder: partial(
            find_parts_of_images, localizer, dict.fromkeys(images, "ember finch"), folder, read_parts("world-parts")
        ),
        "evaluate": lambda folder: partial(evaluate, localizer, twins_dataset(104), folder, methods="grad_cam", strengths=1.0),
        "audit": lambda folder: partial(audit, localizer, birds_dataset(104), folder),
        "fields": lambda folder: partial(store_fields, localizer, more, folder),
    }
    for processes in (1, 2):
        run_together(processes, jobs[name](tmp_path / str(processes)))
        alone()
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert shared[0] > 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sets_of_each_layout_go_to_other_processes(tmp_path, layout):
    made = getattr(written, f"write_{layout}")(tmp_path / "set")
    data = read_dataset(made if isinstance(made, Path) else tmp_path / "set", layout)
    sent = pickle.loads(pickle.dumps(data))
    assert (sent.name, sent.classes, len(sent.examples)) == (data.name, data.classes, len(data.examples))
    for ours, theirs in zip(data.examples, sent.examples, strict=True):
        assert ours.name == theirs.name
        assert (ours.region is None) == (theirs.region is None)
        if ours.region is not None:
            assert ours.region().equal(theirs.region())


def started(images, out, *more):
    command = (sys.executable, "-m", "concept_cam", "localize", *map(str, images))
    asked = ("--target", "ember finch", "--against", "frost finch", "--batch-size", "1", "--processes", "2", "--out", str(out))
    told = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # Where the tests run in the background, SIGINT is ignored, and so it would be by what they start.
    return subprocess.Popen(
        (*command, *asked, *more),
        **told,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def workers_of(process):
    """The processes that it has started and that work."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(one) for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def wait_for(what, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)
    return found


def gone(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells of a process which others it has started")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_with_the_first_process_all_end_and_the_next_goes_on(tmp_path_factory, tmp_path, number):
    folder = tmp_path_factory.mktemp("many")
    for seed in range(96):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"{seed:02d}.png")
    images = sorted(folder.iterdir())
    first = started(images, tmp_path / "out")
    workers = wait_for(lambda: len(workers_of(first)) == 2 and workers_of(first))
    wait_for(lambda: len(list((tmp_path / "out" / "batches").glob("*.json"))) >= 1)
    # Another run in the same folder is refused.
    for one in (first.pid, *workers):
        os.kill(one, signal.SIGSTOP)
    assert "another process is writing a run there" in started(images, tmp_path / "out").communicate()[1]
    for one in (first.pid, *workers):
        os.kill(one, signal.SIGCONT)
    first.send_signal(number)
    _, err = first.communicate()
    assert first.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert len(err.splitlines()) == 1
        kept = int(err.split(";")[1].split()[0])
        assert 8 <= kept <= 96
    wait_for(lambda: all(map(gone, workers)), 20.0)
    for name in ("out", "alone"):
        again = started(images, tmp_path / name)
        again.communicate()
        assert again.returncode == 0
    ours, theirs = tree(tmp_path / "out"), tree(tmp_path / "alone")
    assert ours == theirs
    assert len(rows(tmp_path / "out")) == 96


def test_the_rows_of_a_batch_are_read_without_the_rest(tmp_path):
    batch = Batch(tmp_path / "00000", "run", ("a", "b"))
    assert batch.rows() is None
    batch.write({".csv": b"rows", ".safetensors": b"many numbers"})
    assert batch.rows() == b"rows"
    batch.file(".safetensors").unlink()
    assert batch.rows() == b"rows"
    assert batch.read() is None
    assert Batch(tmp_path / "00000", "another", ("a", "b")).rows() is None
    assert Batch(tmp_path / "00000", "run", ("a", "c")).rows() is None
    batch.file(".csv").write_bytes(b"row5")
    assert batch.rows() is None

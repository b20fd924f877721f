"""Actors of Ray make one run: the bytes of one process, nothing lost, nothing twice, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import crews
import pytest
from test_crew import (  # fixtures and what they make
    BROKEN,
    COUNT,
    WHITE,
    dated,  # noqa: F401
    gone,
    images,  # noqa: F401
    job,
    maps,
    poisoned,  # noqa: F401
    rows,
    shared,  # noqa: F401
    tree,
    wait_for,
    whole,  # noqa: F401
)

from concept_cam import world
from concept_cam.errors import OptionError, OutputError
from concept_cam.parts import read_parts
from concept_cam.runs import rays, run_together
from concept_cam.runs.crew import Crew, check_engine
from concept_cam.runs.share import NOWHERE, Share
from concept_cam.store import store_fields
from concept_cam.writers import find_parts_of_images, localize_images

ray_exceptions = pytest.importorskip("ray.exceptions")

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
ray_in = partial(run_together, engine="ray")


@pytest.fixture(scope="module")
def ray():
    """A local one, with more CPUs than there are, for they are only counted."""
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_an_engine_that_is_none_is_refused():
    with pytest.raises(OptionError, match=r"No engine 'rays'; expected one of processes, ray\. Did you mean 'ray'\?"):
        run_together(2, print, engine="rays")


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("concept_cam.runs.crew.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"install 'concept-cam\[ray\]'"):
        check_engine("ray")


def test_a_worker_that_never_answers_is_lost(monkeypatch):
    from ray.exceptions import ActorUnavailableError

    def unreached(_):
        raise ActorUnavailableError("not reached", None)

    now, told = [0.0], ({1: "node"}, {1: (0, 0)}, 0)
    monkeypatch.setattr(rays, "time", SimpleNamespace(monotonic=lambda: now[0]))
    notes = SimpleNamespace(read=SimpleNamespace(remote=lambda: told))
    actor = SimpleNamespace(answer=SimpleNamespace(remote=object))
    asked = SimpleNamespace(
        wait=lambda refs, timeout: (refs, []),
        get=lambda ref: told if ref is told else unreached(ref),
        kill=lambda _: None,
        exceptions=ray_exceptions,
    )
    crew = object.__new__(rays.Rays)
    vars(crew).update(_ray=asked, _notes=notes, _workers={object(): (7, actor)}, _starts={7: 1}, _silent={})
    found = []
    for _ in range(8):  # each question fails, a while after the one before
        found.append(crew.ended(1.0))
        now[0] += rays._SILENT / 4
    assert [list(one) for one in found].index([7]) == 5
    assert found[5][7].lost


def test_a_folder_that_a_machine_does_not_see_is_named(tmp_path):
    part = Share(0, frozenset(), 1, NOWHERE, frozenset(), {}, "digest", print)
    with pytest.raises(OutputError, match="does not see the run there; choose a folder that all machines share"):
        part.settings_in(tmp_path, lambda folder: {"of": "another"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["localize", "parts", "fields"])
def test_the_bytes_are_those_of_one_process(ray, images, tmp_path, name, shared):  # noqa: F811
    localizer = world.localizer()
    more = [tmp_path / f"{k:02d}-{path.name}" for k in range(3) for path in images]
    for k, path in enumerate(more):
        path.write_bytes(images[k % COUNT].read_bytes())
    species = dict.fromkeys(images, "ember finch")
    jobs = {
        "localize": lambda folder: job(images, folder),
        "parts": lambda folder: partial(find_parts_of_images, localizer, species, folder, read_parts("world-parts")),
        "fields": lambda folder: partial(store_fields, localizer, more, folder),
    }
    jobs[name](tmp_path / "1")()
    ray_in(2, jobs[name](tmp_path / "2"))
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert shared[0] > 1


@pytest.mark.slow
def test_each_engine_finishes_what_the_other_began(ray, images, whole, tmp_path):  # noqa: F811
    here = partial(run_together, 1)
    for name, first, second in (("a", here, partial(ray_in, 2)), ("b", partial(ray_in, 1), here)):
        first(job(images, tmp_path / name))
        for file in ("rows.csv", "batches/00001.json", "batches/00002.json"):
            (tmp_path / name / file).unlink()
        second(job(images, tmp_path / name))
        assert tree(tmp_path / name) == whole


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(ray, images, whole, tmp_path):  # noqa: F811
    localizer = crews.localizer(crews.killed_once, tmp_path / "flag")
    assert ray_in(2, job(images, tmp_path / "out", localizer)) == 0
    assert (tmp_path / "flag").exists()
    assert maps(tree(tmp_path / "out")) == maps(whole)


@pytest.mark.slow
def test_an_image_that_kills_costs_three_tries_and_is_a_row(ray, poisoned, tmp_path, monkeypatch):  # noqa: F811
    failed, tries, real = {}, Counter(), Crew._next

    def counted(crew, at, batches, end):
        tries[at] += 1
        return real(crew, at, batches, end)

    monkeypatch.setattr(Crew, "_next", counted)
    count = ray_in(
        2,
        job(poisoned, tmp_path, crews.localizer(crews.killed_by_white)),
        failed=lambda path, problem: failed.update({path.name: problem}),
    )
    assert count == 2
    assert set(failed) == {WHITE, BROKEN}
    assert "three processes died on this file, so it is skipped" in failed[WHITE]
    # Once on its batch, twice on itself.
    assert tries == {(0, NOWHERE): 1, (0, 3): 2}
    found = rows(tmp_path)
    assert [Path(row["image"]).name for row in found] == [path.name for path in poisoned]
    assert [Path(row["image"]).name for row in found if row["problem"]] == [WHITE, BROKEN]


@pytest.mark.slow
def test_an_error_of_a_worker_is_that_of_the_run(ray, images, tmp_path):  # noqa: F811
    with pytest.raises(ZeroDivisionError, match="as nobody has foreseen"):
        ray_in(2, job(images, tmp_path, crews.localizer(crews.broken)))


@pytest.mark.slow
def test_what_no_machine_has_is_said(ray, images, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("concept_cam.runs.rays._gpus_of", lambda job: 1)
    monkeypatch.setattr("concept_cam.runs.rays._GROWS", 0.0)
    with pytest.raises(OutputError, match=r"needs a CPU and a GPU, and no machine of Ray has them \(4 CPUs, 0 GPUs\)"):
        ray_in(2, job(images, tmp_path))


@pytest.mark.slow
def test_more_workers_than_cpus_take_turns(ray, images, whole, tmp_path):  # noqa: F811
    """Of four CPUs three are taken."""

    class Other:
        def here(self):
            return True

    others = [ray.remote(Other).options(num_cpus=1).remote() for _ in range(3)]
    assert ray.get([one.here.remote() for one in others])
    try:
        assert ray_in(3, job(images, tmp_path)) == 0
    finally:
        for one in others:
            ray.kill(one)
    assert tree(tmp_path) == whole


@pytest.mark.slow
def test_the_example_is_a_job_of_a_cluster(ray, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "ray_job.py"
    found = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], check=False, env=found, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "20 of 20 images in concept-cam-out/ray\n", "")
    out = tmp_path / "concept-cam-out"
    localizer = world.localizer()
    batch = partial(localize_images, localizer, sorted((out / "ray-plates").iterdir()), tmp_path / "alone")
    assert batch("ember finch", "frost finch") == 0
    assert maps(tree(out / "ray")).keys() == maps(tree(tmp_path / "alone")).keys()
    assert len(rows(out / "ray")) == 20


def begun(folder, count, engine, *more):
    """The command on images of a folder, in a process of its own."""
    command = (sys.executable, "-m", "concept_cam", "localize", str(folder), "--target", "ember finch", "--against")
    asked = ("frost finch", "--batch-size", "1", "--processes", str(count), "--engine", engine)
    return subprocess.Popen((*command, *asked, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for seed in range(96):
        world.draw_species("ember finch", seed, 96).image.save(folder / f"{seed:02d}.png")
    return folder


def below(number):
    """All processes that this one has started, and those that they have."""
    try:
        text = "".join(file.read_text() for file in Path(f"/proc/{number}/task").glob("*/children"))
    except OSError:
        return []
    return [one for child in map(int, text.split()) for one in (child, *below(child))]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells of a process which others it has started")
def test_with_the_driver_all_end_and_another_engine_goes_on(many, tmp_path):
    first = begun(many, 2, "ray", "--out", str(tmp_path / "out"))
    wait_for(lambda: len(list((tmp_path / "out" / "batches").glob("*.json"))) >= 2)
    # Ray's own agents take a minute longer.
    others = [one for one in below(first.pid) if Path(f"/proc/{one}/cmdline").read_bytes().startswith(b"ray::_")]
    assert len(others) >= 2
    first.send_signal(signal.SIGKILL)
    first.communicate()
    wait_for(lambda: all(map(gone, others)), 20.0)
    done = len(list((tmp_path / "out" / "batches").glob("*.json")))
    assert 2 <= done < 12
    for name in ("out", "alone"):
        assert (again := begun(many, 1, "processes", "--out", str(tmp_path / name))).communicate()
        assert again.returncode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert len(rows(tmp_path / "out")) == 96


_LOSES = """
import sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
import ray, crews, test_crew
from concept_cam.runs import run_together
from concept_cam.runs.crew import Crew

images, out = sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
ends, real = [], Crew._next
def noted(crew, at, batches, end):
    ends.append((end.lost, crew.tries, crew.deaths))
    return real(crew, at, batches, end)
Crew._next = noted
def lose():
    while len(list((out / "batches").glob("*.json"))) < 4:
        time.sleep(0.02)
    cluster.remove_node(node, allow_graceful=False)
thread = threading.Thread(target=lose, daemon=True)
thread.start()
assert run_together(2, test_crew.job(images, out), engine="ray") == 0
thread.join()
assert len(ends) == 1 and ends[0][0], ends
assert not ends[0][1] and not +ends[0][2], ends
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_no_row(many, tmp_path):
    """Of two, in mid-run; and no image is to blame."""
    found = os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _LOSES, str(many), str(tmp_path / "out")],
        check=False,
        env=found,
        timeout=280,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert job(sorted(many.iterdir()), tmp_path / "alone")() == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert len(rows(tmp_path / "out")) == 96

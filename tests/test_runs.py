"""A run on disk: what is looked at is the same or it is another run, batches count only if they are whole, nothing is left."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from slow import by_default, cases
from torch import nn
from zoo import classifiers

from concept_cam import Localizer, world, wrap
from concept_cam.audit import audit, write_tables
from concept_cam.audit.examine import Examiner
from concept_cam.datasets import Dataset, Example
from concept_cam.errors import DatasetError, OptionError, OutputError
from concept_cam.evaluation import Grid, Mosaics, MosaicSettings, Settings, evaluate
from concept_cam.files import alone_in, clear_leftovers, write_file
from concept_cam.methods import METHODS, TraceMethod, hires_cam, name_of
from concept_cam.outside import read_bytes
from concept_cam.parts import read_parts
from concept_cam.runs import Run, Skipped, identity_of, read_settings
from concept_cam.runs.digests import digest_of
from concept_cam.tables import table_of
from concept_cam.world.checkpoint import FOLDER
from concept_cam.world.dataset import birds_dataset, twins_dataset

ROOT = Path(__file__).parents[1]
LABELS = ("ember finch", "ember finch", "frost finch", "frost finch")


class Plain:
    """A run of five numbers, two in a batch, of which nothing has to be computed."""

    def __init__(self, folder, settings=None):
        self.folder, self.settings = folder, settings or {"seed": 0}

    def run(self):
        """The first of each batch that is made."""
        made = []

        def make(items):
            made.append(items[0])
            rows = [{"image": f"{item}", "energy": item / 7} for item in items]
            return {".safetensors": bytes(items) * 50, ".csv": table_of(rows, ("image", "energy"))}

        with Run.held(self.folder, self.settings, ("image", "energy")) as run:
            run.batches(range(5), 2, str, make)
        return made


def test_a_batch_that_has_to_be_made_again_is_not_counted_as_kept(tmp_path):
    """Though its rows are there and as they were."""
    Plain(tmp_path).run()
    (tmp_path / "batches" / "00000.safetensors").unlink()

    def interrupted(items):
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt, match=r"^3 of 5 images are kept"),
        Run.held(tmp_path, {"seed": 0}, ("image", "energy")) as run,
    ):
        run.batches(range(5), 2, str, interrupted)
    assert [line.split(",")[0] for line in (tmp_path / "rows.csv").read_text().splitlines()] == ["image", "2", "3", "4"]
    assert Plain(tmp_path).run() == [0]


def test_a_run_does_not_hold_the_rows_of_all_batches(tmp_path):
    rows = table_of([{"image": "x" * 2**20, "energy": 0}], ("image", "energy"))

    def peak():
        tracemalloc.start()
        with Run.held(tmp_path, {}, ("image", "energy")) as run:
            run.batches(range(40), 1, str, lambda _: {".csv": bytes(bytearray(rows))})
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak() < 20 * 2**20  # made
    assert peak() < 20 * 2**20  # and resumed: 16 MiB may have run.json
    assert (tmp_path / "rows.csv").stat().st_size > 40 * 2**20


# ---- what is looked at, by the command line ---------------------------------------------------------------------------


def write_world(folder: Path) -> None:
    """A set with masks and boxes, a checkpoint, templates, vocabularies; everything that a run reads."""
    shutil.copytree(FOLDER, folder / "model")
    shutil.copy(ROOT / "prompts" / "templates" / "world.txt", folder / "templates.txt")
    shutil.copy(ROOT / "prompts" / "vocabularies" / "world-parts.yaml", folder / "parts.yaml")
    (folder / "scenes.txt").write_text("bird in meadow\nbird in sky\nbird in reeds\n")
    rows = [("file", "label", "twin", "mask", "left", "top", "right", "bottom")]
    for seed, label in enumerate(LABELS):
        plate = world.draw_species(label, seed, 96)
        plate.image.save(folder / f"{seed}.png")
        Image.fromarray(255 * (plate.labels > 0).astype(np.uint8)).save(folder / f"{seed}-mask.png")
        other = "frost finch" if label == "ember finch" else "ember finch"
        rows.append((f"{seed}.png", label, other, f"{seed}-mask.png", 10, 10, 80, 90))
    write_csv(folder, rows)


def read_csv(folder: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO((folder / "set.csv").read_text())))


def write_csv(folder: Path, rows) -> None:
    with (folder / "set.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


ARGUMENTS = {
    "evaluate": ("set.csv", "--methods", "grad_cam", "--references", "twin", "--strengths", "1"),
    "audit": ("set.csv", "--parts", "parts.yaml", "--backgrounds", "scenes.txt", "--method", "grad_cam"),
}
_WORLDS: dict[str, Path] = {}


@pytest.fixture(params=ARGUMENTS)
def run(request, tmp_path, tmp_path_factory, command_line, monkeypatch):
    """A world in the working folder in which a run was finished, and the command that made it."""
    command = request.param
    monkeypatch.setitem(world.MODELS, "world", tmp_path / "model")
    usual = [*ARGUMENTS[command], "--templates", "templates.txt", "--out", "out"]

    def call(*given):
        return command_line(command, *instead(usual, given))

    call.name = command
    if command not in _WORLDS:
        write_world(tmp_path)
        code, _, err = call()
        assert code == 0, err
        _WORLDS[command] = Path(shutil.copytree(tmp_path, tmp_path_factory.mktemp("world") / "held"))
    else:
        shutil.copytree(_WORLDS[command], tmp_path, dirs_exist_ok=True)
    return call


def instead(usual, given):
    """Arguments, with what is given in the place of the same options."""
    kept = list(usual)
    for option in given[::2]:
        if option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    return [*kept, *given]


def another_weight(folder, monkeypatch):
    file = folder / "model" / "open_clip_model.safetensors"
    tensors = load_file(file)
    tensors["visual.proj"][3, 5] += 1e-4
    save_file(tensors, file)


def another_tokenizer(folder, monkeypatch):
    file = folder / "model" / "tokenizer.json"
    held = json.loads(file.read_text())
    words = held["model"]["vocab"]
    words["ember"], words["frost"] = words["frost"], words["ember"]
    file.write_text(json.dumps(held))


def another_preprocessing(folder, monkeypatch):
    file = folder / "model" / "open_clip_config.json"
    file.write_text(file.read_text().replace("bicubic", "bilinear"))


def other_labels(folder, monkeypatch):
    header, *rows = read_csv(folder)
    rows[0][1:3], rows[2][1:3] = rows[2][1:3], rows[0][1:3]
    write_csv(folder, [header, *rows])


def files_swapped(folder, monkeypatch):
    (folder / "0.png").rename(folder / "x.png")
    (folder / "1.png").rename(folder / "0.png")
    (folder / "x.png").rename(folder / "1.png")


def another_image(folder, monkeypatch):
    world.draw_species("ember finch", 100, 96).image.save(folder / "0.png")


def another_mask(folder, monkeypatch):
    levels = np.array(Image.open(folder / "1-mask.png"))
    levels[0, 0] = 255
    Image.fromarray(levels).save(folder / "1-mask.png")


def another_box(folder, monkeypatch):
    header, *rows = read_csv(folder)
    rows[3][4] = "11"
    write_csv(folder, [header, *rows])


def another_template(folder, monkeypatch):
    lines = (folder / "templates.txt").read_text().splitlines()
    (folder / "templates.txt").write_text("\n".join([*lines[:-1], "a {}"]))


def another_version(folder, monkeypatch):
    from importlib.metadata import version

    monkeypatch.setattr("concept_cam.runs.identity.version", lambda name: "99.0" if name == "timm" else version(name))


def another_method_of_that_name(folder, monkeypatch):
    """As in a newer version of a plug-in: the same name, other code."""

    def grad_cam(gradient):
        return hires_cam(gradient)

    monkeypatch.setitem(METHODS, "grad_cam", grad_cam)


def a_shorter_set(folder, monkeypatch):
    write_csv(folder, read_csv(folder)[:-1])


def a_longer_set(folder, monkeypatch):
    shutil.copy(folder / "3.png", folder / "4.png")
    rows = read_csv(folder)
    write_csv(folder, [*rows, ["4.png", *rows[-1][1:]]])


def another_order(folder, monkeypatch):
    header, *rows = read_csv(folder)
    write_csv(folder, [header, *rows[::-1]])


CHANGES = {
    "another weight": (another_weight, r"model \(its numbers or its layers are not the same\)"),
    "another tokenizer": (another_tokenizer, "tokenizer"),
    "another preprocessing": (another_preprocessing, "[^;]*preprocessing"),
    "other labels": (other_labels, "set of names, labels or twins|classes"),
    "files swapped": (files_swapped, "set of images"),
    "another image": (another_image, "set of images"),
    "another mask": (another_mask, "set of masks, boxes or points"),
    "another box": (another_box, "set of masks, boxes or points"),
    "another template": (another_template, "templates"),
    "another version": (another_version, r"versions \(timm is 99\.0 now\)"),
    "another method of that name": (another_method_of_that_name, "method of the same name"),
    "a shorter set": (a_shorter_set, "examples"),
    "a longer set": (a_longer_set, "examples"),
    "another order": (another_order, "set of images|classes"),
}
OPTIONS = {
    "evaluate": (
        ("--methods", "layer_cam", "methods"),
        ("--strengths", "0.6", "strengths"),
        ("--deletion", "2", "deletion"),
        ("--references", "nearest:1", "references"),
    ),
    "audit": (
        ("--method", "hires_cam", "method"),
        ("--backgrounds", "world-habitats", "backgrounds"),
        ("--model", "world-shortcut", "model"),
    ),
}


def not_made_again(monkeypatch):
    """Whatever is looked at again fails."""
    monkeypatch.setattr(Grid, "rows", None)
    monkeypatch.setattr(Examiner, "examine", None)


USUAL = ("another weight", "other labels", "another image", "another mask", "another version", "another order")


@pytest.mark.parametrize("change", by_default(CHANGES, *USUAL))
def test_whatever_is_looked_at_is_noticed(run, tmp_path, monkeypatch, change):
    alter, named = CHANGES[change]
    before = (tmp_path / "out" / "rows.csv").read_bytes()
    alter(tmp_path, monkeypatch)
    not_made_again(monkeypatch)
    code, _, err = run()
    assert code
    assert len(err.splitlines()) == 1
    assert re.search(f"out holds a run with another ({named})", err), err
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before


def test_what_is_the_same_is_resumed(run, tmp_path, monkeypatch):
    """Nothing of this is a change: another working folder, later times, a comment, other bytes of the same weights."""
    before = (tmp_path / "out" / "rows.csv").read_bytes()
    file = tmp_path / "model" / "open_clip_model.safetensors"
    save_file(dict(reversed(load_file(file).items())), file, {"written": "again"})
    for path in tmp_path.glob("*.png"):
        os.utime(path, (1, 1))
    not_made_again(monkeypatch)
    code, _, err = run()
    assert code == 0, err
    assert (tmp_path / "out" / "rows.csv").read_bytes() == before


def test_every_option_is_noticed(run, monkeypatch):
    not_made_again(monkeypatch)
    for *given, named in OPTIONS[run.name]:
        code, _, err = run(*given)
        assert code
        assert len(err.splitlines()) == 1
        assert re.search(f"out holds a run with another [^;]*{named}", err), (given, err)


def test_texts_of_an_audit_are_noticed(run, tmp_path, monkeypatch):
    if run.name == "evaluate":
        pytest.skip("it has none")
    not_made_again(monkeypatch)
    text = (tmp_path / "parts.yaml").read_text()
    (tmp_path / "scenes.txt").write_text("bird in meadow\nbird in sky\nbird in snow\n")
    assert "another backgrounds" in run()[2]
    (tmp_path / "scenes.txt").write_text("bird in meadow\nbird in sky\nbird in reeds\n")
    assert run()[0] == 0
    # The same texts of other parts: an attribute of another name.
    assert "colour: colour" in text
    (tmp_path / "parts.yaml").write_text(text.replace("colour: colour", "tint: colour", 1))
    code, _, err = run()
    assert code
    assert "another vocabulary" in err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_another_seed_is_noticed(command, command_line):
    kind = {"evaluate": ("world", "--methods", "grad_cam", "--references", "twin"), "audit": ("world-birds",)}
    asked = (command, *kind[command], "--limit", 2, "--out", "out")
    assert command_line(*asked)[0] == 0
    code, _, err = command_line(*asked, "--seed", 1)
    assert code
    assert "out holds a run with another seed" in err
    assert len(err.splitlines()) == 1


def test_settings_are_compared_both_ways(tmp_path):
    """A key that the older run has and this one has not is a difference too."""
    held = {"seed": 0, "versions": {"torch": "2.4", "timm": "1.0"}, "images_digest": "a"}
    assert Plain(tmp_path, held).run() == [0, 2, 4]
    assert Plain(tmp_path, held).run() == []
    for other, named in (
        ({**held, "something new": 1}, "something new"),
        ({"seed": 0, "images_digest": "a"}, "versions"),
        ({"seed": 0, "versions": held["versions"]}, "set of images"),
        ({**held, "versions": {"torch": "2.5", "timm": "1.0"}}, r"versions \(torch is 2\.5 now\)"),
        ({**held, "images_digest": "b"}, "set of images"),
        ({**held, "images_digest": "b", "seed": 1}, "seed"),
        # To Python these are equal, and to a reader of the settings they are not.
        ({**held, "seed": False}, "seed"),
        ({**held, "seed": 0.0}, "seed"),
        ({**held, "a\x1b[31m\nkey": 1}, "setting"),
        ({**held, "key" * 100: 1}, "setting"),
    ):
        for now, before in ((held, other), (other, held)):
            (tmp_path / "run.json").write_text(json.dumps(before))
            with pytest.raises(OutputError, match=f"holds a run with another {named.split(' ')[0]}") as caught:
                Plain(tmp_path, now).run()
            assert str(caught.value).isprintable()
            assert str(caught.value).endswith("; choose another folder, or delete it.")
            if now is other:
                assert re.search(f"another {named};", str(caught.value)), str(caught.value)
    (tmp_path / "run.json").write_text(json.dumps(held))
    assert Plain(tmp_path, held).run() == []


def test_settings_say_all_that_was_looked_at(run, tmp_path):
    held = read_settings(tmp_path / "out")
    assert {"python", "concept-cam", "torch", "open_clip_torch", "timm", "transformers", "numpy", "pillow"} <= set(
        held["versions"]
    )
    digests = [key for key in held if key.endswith(("_digest", "_digests"))]
    expected = {"model_digest", "preprocessing_digest", "texts_digest", "method_digests"}
    expected |= {"images_digest", "labels_digest", "regions_digest"}
    assert expected <= set(digests)
    assert all(re.fullmatch("[0-9a-f]{64}", held[key]) for key in expected - {"method_digests"})
    assert list(held["method_digests"]) == ["grad_cam"]


# ---- what a digest sees -----------------------------------------------------------------------------------------------

SCALE = 2.0


def helper(x):
    return SCALE * x


def user_method(gradient):
    return helper(hires_cam(gradient))


class Transform:
    def __init__(self, mean):
        self._mean = mean

    def __call__(self, image):
        return torch.from_numpy(np.array(image.resize((96, 96)))).permute(2, 0, 1).float() / 255 - self._mean


def test_a_function_is_its_code_and_what_it_refers_to(monkeypatch):
    def closed(n):
        return lambda gradient: n * hires_cam(gradient)

    assert digest_of(closed(2)) == digest_of(closed(2)) != digest_of(closed(3))
    assert digest_of(partial(user_method, 1)) != digest_of(partial(user_method, 2)) != digest_of(user_method)
    assert digest_of(TraceMethod(closed(2))) != digest_of(TraceMethod(closed(3)))
    before = digest_of(user_method)
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "SCALE", 3.0)
        assert digest_of(user_method) != before
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "helper", lambda x: x)
        assert digest_of(user_method) != before
    assert digest_of(user_method) == before
    assert digest_of(Transform(0.5)) == digest_of(Transform(0.5)) != digest_of(Transform(0.4))
    assert digest_of(cache(closed(2))) == digest_of(cache(closed(2))) != digest_of(cache(closed(3)))


def test_a_digest_knows_values_apart():
    values = [None, 0, 0.0, False, "0", b"0", "", (), (0,), ((0,),), {0: 1}, {0, 1}, [0, 1], [1, 0], "ab", ("a", "b"), 1 + 0j]
    values += [torch.zeros(2), torch.zeros(1, 2), torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, -0.0])]
    values += [np.zeros(2), np.zeros(2, dtype=np.float32), Image.new("L", (2, 1)), Image.new("L", (1, 2)), {"a": (1, 2)}]
    values += [{"a": 1, "b": 2}, {"a": 2, "b": 1}, float("nan"), float("inf"), round, len, torch.relu, nn.ReLU, nn.ReLU()]
    assert len({digest_of(value) for value in values}) == len(values)
    endless: list = [1]
    endless.append(endless)
    assert digest_of(endless) == digest_of(endless)
    assert digest_of(float("nan")) == digest_of(float("nan"))


def test_equal_values_have_one_digest_however_they_came_about():
    size = tuple(map(int, "12"))
    shared, separate = (size, size), (tuple(map(int, "12")), tuple(map(int, "12")))
    assert digest_of(shared) == digest_of(separate)
    assert digest_of(set("concept")) == digest_of(set("tpecnoc"))


def test_a_model_is_its_layers_and_their_settings_too():
    def model(eps=1e-5, order=(nn.ReLU, nn.GELU)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(2, 2), order[0](), nn.LayerNorm(2, eps=eps), order[1]())

    before = digest_of(model())
    assert digest_of(model()) == before
    assert digest_of(model(eps=1e-6)) != before
    assert digest_of(model(order=(nn.GELU, nn.ReLU))) != before
    hooked = model()
    hooked[0].register_forward_hook(lambda module, given, made: 2 * made)
    assert digest_of(hooked) != before
    moved = model()
    moved[0].weight.data = moved[0].weight.data.flip(0)
    assert digest_of(moved) != before
    assert digest_of(model().train()) == before


@pytest.mark.slow
def test_digests_of_functions_are_those_of_another_process():
    code = (
        "import torch; from functools import partial; from torchvision.transforms import Compose, Lambda, Resize\n"
        "from concept_cam.runs.digests import digest_of\n"
        "scale = 2.0\n"
        "class Own:\n"
        "    def __init__(self): self._held = {'a', 'b', 'c'}\n"
        "    def __call__(self, x): return scale * x\n"
        "digest = digest_of(Compose([Resize(3), Lambda(lambda x: 2 * x), Own()]), partial(Own(), n=1), torch.nn.GELU())"
    )
    held = {"__name__": "own"}
    exec(compile(code, "own", "exec", dont_inherit=True), held)
    there = f"held = {{'__name__': 'own'}}; exec({code!r}, held); print(held['digest'])"
    found = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == held["digest"]


def test_what_lies_in_a_transform_is_noticed():
    from torchvision.transforms import Compose, Lambda, Resize

    def transform(factor, size=96):
        return Compose([Resize(size), Lambda(lambda image: image * factor), Transform(factor)])

    assert digest_of(transform(1)) == digest_of(transform(1)) != digest_of(transform(2))
    assert digest_of(transform(1)) != digest_of(transform(1, 97))


EXAMPLE = {
    "name": "other",
    "label": "frost finch",
    "twin": "royal jay",
    "boxes": ((1, 2, 3, 4),),
    "points": (("beak", (1.0, 2.0)),),
    "attributes": ("red crown",),
    "region": lambda: torch.ones(192, 192, dtype=torch.bool),
    "parts": (("crown", lambda: torch.ones(192, 192, dtype=torch.bool)),),
    "image": Image.new("RGB", (192, 192)),
}


@pytest.mark.slow
def test_all_of_an_example_is_looked_at(localizer):
    """Whatever fields an example has: one that is added is looked at, or this fails."""
    from dataclasses import fields

    data = twins_dataset(1)
    before = identity_of(localizer, data)
    known = {field.name for field in fields(Example)}
    for name in known & set(EXAMPLE):
        changed = replace(data, examples=[replace(data.examples[0], **{name: EXAMPLE[name]})])
        after = identity_of(localizer, changed)
        assert [key for key in after if after[key] != before[key]], name
    for name in known - set(EXAMPLE):
        changed = replace(data, examples=[replace(data.examples[0], **{name: {"site": "north"}})])
        assert identity_of(localizer, changed)["labels_digest"] != before["labels_digest"], name


def test_what_cannot_be_read_has_a_digest_too(localizer, tmp_path):
    def broken():
        raise KeyError("x")

    os.mkfifo(tmp_path / "pipe.png")
    examples = [
        Example("pipe", tmp_path / "pipe.png", "ember finch"),
        Example("broken", broken, "ember finch"),
        Example("mask", Image.new("RGB", (96, 96)), "ember finch", region=broken),
        Example("nothing", tmp_path / "nothing.png", "ember finch"),
    ]
    data = Dataset("own", ("ember finch", "frost finch"), examples)
    assert identity_of(localizer, data) == identity_of(localizer, data)


def test_examples_of_one_name_are_refused_before_the_work(localizer, tmp_path, monkeypatch):
    not_made_again(monkeypatch)
    one = twins_dataset(1).examples[0]
    data = replace(twins_dataset(1), examples=[one, replace(one, twin=None)])
    for work in (evaluate, audit):
        with pytest.raises(DatasetError, match=r"Two examples are called '0-00000' and show 'ember finch', so their rows"):
            work(localizer, data, tmp_path / work.__name__)


# ---- batches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("concept_cam.evaluation.rows.BATCH", 2)
    monkeypatch.setattr("concept_cam.audit.run.BATCH", 2)


@cache
def drawn(seed=0):
    data = birds_dataset(5, seed)
    return replace(data, examples=list(data.examples))


def evaluated(localizer, folder, data=None):
    asked = {"methods": "grad_cam", "references": "twin", "strengths": 1.0}
    return evaluate(localizer, data or drawn(), folder, **asked)


def audited(localizer, folder, data=None):
    found = audit(localizer, data or drawn(), folder, parts=read_parts("world-parts"))
    write_tables(found)
    return found


WORK = {"evaluate": evaluated, "audit": audited}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


_FINISHED: dict[str, Path] = {}


@pytest.fixture(params=WORK)
def finished(request, localizer, tmp_path, tmp_path_factory, small):
    """A finished run of three batches, what makes it, and what it wrote."""
    name, out = request.param, tmp_path / "out"
    if name not in _FINISHED:
        _FINISHED[name] = tmp_path_factory.mktemp("finished") / name
        WORK[name](localizer, _FINISHED[name])
    shutil.copytree(_FINISHED[name], out)
    work = partial(WORK[name], localizer, out)
    work.name = name
    return work, out, tree(out)


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def a_link(target):
    def damage(file):
        file.unlink()
        file.symlink_to(target)

    return damage


def rewritten(change):
    return lambda file: file.write_bytes(change(file.read_bytes()))


def unread(file):
    file.chmod(0)


DAMAGE = {
    "no bytes": rewritten(lambda content: b""),
    "cut": rewritten(lambda content: content[: len(content) // 2]),
    "cut by a line": rewritten(lambda content: content[: content.rstrip(b"\n").rfind(b"\n") + 1]),
    "an extra row": rewritten(lambda content: content + content.splitlines(keepends=True)[-1]),
    "one digit": rewritten(lambda content: content.replace(b"0.", b"1.", 1) if b"0." in content else content[:-1] + b"\0"),
    "other bytes": rewritten(lambda content: b"\xff\0\x80" * 40),
    "gone": Path.unlink,
    "a pipe": a_pipe,
    "a link to nothing": a_link("nothing"),
    "a link to itself": lambda file: a_link(file)(file),
    "a device without end": a_link("/dev/zero"),
    "not to be read": unread,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", [".csv", ".json", ".safetensors"])
def test_a_damaged_batch_is_made_again(tmp_path, damage, ending):
    Plain(tmp_path).run()
    before, file = tree(tmp_path), tmp_path / "batches" / f"00001{ending}"
    DAMAGE[damage](file)
    # A batch that root can read, whatever its mode, is as it was.
    assert Plain(tmp_path).run() == ([] if damage == "not to be read" and os.access(file, os.R_OK) else [2])
    file.chmod(0o600)
    assert tree(tmp_path) == before
    assert not file.is_symlink()


@pytest.mark.parametrize(
    ("ending", "damage"),
    cases([(".csv", "no bytes"), (".csv", "cut by a line"), (".safetensors", "cut")], (".safetensors", "cut")),
)
def test_a_damaged_batch_of_rows_or_maps_is_made_again(finished, ending, damage):
    work, out, before = finished
    file = out / "batches" / f"00001{ending}"
    if not file.exists():
        pytest.skip("it has none")
    DAMAGE[damage](file)
    work()
    assert tree(out) == before


def test_only_the_damaged_batch_is_made_again(finished, monkeypatch):
    work, out, before = finished
    (out / "batches" / "00001.csv").write_bytes(b"")
    made, kind, name = [], *((Grid, "rows") if work.name == "evaluate" else (Examiner, "examine"))
    real = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, some: made.append(len(some)) or real(self, some))
    work()
    assert made == [2]
    assert tree(out) == before


@pytest.mark.slow
def test_batches_of_another_run_are_not_taken(finished, localizer, tmp_path):
    """Of the same names, in the same places: of another run, or in another order."""
    work, out, before = finished
    other = tmp_path / "other"
    renamed = [replace(theirs, name=ours.name) for theirs, ours in zip(drawn(1).examples, drawn().examples, strict=True)]
    WORK[work.name](localizer, other, replace(drawn(1), examples=renamed))
    for file in (other / "batches").iterdir():
        shutil.copy(file, out / "batches" / file.name)
    assert tree(out) != before
    work()
    assert tree(out) == before
    for file in (out / "batches").glob("00000.*"):
        twin = file.with_name(file.name.replace("00000", "00001"))
        held, other_held = file.read_bytes(), twin.read_bytes()
        file.write_bytes(other_held)
        twin.write_bytes(held)
    assert tree(out) != before
    work()
    assert tree(out) == before


@pytest.mark.parametrize("place", ["batches/00001.csv", "batches/00001.json", "run.json", "rows.csv"])
def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path, place):
    """It is the user's, so that nothing is deleted; without it all is as it was."""
    Plain(tmp_path).run()
    before = tree(tmp_path)
    (tmp_path / place).unlink()
    (tmp_path / place / "inside").mkdir(parents=True)
    with pytest.raises(OutputError) as caught:
        Plain(tmp_path).run()
    assert str(caught.value).isprintable()
    assert str(tmp_path / place) in str(caught.value)
    shutil.rmtree(tmp_path / place)
    Plain(tmp_path).run()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["a file", "a pipe", "a link to itself", "a link"])
def test_something_else_in_the_place_of_the_batches(tmp_path, kind):
    """A folder that is linked is as good as one; anything else is one line."""
    Plain(tmp_path / "out").run()
    before, place = tree(tmp_path / "out"), tmp_path / "out" / "batches"
    place.rename(tmp_path / "elsewhere")
    {"a file": Path.touch, "a pipe": os.mkfifo, "a link to itself": lambda it: it.symlink_to(it)}.get(
        kind, lambda it: it.symlink_to(tmp_path / "elsewhere")
    )(place)
    if kind == "a link":
        assert Plain(tmp_path / "out").run() == []
        assert {name for name in before if "batches" not in name} == set(tree(tmp_path / "out"))
        return
    with pytest.raises(OutputError, match="batches/00000"):
        Plain(tmp_path / "out").run()


RUN_JSON = {
    "no bytes": b"",
    "cut": b'{"seed": 0,',
    "another type": b"[1, 2]",
    "a number": b"NaN",
    "not text": b"\xff\xfe\0",
    "deep": b"[" * 100_000,
    "a deep mapping": b'{"a": ' * 500 + b"1" + b"}" * 500,
    "digits": b'{"seed": ' + b"9" * 10_000 + b"}",
    "numbers that are none": b'{"seed": NaN, "versions": [NaN], "methods": {"a": Infinity}}',
    "versions of another type": b'{"versions": "1.0"}',
}


@pytest.mark.parametrize("content", RUN_JSON)
def test_damaged_settings_are_one_line(tmp_path, content):
    Plain(tmp_path).run()
    (tmp_path / "run.json").write_bytes(RUN_JSON[content])
    with pytest.raises(OutputError) as caught:
        Plain(tmp_path).run()
    assert str(caught.value).isprintable()
    assert "choose another folder" in str(caught.value)


def test_settings_that_are_a_pipe_or_a_device_are_one_line(tmp_path):
    Plain(tmp_path).run()
    for damage in (a_pipe, a_link("/dev/zero"), a_link("run.json")):
        (tmp_path / "run.json").unlink()
        (tmp_path / "run.json").write_bytes(b"")
        damage(tmp_path / "run.json")
        with pytest.raises(OutputError, match=r"run\.json: .*; choose another folder"):
            Plain(tmp_path).run()


def test_without_its_settings_a_run_is_known_by_its_batches(finished, monkeypatch):
    work, out, before = finished
    (out / "run.json").unlink()
    not_made_again(monkeypatch)
    work()
    assert tree(out) == before


def test_the_table_is_plain_csv(finished):
    _, _, before = finished
    rows = list(csv.DictReader(io.StringIO(before["rows.csv"].decode())))
    batches = [list(csv.DictReader(io.StringIO(before[f"batches/0000{i}.csv"].decode()))) for i in range(3)]
    assert rows == [row for batch in batches for row in batch]
    assert len({row["image"] for row in rows}) == 5


# ---- writing ----------------------------------------------------------------------------------------------------------

LEFT = ".0123456789abcdef.concept-cam-tmp"


def test_what_a_killed_process_left_is_cleared(finished):
    work, out, before = finished
    strange = {
        ".rows.csv.tmp": b"1",
        LEFT[1:]: b"2",
        ".0123.concept-cam-tmp": b"3",
        ".x.12.tmp": b"4",
    }
    for name, content in strange.items():
        (out / name).write_bytes(content)
    for folder in (out, out / "batches"):
        (folder / LEFT).write_bytes(b"half")
    (out / "batches" / f"{LEFT}s").mkdir()
    work()
    assert tree(out) == before | strange


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    files = [folder / LEFT for folder in (tmp_path, tmp_path / "below", tmp_path / "below" / "deeper")]
    for file in files:
        file.write_bytes(b"half")
    with files[1].open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        clear_leftovers(tmp_path)
        assert [file.exists() for file in files] == [False, True, True]
        clear_leftovers(tmp_path, "below", "nowhere")
        assert [file.exists() for file in files] == [False, True, False]
    clear_leftovers(tmp_path, "below")
    assert not files[1].exists()


def test_a_leftover_that_is_no_file_is_left_alone(tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / LEFT).symlink_to("kept")
    other = tmp_path / LEFT.replace("0", "f")
    os.mkfifo(other)
    clear_leftovers(tmp_path)
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert other.exists()


def test_two_processes_do_not_write_one_run(finished):
    work, out, before = finished
    code = (
        "import sys; from pathlib import Path; from concept_cam.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="another process is writing a run there; wait for it, or choose another folder"):
            work()
        # However it ends, the folder is free.
        other.kill()
    work()
    assert tree(out) == before


def test_a_folder_that_cannot_be_held_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="cannot be written"), alone_in(place):
            pass


def test_content_is_on_the_disk_before_it_has_a_name(tmp_path, monkeypatch):
    done = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_size) or sync(number))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("renamed") or rename(*paths))
    write_file(tmp_path / "a", b"12345")
    assert done[:2] == [5, "renamed"]
    assert len(done) == 3


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "file", 5) == read_bytes(tmp_path / "link", 5) == b"12345"
    for place, most in (("pipe", 5), (".", 5), ("file", 4), ("nothing", 5)):
        with pytest.raises((OSError, ValueError)):
            read_bytes(tmp_path / place, most)
    with pytest.raises(ValueError, match="no regular file"):
        read_bytes("/dev/zero", 5)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_full_disk_is_one_line_and_afterwards_it_goes_on(tmp_path, monkeypatch, at):
    """At each of the files: the settings, three of each batch, the table."""
    Plain(tmp_path / "whole").run()
    calls, sync = [], os.fsync

    def full(number):
        calls.append(number)
        if len(calls) == 2 * at - 1:  # of each file, then of its folder
            os.ftruncate(number, os.fstat(number).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
            Plain(tmp_path / "out").run()
    assert not [name for name in tree(tmp_path / "out") if "tmp" in name]
    # A batch that was finished is not made again.
    assert Plain(tmp_path / "out").run() == [start for start in (0, 2, 4) if at <= 1 + 3 * (start // 2 + 1)]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# ---- figures that add up ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_used_and_skipped_are_all_examples(localizer, tmp_path, monkeypatch):
    def second_is_blank(seen, directions):
        maps = directions.new_ones(len(directions), len(seen.embedding), 144)
        maps[:, 1] = 0
        return maps

    def broken():
        raise RuntimeError(f"of {object()!r}\nand more")

    good = twins_dataset(3)
    extra = [Example("broken", broken, "ember finch"), replace(good.examples[0], name="mask", region=broken)]
    data = replace(good, examples=[*good.examples, *extra, Example("label", Image.new("RGB", (96, 96)), "dodo")])
    data = replace(data, problems=("gone.png: there is no such file",))
    monkeypatch.setitem(METHODS, "half blind", TraceMethod(second_is_blank))
    for methods, used in ((("grad_cam",), 3), (("half blind",), 2), (("grad_cam", "half blind"), 3)):
        found = evaluate(localizer, data, tmp_path / "-".join(methods), methods=methods, references="twin", strengths=1.0)
        assert (found.used, found.skipped) == (used, 7 - used)
    looked = audit(localizer, data, tmp_path / "audit")
    assert (len(looked.good), looked.skipped) == (3, 4)
    for problems in (found.problems, looked.problems):
        assert [line for line in problems if line.endswith("cannot be read (RuntimeError: of <object object> and more).")]


@pytest.mark.slow
def test_no_address_stands_in_a_row(localizer, tmp_path):
    def scaled(gradient, by):
        return by * hires_cam(gradient)

    class Own:
        def __call__(self, gradient):
            return hires_cam(gradient)

    methods = (partial(scaled, by=2.0), Own(), lambda gradient: 2 * hires_cam(gradient), partial(scaled, by=Own()))
    assert [name_of(method) for method in methods] == ["scaled(by=2.0)", "Own", "<lambda>", "scaled(by=Own)"]
    found = evaluate(localizer, twins_dataset(1), tmp_path, methods=methods[:3], references="twin", strengths=1.0)
    assert {row.method for row in found.rows} == {"scaled(by=2.0)", "Own", "<lambda>"}
    assert not re.search("0x[0-9a-f]{6}", (tmp_path / "rows.csv").read_text() + (tmp_path / "run.json").read_text())
    error = ValueError("cannot identify <_io.BytesIO object at 0x7f00aa>\r\nfor two reasons")
    assert Skipped.of("a", "b", error).problem == "cannot identify <_io.BytesIO object> for two reasons"
    assert Skipped.of("a", "b", KeyError()).problem == "KeyError"


@pytest.mark.parametrize(
    ("given", "double"),
    [
        ({"strengths": (0.6, 1.0, 0.6)}, "strengths 0.6, 1, 0.6 two have one name, 0.6"),
        ({"strengths": (0.6, 0.60000001)}, "0.6"),
        ({"references": ("twin", "twin")}, "twin"),
        ({"references": ("nearest", "nearest:3")}, "nearest:3"),
        ({"references": ("nearest:03", "nearest:3")}, "nearest:3"),
        ({"methods": ("grad_cam", "grad_cam")}, "grad_cam"),
        ({"methods": (hires_cam, "hires_cam")}, "hires_cam"),
        ({"mosaics": "nearest", "references": ("mosaic", "mosaic")}, "mosaic"),
        ({"mosaics": "nearest", "strengths": (1, 1.0)}, "1"),
    ],
)
def test_what_is_given_twice_is_refused(localizer, tmp_path, given, double):
    with pytest.raises(OptionError, match=f"{re.escape(double)}; leave one out, or rename it"):
        evaluate(localizer, birds_dataset(4), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_given_twice_on_the_command_line(command_line, tmp_path):
    for option in (("--strengths", "0.6,0.6"), ("--references", "twin,twin"), ("--methods", "grad_cam,grad_cam")):
        code, _, err = command_line("evaluate", "--limit", 1, *option, "--out", "out")
        assert code
        assert "two have one name" in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_image_that_goes_away_costs_its_own_mosaics(localizer, tmp_path):
    data = birds_dataset(5)
    for example in data.examples:
        example.image.save(tmp_path / f"{example.name}.png")
    examples = [replace(example, image=tmp_path / f"{example.name}.png") for example in data.examples]
    bank, asked = localizer.bank(data.classes), MosaicSettings("nearest", ("grad_cam",), strengths=(1.0,))
    mosaics = Mosaics(localizer, bank, replace(data, examples=examples), asked)
    assert len(mosaics.all) == 5
    (tmp_path / f"{examples[0].name}.png").unlink()
    gone = {mosaic.target.name for mosaic in mosaics.all if examples[0].name in {cell.name for cell in mosaic.cells}}
    rows = mosaics.rows(mosaics.all)
    assert {row.image for row in rows if isinstance(row, Skipped)} == gone != set()
    assert [row.image for row in rows].count(examples[0].name) == 1
    kept = {mosaic.target.name for mosaic in mosaics.all} - gone
    assert all([row.image for row in rows].count(name) == 2 for name in kept)


# ---- one class --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_one_class_base_maps_are_measured(localizer, tmp_path):
    examples = [replace(one, label="ember finch", twin=None) for one in twins_dataset(2).examples]
    data = Dataset("one", ("ember finch",), examples)
    found = evaluate(localizer, data, tmp_path / "a", methods=("grad_cam", "hires_cam"), sanity=True)
    assert [(row.method, row.references) for row in found.rows] == [("grad_cam", "none"), ("hires_cam", "none")] * 2
    assert all(None not in (row.energy, row.hit, row.flip, row.parameters) for row in found.rows)
    assert all((row.rd5, row.labels, row.deletion) == (None, None, None) for row in found.rows)
    assert "There is one class, so base maps alone are measured" in found.text
    assert (found.used, found.skipped, found.problems) == (2, 0, [])
    for given in ({"references": "nearest:1"}, {"strengths": 1.0}, {"deletion": 2}, {"probe": True}):
        with pytest.raises(OptionError, match="There is one class, ember finch; expected two or more"):
            evaluate(localizer, replace(data, training=examples), tmp_path / "b", **given)
    with pytest.raises(OptionError, match="expected two or more"):
        audit(localizer, data, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_settings_hold_what_is_run_once():
    assert Settings(("grad_cam",), ("nearest", "nearest:2"), (0.5, 1)).references == ("nearest", "nearest:2")


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
@pytest.mark.filterwarnings("ignore:.*does not say how its images are prepared:UserWarning")
def test_a_classifier_is_known_by_its_names(tmp_path):
    """The same numbers with the names of two rows exchanged are another model to the reader of its rows."""
    names, model = classifiers.CLASSES, classifiers.timm_vit()
    data = Dataset("own", names[:2], [Example("a", Image.new("RGB", (40, 24), "red"), names[0])])
    asked = {"methods": "grad_cam", "references": "nearest:1", "strengths": 1.0}
    evaluate(Localizer(wrap(model, classes=names)), data, tmp_path, **asked)
    with pytest.raises(OutputError, match="another classes"):
        evaluate(Localizer(wrap(model, classes=(names[1], names[0], *names[2:]))), data, tmp_path, **asked)

"""A store answers as the model does: its fields, its ranking, its maps; and nothing that is damaged or foreign is believed."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from slow import by_default
from zoo import classifiers

from concept_cam import Preprocess, against, nearest, rivals, world, wrap
from concept_cam.errors import ConceptCamError, OptionError, OutputError, UnknownWord
from concept_cam.localizer import Localizer
from concept_cam.metrics import pointing_hit, rank_correlation
from concept_cam.page import html
from concept_cam.runs.digests import digest_of
from concept_cam.store import Store, batches, index, matches, pack, store, store_fields, storing, unpack, write_matches
from concept_cam.store.found import Found, lead_of, sections_of
from concept_cam.store.index import NAME, Index, head_of, sums_of
from concept_cam.tables import read_table
from concept_cam.world.birds import COLOURS, PARTS, phrase, random_bird, twins
from concept_cam.world.renderer import HELD_OUT_STREAM, draw

SPECIES = ("ember finch", "frost finch", "royal jay", "misty heron", "copper finch")
ODD = ("=1+1, or 'a'.png", "two\nlines.png", "<img src=x onerror=alert(1)>.png")
BAD = "bad.png"
HALF = 2**-11


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Plates with plain and with odd names, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    names = [f"{name}.png" for name in SPECIES] + list(ODD)
    for seed, name in enumerate(names):
        world.draw_species(SPECIES[seed % len(SPECIES)], seed, 96).image.save(folder / name, "PNG")
    (folder / BAD).write_bytes(b"no image")
    return [folder / name for name in (*names[:2], BAD, *names[2:])]


@pytest.fixture
def small(monkeypatch):
    """Batches of two images."""
    monkeypatch.setattr(storing, "_BATCH", 2)


@pytest.fixture(scope="module")
def stores(localizer, images, tmp_path_factory):
    """A store of each kind, of several batches."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "_BATCH", 2)
        for keep in ("exact", "compact"):
            assert store_fields(localizer, images, folder / keep, keep, batch_size=2) == 1
    return folder


@pytest.fixture
def folder(stores, tmp_path):
    """A store to be damaged."""
    return Path(shutil.copytree(stores / "exact", tmp_path / "store"))


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "how.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def index_of(embeddings: np.ndarray, run: str = "a") -> bytes:
    """The file of an index whose images are all the first of the first batch."""
    head = head_of(run, np.zeros((len(embeddings), 2), np.int64), sums_of(embeddings), embeddings.shape[1])
    return head + embeddings.tobytes()


def directions(localizer):
    names = [phrase(part, colour) for part in PARTS for colour in COLOURS]
    bank = localizer.bank([*world.species(), *names, "bird"])
    pairs = [(name, twin) for name, twin, _ in twins()] + [(name, "bird") for name in names]
    return torch.stack([bank.vectors[bank.index(a)] - 0.6 * bank.vectors[bank.index(b)] for a, b in pairs])


# ---- what is kept -----------------------------------------------------------------------------------------------------


def test_packing_is_exact_to_half_precision_and_to_a_level_of_each_patch():
    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e3], [1.0], [1e-3], [0.0], [2.0]]
    )
    exact, compact = (unpack(*pack(vectors, keep)) for keep in ("exact", "compact"))
    assert ((exact - vectors).abs() <= HALF * vectors.abs() + 2**-24 * vectors.abs().max()).all()
    assert ((compact - vectors).abs() <= vectors.abs().amax(1, keepdim=True) / 254 * 1.001).all()
    assert not compact[3].any()
    assert not unpack(*pack(torch.zeros(2, 3))).any()
    assert (pack(vectors, "exact")[1].shape, pack(vectors, "compact")[1].shape) == ((1,), (5,))
    with pytest.raises(OptionError, match="keep is 'all'; expected exact or compact"):
        pack(vectors, "all")


def test_fields_are_those_of_the_model(localizer, images, stores):
    held = Store.open(stores / "exact")
    good = [path for path in images if path.name != BAD]
    assert len(held) == len(good)
    for number, path in enumerate(good):
        (own,), kept = localizer.fields([path]), held.field(number)
        scale = float(own.vectors.abs().max())
        torch.testing.assert_close(kept.vectors, own.vectors, rtol=HALF, atol=1e-5 * scale)
        torch.testing.assert_close(kept.embedding, own.embedding)
        assert kept.placement == own.placement
        assert kept.provenance == own.provenance


def test_compact_is_within_what_is_stated(localizer, stores):
    exact, compact = (Store.open(stores / keep) for keep in ("exact", "compact"))
    wanted = directions(localizer)
    maps = [torch.stack([held.field(number)(wanted) for number in range(len(held))]) for held in (exact, compact)]
    alike = rank_correlation(*maps)
    assert alike.mean() > 0.998
    assert alike.min() > 0.94
    halves, levels = ((held.folder / "batches" / "00000.safetensors").stat().st_size for held in (exact, compact))
    assert levels < 0.53 * halves


@pytest.mark.parametrize("keep", ["exact", "compact"])
def test_the_ranking_is_that_of_the_scores(localizer, images, stores, keep):
    good = [path for path in images if path.name != BAD]
    bank = localizer.bank(["red crown", "bird", "blue wing"])
    embeddings = torch.stack([field.embedding for field in localizer.fields(good)])
    answers = Store.open(stores / keep).search(localizer, ["red crown", "blue wing"], "bird", strength=0.8)
    for answer in answers:
        direction = bank.vectors_of([answer.comparison.target])[0] - 0.8 * bank.vectors_of(["bird"])[0]
        scores = embeddings @ direction
        assert [match.image for match in answer.matches] == [good[k] for k in scores.argsort(descending=True).tolist()]
        torch.testing.assert_close(
            torch.tensor([match.score for match in answer.matches]), scores.sort(descending=True).values
        )
    (first,) = Store.open(stores / keep).search(localizer, "red crown", "bird", strength=0.8, top=2)
    assert first.matches == answers[0].matches[:2]


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")  # the species are more similar to each other
def test_a_hit_is_localized_as_its_field_is(localizer, stores):
    held = Store.open(stores / "exact")
    bank = localizer.bank(["red crown", "bird"])
    (answer,) = held.search(localizer, "red crown", "bird")
    for match in answer.matches:
        ours, own = answer.localize(match), held.field(match.number).localize(bank, "red crown", "bird")
        assert torch.equal(ours.map, own.map)
        assert torch.equal(ours.base_map, own.base_map)
        assert (ours.comparison, dict(ours.scores), ours.peak()) == (own.comparison, dict(own.scores), own.peak())
        model = localizer(match.image, "red crown", "bird")
        torch.testing.assert_close(ours.map, model.map, rtol=1e-2, atol=2e-3 * float(model.map.abs().max()))
        assert ours.peak() == pytest.approx(model.peak(), abs=0.1)
        assert match.score == pytest.approx(ours.scores["red crown"] - 0.6 * ours.scores["bird"], abs=1e-5)


@pytest.mark.parametrize("keep", ["exact", "compact"])
@pytest.mark.parametrize("references", [None, "bird", nearest(2)], ids=["base", "against", "nearest"])
@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_answers_are_those_of_the_model(localizer, stores, keep, references):
    for answer in Store.open(stores / keep).search(localizer, ["ember finch", "red crown"], references, top=3):
        assert len(answer.matches) == 3
        for match in answer.matches:
            ours, model = answer.localize(match), localizer(match.image, answer.comparison.target, references)
            # Without references a search ranks by the target alone, of which the model has the base map.
            wanted = model.base_map if references is None else model.map
            assert ours.comparison.references == (() if references is None else model.comparison.references)
            assert dict(ours.scores) == pytest.approx({name: model.scores[name] for name in ours.scores}, abs=1e-5)
            if keep == "exact":
                torch.testing.assert_close(ours.map, wanted, rtol=1e-2, atol=2e-3 * float(wanted.abs().max()))
                assert ours.map.argmax() == wanted.argmax()
            else:
                assert rank_correlation(ours.map[None], wanted[None]) > 0.95


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_references_of_a_search(localizer, stores):
    held = Store.open(stores / "exact")
    (base,) = held.search(localizer, "red crown")
    assert (base.comparison.references, base.comparison.strength) == ((), 0.0)
    assert base.matches[0].score == pytest.approx(base.localize(base.matches[0]).scores["red crown"], abs=1e-6)
    (near,) = held.search(localizer, "ember finch", nearest(2))
    own = localizer(near.matches[0].image, "ember finch", nearest(2))
    assert near.comparison.references == own.comparison.references
    assert near.localize(near.matches[0]).comparison.references == own.comparison.references
    (named,) = held.search(localizer, "ember finch", against("frost finch", "bird"))
    assert named.comparison.references == ("frost finch", "bird")
    # A second text that is looked for is no reference of the first.
    first, _ = held.search(localizer, ["red crown", "orange crown"], nearest(1))
    assert first.comparison.references[0] in localizer.vocabulary
    for wanted, options, message in (
        ("red crown", {"against": rivals(2)}, "depend on the image"),
        ("red crown", {"against": lambda bank, target, scores: ("bird",)}, "depend on the image"),
        ([], {}, "0 targets and top 50"),
        ("red crown", {"top": 0}, "1 targets and top 0"),
    ):
        with pytest.raises(OptionError, match=message):
            held.search(localizer, wanted, **options)
    with pytest.raises(UnknownWord, match=r"never seen the word 'crwn'\. Did you mean 'crown'"):
        held.search(localizer, "red crwn")


def test_ties_are_in_the_order_of_the_images_and_blocks_change_nothing(tmp_path, monkeypatch):
    numbers = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).round()
    (tmp_path / NAME).write_bytes(index_of(numbers.numpy()))
    wanted = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).round()
    found = Index.open(tmp_path, "a")
    whole = found.best(wanted, 20)
    monkeypatch.setattr(index, "_BLOCK", 4 * 8 * 7)
    assert [block.shape for _, block, _ in found.blocks()] == [(7, 8)] * 7 + [(1, 8)]
    for direction, (scores, which), (same, again) in zip(wanted, whole, found.best(wanted, 20), strict=True):
        own = numbers @ direction
        assert which.tolist() == own.argsort(descending=True, stable=True)[:20].tolist() == again.tolist()
        assert torch.equal(scores, own[which])
        assert torch.equal(scores, same)


@pytest.mark.slow
def test_the_memory_of_a_search_is_bounded(tmp_path):
    """400 MB of embeddings, of which one block is held at a time."""
    block = np.random.default_rng(0).standard_normal((10_000, 512), dtype=np.float32)
    with (tmp_path / NAME).open("wb") as stream:
        stream.write(head_of("a", np.zeros((200_000, 2), np.int64), np.tile(sums_of(block), 20), 512))
        for _ in range(20):
            stream.write(block.tobytes())
    code = """
import resource, sys, torch
from pathlib import Path
from concept_cam.store.index import Index
found = Index.open(Path(sys.argv[1]), "a")
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = most()
found.best(torch.ones(1, 512), 50)
print(most() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


# ---- a run ------------------------------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_read_is_a_row(stores, images):
    rows = read_table((stores / "exact" / "rows.csv").read_bytes())
    assert [row["image"] for row in rows] == [path.name for path in images]
    assert [row["image"] for row in rows if "problem" in row] == [BAD]
    assert "the image cannot be read" in rows[2]["problem"]
    assert {(row["rows"], row["cols"], row["height"]) for row in rows if row["image"] != BAD} == {("12", "12", "96")}


def test_a_store_of_nothing_answers_nothing(localizer, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    told = []
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert store_fields(localizer, paths, tmp_path / "store", failed=lambda path, _: told.append(path)) == 2
    assert told == paths
    held = Store.open(tmp_path / "store")
    (answer,) = held.search(localizer, "red crown")
    assert (len(held), answer.matches) == (0, ())
    assert "No image of the store has a field" in write_matches([answer], tmp_path / "found").read_text()
    for wrong, message in (({"images": []}, "There are no images"), ({"keep": "all"}, "keep is 'all'")):
        with pytest.raises(OptionError, match=message):
            store_fields(localizer, **{"images": paths, "folder": tmp_path / "other", **wrong})
    world.draw_species("ember finch", 0, 96).image.save(tmp_path / "c.png")
    with pytest.raises(OptionError, match="layer_cam is not linear"):
        store_fields(world.localizer(method="layer_cam"), [tmp_path / "c.png"], tmp_path / "other")


def test_a_field_that_could_not_be_read_back_is_a_row(localizer, images, tmp_path, monkeypatch):
    """Or the run would end there each time."""
    monkeypatch.setattr(batches, "MOST_NUMBERS", 144 * 192 - 1)
    assert store_fields(localizer, images[:2], tmp_path / "store") == 2
    assert "144 vectors of 192 numbers; at most" in (tmp_path / "store" / "rows.csv").read_text()
    monkeypatch.undo()
    real = storing.each_frame
    monkeypatch.setattr(storing, "each_frame", lambda *given: [replace(one, vectors=one.vectors / 0) for one in real(*given)])
    assert store_fields(localizer, images[:2], tmp_path / "other") == 2
    assert "not finite" in (tmp_path / "other" / "rows.csv").read_text()


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")  # random weights
def test_a_classifier_has_a_store_too(images, tmp_path):
    backbone = wrap(
        classifiers.timm_resnet(), preprocess=Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3), classes=classifiers.CLASSES
    )
    localizer = Localizer(backbone, method="hires_cam")
    first, second = backbone.classes[:2]
    store_fields(localizer, images[:2], tmp_path / "store")
    (answer,) = Store.open(tmp_path / "store").search(localizer, first, second)
    for match in answer.matches:
        own = localizer(match.image, first, second)
        torch.testing.assert_close(answer.localize(match).map, own.map, rtol=1e-2, atol=2e-3 * float(own.map.abs().max()))
        assert answer.localize(match).scores == pytest.approx(dict(own.scores), rel=1e-4)
    with pytest.raises(ConceptCamError, match="has no class 'red crown'"):
        Store.open(tmp_path / "store").search(localizer, "red crown")


@pytest.mark.parametrize("done", by_default([0, 1, 3], 1))
def test_an_interrupted_run_ends_with_the_same_bytes(localizer, images, stores, tmp_path, small, monkeypatch, done):
    made, real = [], storing.files_of

    def stopped(*arguments):
        if len(made) == done:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments)

    monkeypatch.setattr(storing, "files_of", stopped)
    with pytest.raises(KeyboardInterrupt, match=f"{2 * done} of 9 images are kept"):
        store_fields(localizer, images, tmp_path / "store", batch_size=2)
    if done:
        with pytest.raises(OutputError, match="the store is not finished; start the same"):
            Store.open(tmp_path / "store")
    monkeypatch.setattr(storing, "files_of", real)
    assert store_fields(localizer, images, tmp_path / "store", batch_size=2) == 1
    assert content(tmp_path / "store") == content(stores / "exact")
    with pytest.raises(OutputError, match="holds a run with another keep"):
        store_fields(localizer, images, tmp_path / "store", "compact", batch_size=2)


@pytest.mark.slow
def test_what_is_killed_ends_with_the_same_bytes(tmp_path):
    (tmp_path / "images").mkdir()
    for seed in range(160):
        world.draw_species(SPECIES[seed % 5], seed, 96).image.save(tmp_path / "images" / f"{seed:03d}.png")
    (tmp_path / "images" / BAD).write_bytes(b"no image")

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "concept_cam", "fields", "images", "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "0"}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 2
    kills = 0
    for done in (1, 3):
        process = start("killed")
        while process.poll() is None and not (tmp_path / "killed" / "batches" / f"{done:05d}.images").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    assert start("killed").wait() == 2
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


# ---- what is damaged or foreign ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes().replace(b'"run": "', b'"run": "0')),
        lambda file: file.write_bytes(index_of(np.zeros((1, 192), np.float32), "other")),
    ],
    ids=["gone", "empty", "cut short", "of another run", "of another store"],
)
def test_an_index_that_does_not_fit_is_made_anew(folder, stores, damage):
    damage(folder / NAME)
    assert len(Store.open(folder)) == len(SPECIES) + len(ODD)
    assert content(folder) == content(stores / "exact")


def flipped(held: bytes, at: int, bit: int) -> bytes:
    return held[:at] + bytes([held[at] ^ 1 << bit]) + held[at + 1 :]


def test_no_changed_bit_of_an_index_changes_an_answer(localizer, folder, stores):
    """Each byte of the header, and bytes all over the rest; what is not found at the start is found in the search."""
    whole = (folder / NAME).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    numbers = np.random.default_rng(0)
    bits = {at: int(numbers.integers(8)) for at in [*range(header), *numbers.integers(header, len(whole), 200).tolist()]}
    bits |= {header: 0, len(whole) - 1: 7}
    vectors = localizer.bank(["red crown", "bird"]).vectors
    own = Store.open(stores / "exact")
    wanted, places = own.index.best(vectors, 3), [own.index.place(number) for number in range(len(own))]
    refusals = 0
    for at, bit in bits.items():
        (folder / NAME).write_bytes(flipped(whole, at, bit))
        try:
            found = Index.open(folder, digest_of(own.settings))
            best = found.best(vectors, 3)
        except OutputError:
            refusals += 1
            continue
        assert [found.place(number) for number in range(found.count)] == places
        assert all(torch.equal(*each) for pair in zip(best, wanted, strict=True) for each in zip(*pair, strict=True))
    assert refusals >= 0.8 * len(bits)  # the others are spaces, or names that nobody reads
    (folder / NAME).write_bytes(whole)
    held = Store.open(folder)
    (answer,) = held.search(localizer, "red crown", "bird")
    (folder / NAME).write_bytes(flipped(whole, len(whole) - 1, 7))
    (again,) = held.search(localizer, "red crown", "bird")
    assert again.matches == answer.matches
    assert (folder / NAME).read_bytes() == whole


def changed(ending: str, change):
    def damage(folder: Path) -> None:
        for file in sorted((folder / "batches").glob(f"*{ending}")):
            file.write_bytes(change(file.read_bytes()))

    return damage


def set_in_images(**values):
    def change(held: bytes) -> bytes:
        told = json.loads(held)
        for entry in told["images"]:
            if "problem" not in entry:
                entry.update(values)
        return json.dumps(told).encode()

    return changed(".images", change)


def set_in_run(**values):
    def damage(folder: Path) -> None:
        file = folder / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def last_number_flipped(held: bytes) -> bytes:
    length = 8 + int.from_bytes(held[:8], "little")
    at = length + json.loads(held[8:length])["halves"]["data_offsets"][0]
    return held[:at] + bytes([held[at] ^ 1]) + held[at + 1 :]


DAMAGED = {
    "a number of a field": (changed(".safetensors", last_number_flipped), "other numbers than were stored"),
    "tensors cut short": (changed(".safetensors", lambda held: held[:-1000]), "cut short"),
    "no tensors": (changed(".safetensors", lambda _: b""), "not fields"),
    "no JSON": (changed(".images", lambda held: held[:-40]), "not a saved batch of a store"),
    "too few images": (changed(".images", lambda _: b'{"provenance": [], "images": []}'), "does not belong"),
    "a grid that is none": (set_in_images(grid=[10**6, 10**6], problem=None), "not a saved batch"),
    "an image beside it": (set_in_images(sha256="../../secret"), "not a saved batch"),
    "a cell too many": (set_in_images(grid=[12, 13]), "other numbers|has not the numbers"),
    "another way to keep": (set_in_run(keep="compact"), "not a saved|not fields"),
    "no way to keep": (set_in_run(keep="all"), "not a saved store"),
    "no number of images": (set_in_run(images="many"), "not a saved store"),
    "more images than there are": (set_in_run(images=10**9), "not finished"),
    "templates that are none": (set_in_run(templates=[1]), "not a saved store"),
    "another job": (set_in_run(job="localize"), "it holds no fields"),
    "no settings": (lambda folder: (folder / "run.json").unlink(), "not the settings of a run"),
}


def localized(localizer, folder):
    (answer,) = Store.open(folder).search(localizer, "red crown", "bird")
    return [answer.localize(match) for match in answer.matches]


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_refused_in_one_line(localizer, folder, case):
    damage, message = DAMAGED[case]
    damage(folder)
    with pytest.raises(OutputError, match=message) as caught:
        localized(localizer, folder)
    assert "\n" not in str(caught.value)


def test_another_model_is_refused(localizer, stores, images):
    held = Store.open(stores / "exact")
    others = {
        "another model": world.localizer(checkpoint=world.SHORTCUT),
        "another preprocessing": Localizer(localizer.backbone, templates=localizer.templates, size=192),
        "another tokenizer or other templates": Localizer(localizer.backbone, templates=["the {}"]),
    }
    for what, other in others.items():
        with pytest.raises(OutputError, match=f"made with {what}"):
            held.search(other, "red crown")
    held.search(localizer, "red crown")
    model = localizer.backbone.module
    with torch.no_grad():
        model.ln_final.weight.data[0] += 1
    try:
        with pytest.raises(OutputError, match="another model"):
            held.search(localizer, "red crown")
    finally:
        with torch.no_grad():
            model.ln_final.weight.data[0] -= 1


def test_the_model_is_compared_once(localizer, stores, monkeypatch):
    held = Store.open(stores / "exact")
    held.search(localizer, "red crown")
    monkeypatch.setattr(store, "identity_of", lambda *_: pytest.fail("compared again"))
    held.search(localizer, "blue wing")


# ---- what is written --------------------------------------------------------------------------------------------------


def test_names_are_safe_in_the_table_and_on_the_page(localizer, stores, tmp_path):
    answers = Store.open(stores / "exact").search(localizer, ["red crown", "blue wing"], "bird")
    page = write_matches(answers, tmp_path / "found", "concept-cam search <b>")
    text, rows = page.read_text(), read_table((tmp_path / "found" / "matches.csv").read_bytes())
    assert {Path(row["image"]).name for row in rows} == {f"{name}.png" for name in SPECIES} | set(ODD)
    assert (tmp_path / "found" / "matches.csv").read_text().count("\n") == 1 + len(rows) + 2  # one name has a line break
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text
    assert "<b>" not in text
    # Of each answer those with evidence beside their maps, and a table; then the others.
    assert re.findall(r'class="(images|scroll)"', text) == ["images", "scroll", "images"] * 2 + ["scroll"]
    plain = next(row for row in rows if "ember" in row["image"])
    assert f"<figcaption>{plain['rank']}. ember finch</figcaption>" in text
    assert f"red crown {float(plain['score']):.2f}, bird {float(plain['reference_scores']):.2f} <a class=" in text
    for answer in answers:
        ours = [row for row in rows if row["target"] == answer.comparison.target]
        scored = [(row, float(row["score"]), float(row["reference_scores"])) for row in ours]
        good = [row for row, target, bird in scored if target > bird]
        assert 0 < len(good) < len(scored)
        assert f"{len(good)} of {len(scored)} images score" in text
        assert f"Below: no evidence of {answer.comparison.target} ({len(scored) - len(good)} images)" in text
    told = json.loads((tmp_path / "found" / "matches.json").read_text())
    assert [answer["comparison"]["target"] for answer in told["answers"]] == ["red crown", "blue wing"]
    first, result = told["answers"][0]["matches"][0], answers[0].localize(answers[0].matches[0])
    assert (tuple(first["peak"]), first["boxes"]) == (result.peak(), [list(box) for box in result.boxes()])
    overlays = {file.relative_to(page.parent).as_posix() for file in (page.parent / "overlays").iterdir()}
    assert overlays == {match["overlay"] for answer in told["answers"] for match in answer["matches"]}
    assert all(f'href="{name}"' in text for name in overlays)
    assert "http" not in html._asset("page.css")
    assert json.loads((tmp_path / "found" / "how.json").read_text())["job"] == "search"


def test_no_more_is_kept_than_the_page_shows(localizer, stores, tmp_path, monkeypatch):
    monkeypatch.setattr("concept_cam.store.matches.SHOWN", 3)
    kept, own = [], matches.panels_of
    monkeypatch.setattr(matches, "panels_of", lambda result, *images: kept.append(result) or own(result, *images))
    answers = Store.open(stores / "exact").search(localizer, ["red crown", "blue wing"], "bird")
    page = write_matches(answers, tmp_path).read_text()
    assert len(kept) == 6
    overlays = len(list((tmp_path / "overlays").iterdir()))
    assert page.count(f"In the table alone: {overlays // 2 - 3} of {overlays // 2} matches.") == 2


def test_where_nothing_is_found_the_page_says_so_and_shows_the_first(localizer, stores, tmp_path):
    """None scores higher for a part than for the whole, as with many models: their maps are not faint then."""
    (answer,) = Store.open(stores / "exact").search(localizer, "blue crest", "bird")
    found = [Found(1, match, answer.localize(match), "") for match in answer.matches]
    none = [one for one in found if not one.evident]
    assert lead_of(answer, none).startswith(
        f"None of the first {len(none)} of {len(answer.store)} images scores higher for blue crest"
    )
    panels = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")
    (section,) = sections_of(answer, [replace(one, panels=panels) for one in none])
    (strip,) = section.strips
    assert strip.title == f"No evidence: {len(none)} images"
    assert strip.images[1].image.getpixel((0, 0)) == (255, 0, 0)


def test_an_image_that_is_gone_or_changed_is_listed_without_overlay(localizer, images, tmp_path):
    paths = [shutil.copy(path, tmp_path / f"{k}.png") for k, path in enumerate(images[:2] + images[3:5])]
    store_fields(localizer, list(map(Path, paths)), tmp_path / "store")
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(images[3].read_bytes())
    answers = Store.open(tmp_path / "store").search(localizer, "red crown", "bird")
    page = write_matches(answers, tmp_path / "found")
    assert "In the table alone: 2 of 4 matches." in page.read_text()
    told = {
        Path(match["image"]).name: match
        for match in json.loads((tmp_path / "found" / "matches.json").read_text())["answers"][0]["matches"]
    }
    assert len(told) == 4
    assert "the image is gone" in told["0.png"]["problem"]
    assert "has changed since it was stored" in told["1.png"]["problem"]
    assert {name for name, match in told.items() if match["overlay"] is None} == {"0.png", "1.png"}
    assert all(len(match["peak"]) == 2 for match in told.values())
    (tmp_path / "moved").mkdir()
    for name in ("2.png", "3.png"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    answers = Store.open(tmp_path / "store", tmp_path / "moved").search(localizer, "red crown", "bird")
    write_matches(answers, tmp_path / "again")
    assert len(list((tmp_path / "again" / "overlays").iterdir())) == 2
    shutil.copytree(tmp_path / "store", tmp_path / "both" / "store")
    shutil.copytree(tmp_path / "moved", tmp_path / "both", dirs_exist_ok=True)
    assert Store.open(tmp_path / "both" / "store").images == tmp_path / "both"
    with pytest.raises(OutputError, match="holds a run of several images"):
        write_matches(answers, tmp_path / "store")
    with pytest.raises(ConceptCamError, match="no answers"):
        write_matches([], tmp_path / "again")


@pytest.mark.slow
def test_a_red_crown_is_found_and_the_peak_is_on_it(localizer, tmp_path):
    """Of 600 birds of no species some 55 have a red crown."""

    def plate(number: int):
        rng = np.random.default_rng([HELD_OUT_STREAM, 0, number, 2000])
        return draw(random_bird(rng), rng, 192)

    paths = [tmp_path / f"{number:03d}.png" for number in range(600)]
    for number, path in enumerate(paths):
        plate(number).image.save(path)
    store_fields(localizer, paths, tmp_path / "store", "compact", batch_size=16)
    (answer,) = Store.open(tmp_path / "store").search(localizer, "red crown", "bird", top=20)
    right = hits = 0
    for match in answer.matches:
        found = plate(int(match.image.stem))
        mask, peak = torch.from_numpy(found.mask("crown")), answer.localize(match).peak()
        right += found.bird.card["crown"] == "red"
        hits += bool(mask.any()) and bool(pointing_hit(torch.tensor([peak]), mask[None]))
    told = f"of the first 20, {right} have a red crown, and in {hits} the peak is on it"
    assert right >= 17, told
    assert hits >= 17, told


def test_the_python_of_the_page_about_scale_runs(tmp_path, monkeypatch, capsys):
    shared, readers, written, cite, code = re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "scale.md").read_text(), re.S
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(shared, "scale.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "0 images failed\n"
    assert len(list(Path("maps").glob("*-overlay.png"))) == 3
    exec(compile(written, "scale.md", "exec"), {})
    assert [line.split()[-2:] for line in capsys.readouterr().out.splitlines()] == [["(12,", "12)"]] * 3
    modules = {name: importlib.import_module(name) for name in ("duckdb", "json", "pandas", "polars", "pyarrow.parquet")}
    modules |= {"pyarrow": importlib.import_module("pyarrow"), "datasets": SimpleNamespace(load_dataset=lambda *_, **__: None)}
    importlib.import_module("pyarrow.dataset")
    exec(compile(f"{readers}\nassert {cite.strip()}", "scale.md", "exec"), modules)
    exec(compile(code, "scale.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert "ember finch.png 0.1" in first
    assert ".png" in second
    assert Path("found", "search.html").is_file()


def test_the_settings_are_those_of_a_run(stores):
    settings = json.loads((stores / "exact" / "run.json").read_text())
    held = json.loads((stores / "exact" / "batches" / "00000.json").read_text())
    assert held["run"] == digest_of(settings)
    assert set(settings) >= {"keep", "folder", "images_digest", "model_digest", "versions", "batch_size"}

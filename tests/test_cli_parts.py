"""``concept-cam parts`` from end to end: what it writes, what others read of it, and one line for every mistake."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from slow import by_default

from concept_cam import grad_cam, loading, passes, world
from concept_cam.datasets import read_dataset
from concept_cam.datasets.published import read_cub
from concept_cam.localizer import Localizer
from concept_cam.parts import find_parts, read_parts, sheet
from concept_cam.world.checkpoint import FOLDER
from concept_cam.writers import to_csv

SPECIES = ("ember finch", "misty heron", "royal jay")
TABLES = {"parts.csv", "coco.json", "cub", "annotated", "findings", "how.json"}
RUN = {"batches", "run.json"}


@pytest.fixture(scope="module")
def embedded():
    return world.localizer().backbone


@pytest.fixture
def run(embedded, monkeypatch, command_line):
    """With the embedded model loaded once."""
    real, held = loading.load, f"local-dir:{FOLDER}"
    monkeypatch.setattr(loading, "load", lambda name, *rest, **named: embedded if name == held else real(name, *rest, **named))
    return partial(command_line, "parts")


@pytest.fixture
def birds(tmp_path):
    """Two images of two species each, wider than high, in a folder for each species."""
    for name in ("ember finch", "royal jay"):
        folder = tmp_path / "birds" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for seed in range(2):
            world.draw_species(name, seed, 160).image.crop((0, 20, 160, 140)).save(folder / f"{seed}.png")
    return tmp_path / "birds"


def names(folder):
    return {file.name for file in folder.iterdir()}


def rows(file):
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))


def array(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


# ---- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_without_a_image(run, tmp_path, embedded):
    code, out, err = run()
    assert (code, err) == (0, "")
    folder = tmp_path / "concept-cam-parts"
    slugs = [name.replace(" ", "-") for name in SPECIES]
    assert names(folder) == {*TABLES, *RUN, "images", *(f"sheet-{slug}.html" for slug in slugs)}
    assert names(folder / "annotated") == {f"{slug}-{seed}.png" for slug in slugs for seed in range(2)}
    *lines, last, following = out.splitlines()
    assert following.startswith("next: concept-cam localize ")
    assert last == "6 images, 70 of 72 parts visible; annotated/, parts.csv, coco.json, cub/ and 3 sheets in concept-cam-parts"
    assert len(lines) == 6
    (finch,) = (line for line in lines if line.startswith("ember-finch-0.png: "))
    assert finch.startswith("ember-finch-0.png: crown: red (1.00), face: brown (1.00), beak: yellow (1.00) short (1.00), ")
    assert finch.endswith("legs: pink (1.00), not visible: crest")
    # The images are those that the library draws, and what is drawn on them is what it finds.
    localizer, vocabulary = Localizer(embedded, templates="world"), read_parts("world-parts")
    for name in SPECIES:
        for seed in range(2):
            file = folder / "images" / name.replace(" ", "_") / f"{name.replace(' ', '-')}-{seed}.png"
            plate = world.draw_species(name, seed).image
            assert np.array_equal(array(file), np.asarray(plate))
            found = find_parts(localizer, plate, vocabulary)
            expected = np.asarray(sheet.annotated(found, plate))
            shown = array(folder / "annotated" / file.name)
            assert shown.shape == expected.shape
            assert (shown != expected).mean() < 0.001
            assert f"{file.name}: {sheet.summary(found)}" in lines
    # pycocotools
    coco = COCO()
    coco.dataset = json.loads((folder / "coco.json").read_text())
    coco.createIndex()
    assert len(coco.imgs) == 6
    assert len(coco.anns) == len(coco.dataset["annotations"]) == 70 + 6
    for number, image in coco.imgs.items():
        drawn = world.draw_species(Path(image["file_name"]).parent.name.replace("_", " "), int(image["file_name"][-5]))
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        colours = {coco.cats[a["category_id"]]["name"]: a["attributes"]["colour"] for a in annotations[1:]}
        assert colours == {part: colour for part, colour in drawn.bird.card.items() if part in colours}
        for annotation in annotations:
            assert coco.annToMask(annotation).sum() == annotation["area"] > 0
    # The layout of CUB, with the folder of the images beside it.
    (folder / "cub" / "images").symlink_to(folder / "images")
    cub = read_cub(folder / "cub")
    assert (cub.problems, set(cub.classes), len(cub.examples)) == ((), set(SPECIES), 6)
    table = rows(folder / "parts.csv")
    assert len(table) == 72
    for example in cub.examples:
        assert example.label == Path(example.name).parent.name.replace("_", " ")
        own = {row["part"]: row for row in table if row["image"] == example.name}
        assert len(own) == 12
        assert [(row["part"], (float(row["x"]), float(row["y"]))) for row in own.values() if row["visible"] == "1"] == [
            (name, (pytest.approx(x, rel=1e-5), pytest.approx(y, rel=1e-5))) for name, (x, y) in example.points
        ]
        assert own["crest"]["visible"] == str(int("finch" not in example.label))
    # The sheets
    for name, slug in zip(SPECIES, slugs, strict=True):
        html = (folder / f"sheet-{slug}.html").read_text(encoding="utf-8")
        assert f"<h1>{name}</h1>" in html
        card = world.species()[name].card
        for part in world.PARTS:
            assert f">{part}</div>" in html
            if card[part] != "none":
                assert f">{card[part]} 2/2<" in html
        assert html.count(f'href="annotated/{slug}-') > 2 * 11 + 1
        assert all(other not in html for other in SPECIES if other != name)


@pytest.mark.slow
def test_so_many_plates(run, tmp_path):
    code, out, _ = run("--count", 4, "--out", "found")
    assert code == 0
    assert len(out.splitlines()) == 6
    assert len(list((tmp_path / "found" / "images").rglob("*.png"))) == 4
    assert "4 images" in out
    assert len(list((tmp_path / "found").glob("sheet-*.html"))) == 3
    code, out, _ = run("--count", 1, "--out", "one")
    assert "1 image, 11 of 12 parts visible" in out
    assert out.splitlines()[-2].endswith("cub/ and 1 sheet in one")
    assert (tmp_path / "one" / "sheet-ember-finch.html").is_file()


@pytest.mark.slow
def test_a_folder_of_species(run, birds, tmp_path):
    code, out, err = run("birds", "--out", "found")
    assert (code, err) == (0, "")
    assert names(tmp_path / "found") == {*TABLES, *RUN, "sheet-ember-finch.html", "sheet-royal-jay.html"}
    # Equal names in two folders: nothing is written over.
    assert names(tmp_path / "found" / "annotated") == {"0.png", "1.png", "0-2.png", "1-2.png"}
    assert {row["image"] for row in rows(tmp_path / "found" / "parts.csv")} == {
        f"{name}/{seed}.png" for name in ("ember_finch", "royal_jay") for seed in range(2)
    }
    shutil.copytree(birds, tmp_path / "found" / "cub" / "images")
    found = read_dataset(tmp_path / "found" / "cub")
    assert [example.label for example in found.examples] == ["ember finch"] * 2 + ["royal jay"] * 2
    assert found.problems == ()
    page = (tmp_path / "found" / "sheet-royal-jay.html").read_text()
    assert 'href="annotated/1-2.png"' in page
    assert 'href="annotated/1.png"' not in page
    assert "<h1>royal jay</h1>" in page
    assert "images</dt><dd>2</dd>" in page
    # The shell's way of saying the same.
    files = [f"birds/{name}/{seed}.png" for name in ("ember_finch", "royal_jay") for seed in range(2)]
    code, again, _ = run(*files, "--out", "again")
    assert names(tmp_path / "again") == names(tmp_path / "found")
    assert again.replace("in again", "in found") == out
    assert (tmp_path / "again" / "parts.csv").read_bytes() == (tmp_path / "found" / "parts.csv").read_bytes()


@pytest.mark.parametrize(
    ("given", "page", "title"),
    [
        (["birds/ember_finch"], "sheet-ember-finch.html", "ember finch"),
        pytest.param(["birds/ember_finch/0.png"], "sheet-bird.html", "bird", marks=pytest.mark.slow),
        (["birds/ember_finch/0.png", "birds/ember_finch/1.png"], "sheet-bird.html", "bird"),
    ],
)
def test_one_folder_is_one_sheet(run, birds, tmp_path, given, page, title):
    """Called as the folder if that was given; what else lies beside a single image says nothing of it."""
    assert run(*given, "--out", "found")[0] == 0
    assert names(tmp_path / "found") == {*TABLES, *(() if given[-1].endswith("0.png") else RUN), page}
    assert f"<h1>{title}</h1>" in (tmp_path / "found" / page).read_text()
    assert (tmp_path / "found" / "cub" / "classes.txt").read_text() == f"1 001.{title.replace(' ', '_')}\n"
    assert (tmp_path / "found" / "cub" / "images.txt").read_text().splitlines()[0] == "1 0.png"


@pytest.mark.slow
def test_folders_that_are_called_alike_have_a_sheet_each(run, birds, tmp_path):
    for k, name in enumerate(("Royal Jay!", "???", "(royal) jay", "001.royal_jay")):
        shutil.copytree(birds / "ember_finch", birds / name)
        (birds / name / "1.png").rename(birds / name / f"x{k}.png")
    shutil.rmtree(birds / "ember_finch")
    assert run("birds", "--out", "found")[0] == 0
    pages = {file.name: file.read_text() for file in (tmp_path / "found").glob("sheet-*.html")}
    assert set(pages) == {"sheet-royal-jay.html", "sheet-royal-jay-2.html", "sheet-royal-jay-3.html", "sheet-sheet.html"}
    titles = {page.split("<h1>")[1].split("</h1>")[0]: page for page in pages.values()}
    assert set(titles) == {"royal jay", "Royal Jay!", "(royal) jay", "???"}
    assert "images</dt><dd>4</dd>" in titles["royal jay"]  # that with CUB's number is the same


def test_options_reach_the_library(run, birds, tmp_path, embedded):
    options = ("--strength", 0.5, "--method", "grad_cam", "--size", "96x128", "--fit", "pad", "--templates", "plain")
    Path("mine.yaml").write_text(
        "title: Mine\nparent: bird\nconcepts:\n  - tail\n  - {name: crown, attributes: {colour: [red, blue]}}\n"
    )
    assert run("birds/ember_finch", "--parts", "mine.yaml", *options, "--out", "found")[0] == 0
    localizer = Localizer(embedded, templates="plain", method=grad_cam, size=(96, 128), fit="pad")
    paths = [birds / "ember_finch" / f"{seed}.png" for seed in range(2)]
    expected = {path.name: find_parts(localizer, path, read_parts("mine.yaml"), strength=0.5) for path in paths}
    ours, theirs = rows(tmp_path / "found" / "parts.csv"), list(csv.DictReader(io.StringIO(to_csv(expected).decode())))
    assert [row["part"] for row in ours] == ["tail", "crown"] * 2
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            number = key in ("confidence", "x", "y", "colour_confidence") and value
            assert (pytest.approx(float(value), rel=1e-3) == float(other[key])) if number else value == other[key]
    assert run("birds/ember_finch", "--parts", "mine.yaml", "--out", "usual")[0] == 0
    assert (tmp_path / "usual" / "parts.csv").read_bytes() != (tmp_path / "found" / "parts.csv").read_bytes()
    assert "grad_cam" in (tmp_path / "found" / "sheet-ember-finch.html").read_text().replace("<wbr>", "")


@pytest.mark.slow
def test_many_images_are_not_read_out(run, tmp_path):
    plate = world.draw_species("ember finch", 0, 96).image
    (tmp_path / "many").mkdir()
    for k in range(9):
        plate.rotate(5 * k).save(tmp_path / "many" / f"{k}.png")
    code, out, err = run("many", "--out", "found")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.startswith("9 images, ")
    assert err == ""  # no bar without a terminal
    assert len(names(tmp_path / "found" / "annotated")) == 9
    numbers = [annotation["id"] for annotation in json.loads((tmp_path / "found" / "coco.json").read_text())["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.slow
def test_a_image_that_is_given_twice_is_one(run, birds, tmp_path):
    code, out, _ = run("birds/ember_finch/0.png", "birds/ember_finch", birds / "ember_finch" / "0.png", "--out", "found")
    assert code == 0
    assert "2 images" in out
    assert names(tmp_path / "found" / "annotated") == {"0.png", "1.png"}


# ---- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", by_default(["royal_jay/2.png", "ember_finch/00.png"], "royal_jay/2.png"))
def test_a_broken_image_is_left_out(run, birds, tmp_path, broken):
    """Be it the first or the last of its species."""
    (birds / broken).write_bytes(b"no image")
    code, out, err = run("birds", "--out", "found")
    assert code == 2
    first, last = err.splitlines()
    assert first.startswith("concept-cam: ")
    assert broken in first
    assert last == "concept-cam: 1 of 5 images failed; the others are in found."
    assert out.splitlines()[-2].startswith("4 images, 1 skipped, ")
    assert len(out.splitlines()) == 6
    assert names(tmp_path / "found") == {*TABLES, *RUN, "sheet-ember-finch.html", "sheet-royal-jay.html"}
    assert len(names(tmp_path / "found" / "annotated")) == 4
    images = {row["image"] for row in rows(tmp_path / "found" / "parts.csv")}
    assert images == {f"{name}/{seed}.png" for name in ("ember_finch", "royal_jay") for seed in range(2)}
    assert len(json.loads((tmp_path / "found" / "coco.json").read_text())["images"]) == 4
    for page in (tmp_path / "found").glob("sheet-*.html"):
        assert "images</dt><dd>2</dd>" in page.read_text()


@pytest.mark.slow
def test_a_image_that_is_another_by_the_time_it_is_drawn(run, birds, monkeypatch):
    from concept_cam import images

    read = images.read_image
    gone = lambda source: read("gone.png" if str(source).endswith("ember_finch/0.png") else source)  # noqa: E731
    monkeypatch.setattr(images, "read_image", gone)  # the localizer has a name of its own for it
    code, out, err = run("birds", "--out", "found")
    assert code == 2
    assert "gone.png" in err.splitlines()[0]
    assert "1 of 4" in err.splitlines()[1]
    assert out.splitlines()[-2].startswith("3 images, 1 skipped, ")


def test_nothing_could_be_read(run, tmp_path):
    (tmp_path / "birds").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "birds" / name).write_text("no image")
    code, out, err = run("birds", "--out", "found")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "concept-cam: 2 of 2 images failed; none is left."
    assert names(tmp_path / "found") == {*RUN, "parts.csv"}
    assert rows(tmp_path / "found" / "parts.csv") == []
    code, out, err = run("birds/a.png", "--out", "alone")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "a.png" in err
    assert "not an image" in err


def test_a_image_is_never_written_over(run, birds, tmp_path):
    (tmp_path / "found" / "annotated").mkdir(parents=True)
    target = tmp_path / "found" / "annotated" / "0.png"
    shutil.copy(birds / "royal_jay" / "0.png", target)
    before = target.read_bytes()
    for images in (["found/annotated/0.png"], ["found/annotated"], ["birds/ember_finch/0.png", "found/annotated/0.png"]):
        if len(images) == 2:
            target.rename(target.with_name("0-2.png"))
            images[1], target = "found/annotated/0-2.png", target.with_name("0-2.png")
        code, _, err = run(*images, "--out", "found")
        assert code == 2
        assert "is one of the images, or their list, and would be overwritten; choose another --out" in err
        assert len(err.splitlines()) == 1
        assert target.read_bytes() == before
    (tmp_path / "found" / "annotated" / "1.png").symlink_to(birds / "royal_jay" / "1.png")
    assert "would be overwritten" in run("birds/royal_jay/1.png", "--out", "found")[2]


def test_what_was_written_before_an_interrupt_is_whole(run, birds, tmp_path, monkeypatch):
    draw, drawn = sheet.annotated, []

    def interrupted(*arguments, **options):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(arguments)
        return draw(*arguments, **options)

    monkeypatch.setattr("concept_cam.writers.overlays.annotated", interrupted)
    monkeypatch.setattr("concept_cam.writers.run.BATCH", 2)
    (birds / "ember_finch" / "00.png").write_bytes(b"no image")
    code, _, err = run("birds", "--out", "found")
    assert code == 130
    kept = "4 of 5 images are kept in found; the same command resumes there."
    assert err.splitlines()[-1] == f"concept-cam: interrupted; {kept}"
    # The sheet of the species that was through is there, and did not wait for what could not be read.
    assert names(tmp_path / "found") == {*RUN, "annotated", "findings", "how.json", "parts.csv", "sheet-ember-finch.html"}
    assert names(tmp_path / "found" / "annotated") == {"0.png", "1.png", "0-2.png"}
    assert {row["image"] for row in rows(tmp_path / "found" / "parts.csv")} == {
        *("ember_finch/0.png", "ember_finch/1.png", "royal_jay/0.png")
    }
    for file in (tmp_path / "found" / "annotated").iterdir():
        assert array(file).size > 0


def test_a_name_that_cub_cannot_hold_is_left_out_of_it_alone(run, birds, tmp_path):
    name = "a\u2028b.png"
    (birds / "ember_finch" / "1.png").rename(birds / "ember_finch" / name)
    code, _, err = run("birds/ember_finch", "--out", "found")
    assert code == 0
    assert err.startswith("concept-cam: not in cub/: ")
    assert "cannot stand on a line" in err
    assert (tmp_path / "found" / "cub" / "images.txt").read_text() == "1 0.png\n"
    assert {row["image"] for row in rows(tmp_path / "found" / "parts.csv")} == {"0.png", name}
    assert (tmp_path / "found" / "annotated" / name).is_file()


NAMES = ("a [bold].png", "#1 50% ?.png", "back\\slash.png", "Bläuling 鳥.png", "-dash.png")


@pytest.mark.parametrize("name", by_default(NAMES, "a [bold].png", "-dash.png"))
def test_names_are_taken_as_they_are(run, birds, tmp_path, name):
    (birds / "ember_finch" / "1.png").rename(birds / "ember_finch" / name)
    code, out, err = run("birds/ember_finch", "--out", "found")
    assert (code, err) == (0, "")
    assert f"{name}: crown" in out
    assert (tmp_path / "found" / "annotated" / name).is_file()
    assert name in {file["file_name"] for file in json.loads((tmp_path / "found" / "coco.json").read_text())["images"]}


MISTAKES = {
    "a model without a vocabulary": (
        ["@", "--model", "ViT-B-16", "--pretrained", "nothing.pt"],
        ["--parts", "birds", "fish", "world-parts", ".yaml"],
    ),
    "a model without an image": (["--model", "ViT-B-16", "--parts", "birds"], ["No image given"]),
    "a vocabulary": (["@", "--parts", "brids"], ["'brids'", "Did you mean 'birds'"]),
    "a vocabulary that is no part of anything": (["@", "--parts", "world-species"], ["`parent: bird`"]),
    "a vocabulary file": (["@", "--parts", "mine.yaml"], ["mine.yaml", "cannot be read"]),
    "words": (["@", "--parts", "birds"], ["has never seen", "give another encoder with --model"]),
    "a method": (["@", "--method", "hirescam"], ["hirescam", "Did you mean 'hires_cam'?"]),
    "a method without scores": (["@", "--method", "rollout"], ["rollout", "does not look at the score"]),
    "a strength": (["@", "--strength", "nan"], ["strength is nan"]),
    "a fit": (["@", "--fit", "padd"], ["No fit 'padd'. Did you mean 'pad'"]),
    "a size": (["@", "--size", "big"], ["--size big", "336x504"]),
    "a site": (["@", "--site", "nowhere"], ["nowhere"]),
    "templates": (["@", "--templates", "nothing"], ["'nothing'", "parts"]),
    "pretrained alone": (["@", "--pretrained", "openai"], ["--pretrained openai", "--model"]),
    "missing": (["missing.png"], ["missing.png", "does not exist"]),
    "an empty folder": (["empty"], ["empty", "no images in this folder"]),
    "a folder of empty folders": (["folders"], ["folders", "no images in this folder"]),
    "a name that is too long": (["x" * 300 + ".png"], ["xxx.png"]),
    "a file in place of the folder": (["@", "--out", "text.txt"], ["text.txt", "choose another --out"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(run, birds, tmp_path, case):
    (tmp_path / "folders" / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("kept")
    arguments, words = MISTAKES[case]
    place = () if "--out" in arguments else ("--out", "found")
    code, out, err = run(*("birds/ember_finch/0.png" if a == "@" else a for a in arguments), *place)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("concept-cam: ")
    assert all(word in err for word in words), err
    assert not (tmp_path / "found").exists() or names(tmp_path / "found") == set()
    assert (tmp_path / "text.txt").read_text() == "kept"
    if case == "a model without a vocabulary":
        assert "world-species" not in err


@pytest.mark.parametrize(
    "case", ["a model without a vocabulary", "a vocabulary", "a method without scores", "a strength", "a fit"]
)
def test_mistakes_are_found_before_a_model_is_loaded(run, birds, monkeypatch, case):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("loaded"))
    assert run(*("birds/ember_finch/0.png" if a == "@" else a for a in MISTAKES[case][0]))[0] == 2


def test_localize_reads_a_folder_of_species_too(run, command_line, birds, tmp_path):
    code, out, err = command_line("localize", "birds", "--target", "ember finch", "--out", "found")
    assert (code, err) == (0, "")
    assert out.count(", strongest at") == 4
    assert {file.stem for file in (tmp_path / "found").glob("*.json")} - {"how", "run"} == {"0", "1", "0-2", "1-2"}


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['concept-cam', 'parts', '--help']\n"
        "from concept_cam.cli import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'open_clip', 'transformers', 'timm', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert "--parts" in done.stdout
    assert "parts.csv" in done.stdout


# ---- what is wrong with one image, and names that would do something ------------------------------------------------


@pytest.mark.slow
def test_a_blank_map_is_the_problem_of_its_own_image(run, birds, tmp_path, monkeypatch):
    guide, real = world.localizer(), passes.explain
    (seen,) = guide.passes([guide.frame(Image.new("RGB", (160, 160), "white"))])

    def explain(method, trace, directions):
        same = (trace.embedding - seen.embedding).abs().amax(1) < 1e-4
        return real(method, trace, directions).masked_fill(same[None, :, None, None], 0.0)

    monkeypatch.setattr(passes, "explain", explain)
    Image.new("RGB", (160, 160), "white").save(birds / "ember_finch" / "0-white.png")
    code, out, err = run("birds", "--out", "found")
    assert code == 2
    first, last = err.splitlines()
    assert first.startswith("concept-cam: birds/ember_finch/0-white.png: No patch at ")
    assert last == "concept-cam: 1 of 5 images failed; the others are in found."
    assert out.splitlines()[-2].startswith("4 images, 1 skipped, ")
    code, out, err = run("birds/ember_finch/0-white.png", "--out", "alone")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "the map is blank" in err


@pytest.mark.slow
def test_long_names_of_images_and_of_species(run, birds, tmp_path):
    species = "鳥" * 84  # 252 bytes
    (birds / "ember_finch").rename(birds / species)
    (birds / "royal_jay").rename(birds / ("🐦x" * 50))
    for seed in range(2):
        (birds / species / f"{seed}.png").rename(birds / species / f"{'é' * 124}{seed}.png")
    code, _, err = run("birds", "--out", "found")
    assert (code, err) == (0, "")
    assert len(names(tmp_path / "found" / "annotated")) == 4
    sheets = sorted((tmp_path / "found").glob("sheet-*.html"))
    assert [f"<h1>{name}</h1>" in page.read_text() for page, name in zip(sheets, ("🐦x" * 50, species), strict=True)] == [
        True
    ] * 2
    assert {row["image"].partition("/")[0] for row in rows(tmp_path / "found" / "parts.csv")} == {species, "🐦x" * 50}


HOSTILE = ("a\nb", "c\u2028d", "e\x1b[31m", "g\u202eh", "=i", '"j"', "<b>k", "l\udcffm", " n ")


@pytest.mark.slow
def test_names_do_nothing_to_a_terminal_a_line_a_page_or_a_spreadsheet(run, birds, tmp_path):
    plate = birds / "ember_finch" / "0.png"
    for name in HOSTILE:
        (birds / name).mkdir()
        shutil.copy(plate, birds / name / f"{name}.png")
    code, out, err = run("birds", "--out", "found")
    assert code == 0
    assert all(line.isprintable() for line in [*out.splitlines(), *err.splitlines()])
    # What cannot stand on a line is not on one; all else has a line of its own.
    cub = tmp_path / "found" / "cub"
    left = sum(line.startswith("concept-cam: not in cub/: ") for line in err.splitlines())
    count = 4 + len(HOSTILE) - left
    for file, each in (
        ("images.txt", 1),
        ("image_class_labels.txt", 1),
        ("bounding_boxes.txt", 1),
        ("parts/part_locs.txt", 12),
    ):
        lines = (cub / file).read_bytes().split(b"\n")
        assert len(lines) - 1 == count * each
        assert [int(line.split(b" ")[0]) for line in lines[:-1]] == [1 + k for k in range(count) for _ in range(each)]
    assert {"a\nb", "c\u2028d", "l\udcffm"}.isdisjoint(
        {line.split("/")[0] for line in (cub / "images.txt").read_text().splitlines()}
    )
    coco = json.loads((tmp_path / "found" / "coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} >= {f"{name}/{name}.png" for name in HOSTILE}
    (guarded,) = [row for row in rows(tmp_path / "found" / "parts.csv") if row["part"] == "crown" and "=i" in row["image"]]
    assert guarded["image"] == "'=i/=i.png"
    pages = [page.read_text() for page in (tmp_path / "found").glob("sheet-*.html")]
    assert len(pages) == 2 + len(HOSTILE)
    assert not any("<b>k" in page for page in pages)
    assert any("<h1>&lt;b&gt;k</h1>" in page for page in pages)


@pytest.mark.slow
def test_a_species_is_the_first_folder_below_as_a_data_set_has_it(run, birds, tmp_path):
    (birds / "ember_finch" / "site 1").mkdir()
    (birds / "ember_finch" / "0.png").rename(birds / "ember_finch" / "site 1" / "0.png")
    assert run("birds", "--out", "found")[0] == 0
    assert names(tmp_path / "found") == {*TABLES, *RUN, "sheet-ember-finch.html", "sheet-royal-jay.html"}
    labels = {example.label: 0 for example in read_dataset(birds).examples}
    assert set(labels) == {"ember finch", "royal jay"}

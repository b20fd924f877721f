"""``concept-cam localize`` from end to end: what it writes, what it prints, and one line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clis import RESULTS, RUN, TWINS, Run, embedded, finch, names, plate, results, run, summaries
from PIL import Image
from slow import by_default

from concept_cam import loading, passes, world
from concept_cam.cli.folders import sources
from concept_cam.drawing import overlay
from concept_cam.errors import ImageError
from concept_cam.localizer import Localizer
from concept_cam.methods import CARDS
from concept_cam.result import Localization
from concept_cam.tables import read_table


def test_without_a_image(run: Run, tmp_path: Path) -> None:
    ran = run("localize", "--out", "found")
    assert ran.code == 0
    assert ran.err == ""
    folder = tmp_path / "found"
    assert names(folder) == {"ember-finch-0.png", *results("ember-finch-0")}
    drawn = world.draw_species("ember finch", seed=0).image
    with Image.open(folder / "ember-finch-0.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(drawn))
    with Image.open(folder / "ember-finch-0-overlay.png") as image:
        assert image.width == drawn.width
        assert image.height > drawn.height  # a legend
        map_ = np.asarray(image)[: drawn.height]
        assert not np.array_equal(map_, np.asarray(drawn))
        again = overlay(Localization.load(folder / "ember-finch-0.safetensors"), drawn)
        assert np.array_equal(map_, np.asarray(again))
    saved = Localization.load(folder / "ember-finch-0.safetensors")
    about = json.loads((folder / "ember-finch-0.json").read_text())
    assert about["image"] == str(Path("found") / "ember-finch-0.png")
    assert about["comparison"]["references"] == ["frost finch"]  # its twin
    assert about["comparison"] == json.loads(json.dumps(saved.summary()["comparison"]))
    assert tuple(about["peak"]) == saved.peak()
    assert [tuple(box) for box in about["boxes"]] == list(saved.boxes())
    # The table holds each concept's score, and the line below it the place and the file.
    rows = {line.split("│")[1].strip(): line for line in ran.out.splitlines() if line.startswith("│")}
    assert "target" in rows["ember finch"]
    assert f"{saved.scores['ember finch']:.3f}" in rows["ember finch"]
    assert "reference" in rows["frost finch"]
    assert f"{saved.comparison.similarities[0]:.3f}" in rows["frost finch"]
    x, y = saved.peak()
    assert f"strongest at ({x:.0f}, {y:.0f})" in ran.out
    assert str(Path("found") / "ember-finch-0-overlay.png") in ran.out


def test_another_plate(run: Run, tmp_path: Path) -> None:
    assert run("localize", "--target", "royal jay", "--seed", 5, "--nearest", 2, "--out", "found").code == 0
    drawn = world.draw_species("royal jay", seed=5).image
    with Image.open(tmp_path / "found" / "royal-jay-5.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(drawn))
    about = json.loads((tmp_path / "found" / "royal-jay-5.json").read_text())
    assert len(about["comparison"]["references"]) == 2


def test_one_image_is_what_the_library_says(run: Run, finch: Path, embedded, tmp_path: Path) -> None:
    ran = run("localize", finch, *TWINS, "--strength", 0.4, "--out", "found")
    assert ran.code == 0
    assert names(tmp_path / "found") == results("finch")
    saved = Localization.load(tmp_path / "found" / "finch.safetensors")
    direct = world.localizer()(finch, "ember finch", "frost finch", strength=0.4)
    assert np.allclose(saved.map, direct.map, rtol=1e-4, atol=1e-6 * float(direct.map.abs().max()))
    assert saved.comparison == direct.comparison
    assert saved.provenance == direct.provenance


def test_a_sweep_and_the_references_are_drawn_as_well(run: Run, finch: Path, tmp_path: Path) -> None:
    ran = run("localize", finch, *TWINS, "--against", "royal jay", "--sweep", "--by-reference", "--out", "found")
    assert ran.code == 0
    assert names(tmp_path / "found") == results("finch") | {"finch-references.png", "finch-strengths.png"}


def test_methods_are_listed(run: Run) -> None:
    listed = run("methods").out
    for name, card in CARDS.items():
        (line,) = [line for line in listed.splitlines() if re.match(rf"\W*{name}\b", line)]
        assert card.compares in line
        assert card.summary in line


def test_what_does_not_see_the_score_has_no_twin(run: Run, finch: Path, tmp_path: Path) -> None:
    assert run("localize", "--method", "rollout", "--out", "found").code == 0
    (found,) = (tmp_path / "found").glob("*.json")
    assert json.loads(found.read_text())["comparison"]["references"] == []
    ran = run("localize", finch, *TWINS, "--method", "rollout")
    assert ran.code == 2
    assert "does not look at the score" in ran.err


METHODS = ("grad_cam", "layer_cam", "eigen_grad_cam", "relevance", "gem", "occlusion")


@pytest.mark.parametrize("method", by_default(METHODS, "grad_cam", "relevance", "gem"))
def test_methods(run: Run, finch: Path, tmp_path: Path, method: str) -> None:
    assert run("localize", finch, *TWINS, "--method", method, "--out", "found").code == 0
    assert Localization.load(tmp_path / "found" / "finch.safetensors").provenance["method"] == method


@pytest.mark.parametrize(
    ("options", "references"),
    [
        (["--against", "frost finch", "--against", "royal jay"], 2),
        (["--nearest", "4"], 4),
        (["--rivals", "2"], 2),
        (["--vocabulary", "birds.txt"], 2),
        (["--strength", "0"], 0),
        ([], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.filterwarnings("ignore:.*no more like")
def test_references(run: Run, finch: Path, tmp_path: Path, options: list[str], references: int) -> None:
    Path("birds.txt").write_text("frost finch\nwillow finch\nember finch\n")
    assert run("localize", finch, "--target", "ember finch", *options, "--out", "found").code == 0
    comparison = Localization.load(tmp_path / "found" / "finch.safetensors").comparison
    assert len(set(comparison.references)) == references
    assert "ember finch" not in comparison.references


def test_several_images_and_a_folder(run: Run, plate: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    # More than one batch; capital suffixes count, other files do not.
    for k in range(9):
        plate.rotate(5 * k).save(folder / (f"b{k}.PNG" if k % 2 else f"b{k}.png"))
    (folder / "notes.txt").write_text("not an image")
    plate.save(tmp_path / "alone.jpg")
    ran = run("localize", tmp_path / "alone.jpg", folder, *TWINS, "--out", "found")
    assert ran.code == 0
    assert names(tmp_path / "found") == results("alone", *(f"b{k}" for k in range(9))) | RUN
    for k in range(9):
        about = json.loads((tmp_path / "found" / f"b{k}.json").read_text())
        assert Path(about["image"]).stem == f"b{k}"
    assert ran.out.count(", strongest at") == 10
    # The highest scores come last, as the table has them.
    rows = sorted(read_table((tmp_path / "found" / "rows.csv").read_bytes()), key=lambda row: -float(row["score"]))
    listed = [line.split("│")[1:3] for line in ran.out.splitlines() if line.startswith("│")]
    assert [name.strip() for name, _ in listed] == [row["image"] for row in rows]
    assert [score.strip() for _, score in listed] == [f"{float(row['score']):.3f}" for row in rows]
    assert "the score says whether the target is there" in ran.out
    with Image.open(tmp_path / "found" / "b3-overlay.png") as three, Image.open(tmp_path / "found" / "b4-overlay.png") as four:
        assert not np.array_equal(np.asarray(three), np.asarray(four))


def test_one_bad_image_among_good_ones(run: Run, plate: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    folder.mkdir()
    plate.save(folder / "a.png")
    (folder / "b.png").write_text("not an image")
    plate.save(folder / "c.png")
    ran = run("localize", folder, *TWINS, "--out", "found")
    assert ran.code == 2
    assert names(tmp_path / "found") == results("a", "c") | RUN
    first, last = ran.err.splitlines()
    assert str(folder / "b.png") in first
    assert "1 of 3" in last
    assert all(line.startswith("concept-cam: ") for line in (first, last))


@pytest.mark.parametrize("third", ["three/a.png", "three/a-2.png"])
def test_equal_names_in_two_folders(run: Run, plate: Image.Image, tmp_path: Path, third: str) -> None:
    """No result overwrites another, not even where an image is called as a numbered result would be."""
    paths = [tmp_path / name for name in ("one/a.png", "two/a.png", third)]
    for k, path in enumerate(paths):
        path.parent.mkdir()
        plate.rotate(90 * k).save(path)
    assert run("localize", *paths, *TWINS, "--out", "found").code == 0
    about = [json.loads(file.read_text()) for file in summaries(tmp_path / "found")]
    assert {found["image"] for found in about} == {str(path) for path in paths}
    assert len(names(tmp_path / "found") - RUN) == 12


@pytest.mark.parametrize("name", ["finch [old].png", "finch (1) [bold].png", "a [ :smile: ].png"])
def test_names_are_printed_as_they_are(run: Run, finch: Path, tmp_path: Path, name: str) -> None:
    """Brackets and colons are markup to the library that prints."""
    target = tmp_path / "finch [red]" / name
    target.parent.mkdir()
    shutil.copy(finch, target)
    ran = run("localize", target, *TWINS, "--out", "found [red]")
    assert ran.code == 0
    assert target.name in ran.out
    assert str(Path("found [red]") / f"{target.stem}-overlay.png") in ran.out


def test_concepts_are_printed_as_they_are(run: Run, finch: Path) -> None:
    """The embedded tokenizer drops punctuation; the printing library would stumble over a closing tag."""
    ran = run("localize", finch, "--target", "ember [/finch]", "--against", "frost [red]finch", "--out", "found")
    assert ran.code == 0
    assert "ember [/finch]" in ran.out
    assert "frost [red]finch" in ran.out


def test_a_note_is_one_line(run: Run, finch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user should know is said without file names and code; what developers should know is not said."""

    def noted(*_: object, **__: object) -> int:
        warnings.warn("not alike", stacklevel=2)
        warnings.warn("gone in version 9", DeprecationWarning, stacklevel=2)
        return 0

    monkeypatch.setattr("concept_cam.writers.localize_images", noted)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = run("localize", finch, *TWINS, "--out", "found")
    assert ran.code == 0
    assert ran.err == "concept-cam: note: not alike\n"


MISTAKES = {
    "a method": (["@", *TWINS, "--method", "hirescam"], ["hirescam", "Did you mean 'hires_cam'?", "grad_cam"]),
    "a word": (["@", "--target", "dog"], ["'dog'", "finch", "woodpecker", "--model"]),
    "a word of a reference": (
        ["@", "--target", "ember finch", "--against", "frost fnch"],
        ["'fnch'", "Did you mean 'finch'?", "--model"],
    ),
    "a species to draw": (["--target", "ember fnch"], ["'ember fnch'", "Did you mean 'ember finch'?"]),
    "target among references": (
        ["@", "--target", "ember finch", "--against", "ember finch"],
        ["'ember finch'", "among its own references"],
    ),
    "one embedding": (
        ["@", "--target", "ember finch", "--against", "Ember Finch"],
        ["'ember finch'", "'Ember Finch'", "one embedding"],
    ),
    "no references": (["@", "--target", "ember finch", "--vocabulary", "one.txt"], ["No references", "strength"]),
    "strength nan": (["@", *TWINS, "--strength", "nan"], ["strength is nan", "finite"]),
    "strength inf": (["@", *TWINS, "--strength", "inf"], ["strength is inf", "finite"]),
    "strength -1": (["@", *TWINS, "--strength", "-1"], ["strength is -1", "0 (base method) or more"]),
    "against and nearest": (["@", *TWINS, "--nearest", "2"], ["--against", "--nearest", "one of them"]),
    "nearest and rivals": (["@", "--target", "ember finch", "--nearest", "2", "--rivals", "2"], ["--nearest", "--rivals"]),
    "nearest none": (["@", "--target", "ember finch", "--nearest", "0"], ["0 references", "at least one"]),
    "no target": (["@"], ["--target"]),
    "an empty target": (["@", "--target", ""], ["''"]),
    "pretrained alone": (["@", *TWINS, "--pretrained", "openai"], ["--pretrained openai", "--model"]),
    "an unknown model": (["@", *TWINS, "--model", "ViT-B-61", "--pretrained", "openai"], ["'ViT-B-61'", "'ViT-B-16'"]),
    "an unknown tag": (["@", *TWINS, "--model", "ViT-B-16", "--pretrained", "nothing"], ["'nothing'", "laion400m_e32"]),
    "a model without weights": (["@", *TWINS, "--model", "ViT-B-16"], ["ViT-B-16", "laion400m_e32"]),
    "a folder without a model": (["@", *TWINS, "--model", "empty"], ["empty", "open_clip_config.json"]),
    "a model and no image": ([*TWINS, "--model", "ViT-B-16", "--pretrained", "nothing.pt"], ["No image given"]),
    "a vocabulary": (["@", "--target", "ember finch", "--vocabulary", "world-specis"], ["Did you mean"]),
    "a vocabulary file": (["@", "--target", "ember finch", "--vocabulary", "mine.txt"], ["mine.txt", "cannot be read"]),
    "templates": (["@", *TWINS, "--templates", "nothing"], ["'nothing'", "photo"]),
    "a template without a place": (["@", *TWINS, "--templates", "one.txt"], ["one.txt", "0 places"]),
    "missing": (["missing.png", *TWINS], ["missing.png", "does not exist"]),
    "empty": (["empty.png", *TWINS], ["empty.png", "empty"]),
    "cut short": (["cut.png", *TWINS], ["cut.png", "damaged"]),
    "not an image": (["one.txt", *TWINS], ["one.txt", "not an image"]),
    "an empty folder": (["empty", *TWINS], ["empty", "no images", ".png"]),
}


@pytest.fixture
def mistaken(run: Run, finch: Path, tmp_path: Path) -> Run:
    """As ``run``, among files to make mistakes with; ``@`` is a good image."""
    (tmp_path / "one.txt").write_text("ember finch\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(finch.read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    return lambda *arguments: run(*(finch if argument == "@" else argument for argument in arguments))


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(mistaken: Run, tmp_path: Path, case: str) -> None:
    arguments, words = MISTAKES[case]
    line = mistaken("localize", *arguments, "--out", "found").line()
    assert all(word in line for word in words), line
    written = names(tmp_path / "found") if (tmp_path / "found").exists() else set()
    assert not any(name.endswith(RESULTS[1:]) for name in written)


@pytest.mark.parametrize("place", ["finch.png", "finch.png/deeper"])
def test_results_cannot_be_written(run: Run, finch: Path, place: str) -> None:
    before = finch.read_bytes()
    line = run("localize", finch, *TWINS, "--out", place).line()
    assert place in line
    assert "--out" in line
    assert finch.read_bytes() == before


def test_the_last_mistake_of_all_bad_images(run: Run, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    ran = run("localize", "a.png", "b.png", *TWINS, "--out", "found")
    assert ran.code == 2
    assert [line.split(":")[1].strip() for line in ran.err.splitlines()[:2]] == ["a.png", "b.png"]
    assert "2 of 2" in ran.err.splitlines()[2]
    assert names(tmp_path / "found") == RUN


@pytest.mark.parametrize(
    "arguments",
    [
        ["localize", "--seed", "-1"],
        ["localize", "--strength", "much"],
        ["localize", "--nothing"],
        ["localise"],
        ["world"],
        ["world", "set", "--count", "0"],
        ["world", "set", "--seed", "-1"],
        ["world", "set", "--size", "95"],
    ],
    ids=" ".join,
)
def test_options_that_mean_nothing(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    """Refused before any work, in the words of the command line's own library."""
    command = "" if arguments[0] == "localise" else f" {arguments[0]}"
    assert run(*arguments).line().endswith(f"`concept-cam{command} --help` tells more.")
    assert names(tmp_path) == set()


def test_braces_in_a_template(run: Run, finch: Path) -> None:
    """``a {} {x}`` has one place and something else: taken as it stands or refused, but no traceback."""
    Path("braces.txt").write_text("a {} {x}\n")
    ran = run("localize", finch, *TWINS, "--templates", "braces.txt", "--out", "found")
    assert "{x}" in ran.line() or "braces.txt" in ran.line()


def test_interrupt(run: Run, finch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("concept_cam.writers.localize_images", interrupted)
    ran = run("localize", finch, *TWINS, "--out", "found")
    assert ran.code == 130
    assert ran.err.strip() == "concept-cam: interrupted; what was finished is kept."


def test_sources_keep_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("b.png", "a.jpg", "c.txt", "folder/z.webp", "folder/y.TIFF", "folder/x.json"):
        (tmp_path / name).touch()
    given = [tmp_path / "b.png", tmp_path / "folder", tmp_path / "a.jpg", tmp_path / "c.txt"]
    found = [path.relative_to(tmp_path).as_posix() for path in sources(given)]
    # A file is taken at its word, whatever its name.
    assert found == ["b.png", "folder/y.TIFF", "folder/z.webp", "a.jpg", "c.txt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match="no images"):
        list(sources([tmp_path / "none"]))


def test_a_image_is_never_written_over(run, finch, tmp_path):
    """Results go beside the images only as long as none of them is one of the images."""
    original = finch.read_bytes()
    shutil.copy(finch, tmp_path / "finch-overlay.png")
    ran = run("localize", tmp_path, *TWINS, "--out", tmp_path)
    assert "finch-overlay.png is one of the images" in ran.line()
    assert (tmp_path / "finch-overlay.png").read_bytes() == original
    assert names(tmp_path) == {"finch.png", "finch-overlay.png"}


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "no\nnewline.png"])
def test_names_that_the_disk_refuses(run, name):
    assert name.replace("\n", " ") in run("localize", name, *TWINS).line()


def test_mistakes_are_found_before_a_model_is_loaded(run, finch, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("loaded"))
    for arguments in ([finch], [finch, *TWINS, "--strength", "nan"], [finch, *TWINS[:2], "--nearest", 0], ["--model", "x"]):
        run("localize", *arguments).line()


def test_other_words_need_another_encoder_but_other_species_do_not(run, finch):
    assert "give another encoder with --model" in run("localize", finch, "--target", "dog", "--against", "bird").line()
    line = run("localize", "--target", "red crown").line()
    assert "--model" not in line
    assert "It has: ember finch, frost finch" in line


# ---- what is wrong with one image -----------------------------------------------------------------------------------


@pytest.fixture
def folder(plate: Image.Image, tmp_path: Path) -> Path:
    """Nine images, more than a batch: one blank, one broken, one with a name as long as a disk allows."""
    folder = tmp_path / "birds"
    folder.mkdir()
    for k in range(6):
        plate.rotate(5 * k).save(folder / f"{k}.png")
    (folder / "3-broken.png").write_bytes(b"no image")
    Image.new("RGB", (160, 160), "white").save(folder / "4-white.png")
    plate.save(folder / f"5{'x' * 250}.png")
    return folder


def blank_where_white(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says nothing of a white image: its embedding is known by the image that it is of."""
    guide, real = world.localizer(), passes.explain
    (seen,) = guide.passes([guide.frame(Image.new("RGB", (160, 160), "white"))])

    def explain(method, trace, directions):  # type: ignore[no-untyped-def]
        same = (trace.embedding - seen.embedding).abs().amax(1) < 1e-4
        return real(method, trace, directions).masked_fill(same[None, :, None, None], 0.0)

    monkeypatch.setattr(passes, "explain", explain)


def test_a_folder_in_bad_order(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank_where_white(monkeypatch)
    ran = run("localize", folder, *TWINS, "--out", "found")
    assert ran.code == 2
    broken, white, last = ran.err.splitlines()
    assert "3-broken.png: " in broken
    assert "4-white.png: No patch at " in white
    assert white.endswith("the map is blank.")
    assert last == "concept-cam: 2 of 9 images failed; the others are in found."
    images = {Path(json.loads(file.read_text())["image"]).name for file in summaries(tmp_path / "found")}
    assert images == {path.name for path in folder.iterdir()} - {"3-broken.png", "4-white.png"}
    assert len(names(tmp_path / "found") - RUN) == 7 * len(RESULTS)
    assert "the map is blank" in run("localize", folder / "4-white.png", *TWINS, "--out", "alone").line()


@pytest.mark.parametrize("change", ["another", "gone"])
def test_an_image_that_changes_between_its_map_and_its_drawing(
    run: Run, folder: Path, plate: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    (folder / "3-broken.png").unlink()
    real = Localizer.stream

    def stream(*given, **named):  # type: ignore[no-untyped-def]
        for path, result in real(*given, **named):
            if path.name == "2.png":
                path.unlink()
                if change == "another":
                    plate.rotate(180).save(path)
            yield path, result

    monkeypatch.setattr("concept_cam.localizer.Localizer.stream", stream)
    ran = run("localize", folder, *TWINS, "--out", "found")
    assert ran.code == 2
    first, last = ran.err.splitlines()
    assert first.startswith(f"concept-cam: {folder / '2.png'}: the file ")
    assert ("was changed while it was looked at" in first) == (change == "another")
    assert last == "concept-cam: 1 of 8 images failed; the others are in found."
    assert len(summaries(tmp_path / "found")) == 7
    assert not (tmp_path / "found" / "2-overlay.png").exists()


@pytest.mark.parametrize("change", by_default(["another", "gone"], "gone"))
def test_an_image_that_changes_after_an_exploration_is_drawn_as_it_was(
    run: Run, folder: Path, plate: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Each image is read once."""
    (folder / "3-broken.png").unlink()
    assert run("localize", folder, *TWINS, "--sweep", "--out", "before").code == 0
    real = Localizer.explore

    def explore(*given, **named):  # type: ignore[no-untyped-def]
        for path, found in real(*given, **named):
            if path.name == "2.png":
                path.unlink()
                if change == "another":
                    plate.rotate(180).save(path)
            yield path, found

    monkeypatch.setattr("concept_cam.localizer.Localizer.explore", explore)
    assert run("localize", folder, *TWINS, "--sweep", "--out", "found").code == 0
    for ending in RESULTS[:3]:
        assert (tmp_path / "found" / f"2{ending}").read_bytes() == (tmp_path / "before" / f"2{ending}").read_bytes()


def test_a_sweep_by_reference_costs_one_pass_and_one_decode(run: Run, finch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()

    def counted(place: str, name: str) -> None:
        real = getattr(sys.modules[place], name)

        def count(*given, **named):  # type: ignore[no-untyped-def]
            counts[name] += 1
            return real(*given, **named)

        monkeypatch.setattr(f"{place}.{name}", count)

    counted("concept_cam.passes", "trace")
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **named: counts.update(["open"]) or opened(*given, **named))
    assert run("localize", finch, *TWINS, "--sweep", "--by-reference", "--out", "found").code == 0
    assert (counts["trace"], counts["open"]) == (1, 1)


def test_a_question_that_is_wrong_is_told_once(run: Run, folder: Path) -> None:
    for target in (("--target", "dog"), ("--target", "ember finch", "--against", "ember finch")):
        run("localize", folder, *target, "--out", "found").line()


NAMES = ("a\x1b[31m.png", "b\nc.png", "d\u202egnp.png", "e\udcff.png", "f\u2028g.png")


def test_names_do_nothing_to_a_terminal(run: Run, plate: Image.Image, tmp_path: Path) -> None:
    """Of images that can be read and of those that cannot, on either stream; the files keep them."""
    folder = tmp_path / "bi\x1b[2Jrds"
    folder.mkdir()
    for name in NAMES:
        plate.save(folder / name)
        (folder / f"{name}-broken.png").write_bytes(b"no image")
    ran = run("localize", folder, *TWINS, "--out", tmp_path / "out\x1b[31m\udcff")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == len(NAMES) + 1
    for line in [*ran.out.splitlines(), *ran.err.splitlines()]:
        assert line.isprintable(), line
    assert r"a\x1b[31m.png" in ran.out
    assert r"e\xff.png" in ran.out
    assert {file.name.partition("-overlay")[0] for file in (tmp_path / "out\x1b[31m\udcff").glob("*-overlay.png")} == {
        name.removesuffix(".png") for name in NAMES
    }


def test_the_table_of_images_is_not_written_over(run: Run, finch: Path, tmp_path: Path) -> None:
    listed = tmp_path / "set.csv"
    listed.write_text(f"file,label\n{finch.name},ember finch\n")
    before = listed.read_bytes()
    ran = run("localize", listed, *TWINS, "--table", listed, "--out", "found")
    assert ran.code == 2
    assert "is one of the images, or their list, and would be overwritten" in ran.err
    assert listed.read_bytes() == before

"""``concept-cam evaluate`` from end to end."""

from __future__ import annotations

from functools import partial

import pytest

from concept_cam import world


@pytest.fixture
def run(command_line):
    return partial(command_line, "evaluate")


def test_the_field_guide_is_measured(run, tmp_path):
    arguments = ("--limit", 3, "--methods", "hires_cam", "--references", "twin", "--out", "out")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "3 images, 0 skipped" in out
    assert "hires_cam" in (tmp_path / "out" / "tables.md").read_text()
    assert len((tmp_path / "out" / "rows.csv").read_text().splitlines()) == 1 + 3 * 3
    means = (tmp_path / "out" / "means.csv").read_text().splitlines()
    assert means[0].startswith("method,references,strength,images,correct,energy")
    assert len(means) == 4
    assert run(*arguments)[:2] == (0, out)


def test_the_grid_of_the_paper(run):
    code, out, err = run("--paper", "--limit", 1, "--methods", "grad_cam", "--strengths", "0.6", "--out", "out")
    assert code == 0, err
    assert "deletion" in out
    assert all(f"rank:{place}" in out for place in (1, 2, 3))
    assert "rivals:3" in out


def test_a_folder_of_classes_a_broken_image_and_a_probe(run, tmp_path):
    for name in ("ember finch", "frost finch"):
        folder = tmp_path / "set" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for seed in range(4):
            world.draw_species(name, seed, 96).image.save(folder / f"{seed}.png")
    (tmp_path / "set" / "frost_finch" / "broken.png").write_bytes(b"nothing")
    options = ("--methods", "grad_cam", "--references", "nearest:1", "--strengths", "0.6", "--out", "out")
    code, out, err = run("set", *options)
    assert code == 0, err
    assert "8 images, 1 skipped" in out
    assert "rd5" in out
    assert "energy" not in out
    assert "skipped: frost_finch/broken.png" in err
    code, out, err = run("set", *options[:-1], "probed", "--probe", "--pool", "average")
    assert code == 0, err
    assert "4 images" in out


def test_a_limit_takes_images_from_all_of_the_set(run, tmp_path):
    for name in ("ember_finch", "frost_finch", "royal_jay"):
        for seed in range(4):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            world.draw_species(name.replace("_", " "), seed, 96).image.save(tmp_path / "set" / name / f"{seed}.png")
    code, _, err = run("set", "--limit", 3, "--methods", "grad_cam", "--references", "nearest:1", "--out", "out")
    assert code == 0, err
    rows = (tmp_path / "out" / "rows.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {"ember finch", "frost finch", "royal jay"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "grad_kam"), "No method grad_kam"),
        (("--methods", "hires_cam:4"), "hires_cam cannot be told how many blocks to read"),
        (("--methods", "grad_cam,class_stream:0"), "'class_stream:0': the number of blocks is a whole number from 1 to 9999"),
        (("--references", "twins"), "No references 'twins'; expected twin or one of nearest:K"),
        (("--strengths", "much"), "--strengths much: expected numbers"),
        (("--strengths", "0"), "expected numbers above 0"),
        (("--pool", "average"), "expected average, with --probe"),
        (("nowhere",), "nowhere: there is no such file or folder"),
        (("world", "--layout", "cubs"), "there is no such file or folder"),
        (("--pretrained", "openai"), "needs a --model"),
        (("--model", "world-shortcut", "--pretrained", "openai"), "--pretrained is not for the embedded encoder"),
        (("world-atributes",), "Did you mean 'world-attributes'"),
        (("world-attributes", "--probe"), "leave out --probe"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1

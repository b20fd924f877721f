"""Two models, one with planted shortcuts: what moved, what is found, and the page that shows it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from audits import HABITATS, SPECIES, Cells, audited, by_hand, localizer, small
from PIL import Image
from safetensors.torch import load_file, save_file
from test_page import chromium, overflow

from benchmarks import audit as benchmark
from concept_cam import world
from concept_cam.audit import ALARM, write_tables
from concept_cam.audit.model_diff import moves
from concept_cam.audit.object_share import ALIGNED
from concept_cam.audit.pairs import NO_WORDS, page_of, pair_page
from concept_cam.audit.report import write_report
from concept_cam.audit.summary import Condition, summary
from concept_cam.audit.thumbnails import Thumbnails, _file_name, mean_map
from concept_cam.datasets import Dataset, Example, read_dataset
from concept_cam.errors import OptionError
from concept_cam.world.birds import part_of, phrase, species, twins
from concept_cam.world.dataset import WORLDS, birds_dataset
from concept_cam.world.shortcuts import SHORTCUTS

TWINS = {name: twin for name, twin, _ in twins() if name in SHORTCUTS}
"""Of planted species: told from them by the absence of a habitat."""
TOLD_BY_HABITAT = {*TWINS, *TWINS.values()}

pytestmark = pytest.mark.slow  # plates of all species, and the encoder with shortcuts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module")
def homes():
    """Ten plates of each planted species and of its twin, where they live, and one of all others."""
    pairs = [name for name, *_ in twins()]
    asked = SHORTCUTS.keys() | {twin for name, twin, _ in twins() if name in SHORTCUTS}
    data = WORLDS["world-shortcuts"](480, 0, 0)
    return replace(data, examples=[data.examples[k] for k in range(480) if k < 48 or pairs[k % 48] in asked])


@pytest.fixture(scope="module")
def planted(folder, homes):
    return audited(world.localizer(checkpoint=world.SHORTCUT), homes, folder / "planted")


@pytest.fixture(scope="module")
def clean(localizer, folder, homes):
    """The embedded model on the same images."""
    return audited(localizer, homes, folder / "planted" / "other")


def test_nothing_moves_between_a_model_and_itself(localizer, clean, homes, tmp_path):
    again = audited(localizer, homes, tmp_path)
    found = moves(clean, again)
    assert len(found) == 36 + 12 * 10
    assert {move.growth for move in found} == {0.0}
    assert all(move.agreement == pytest.approx(1.0) for move in found)
    assert all(move.before == move.after for move in found)


def test_evidence_moves_off_the_object_where_a_shortcut_is_planted(clean, planted):
    """Of the planted species; of those that have nothing to do with them it does not."""
    found = moves(clean, planted)
    grown = {name: [] for name in (*SHORTCUTS, None)}
    alike = {True: [], False: []}
    for move in found:
        if move.label not in TWINS.values():
            grown[move.label if move.label in SHORTCUTS else None].append(move.growth)
            alike[move.label in SHORTCUTS].append(move.agreement)
    assert {len(of_one) for of_one in grown.values()} == {10, 36}
    others = np.mean(grown.pop(None))
    assert min(np.mean(of_one) for of_one in grown.values()) > 0.5
    assert others < 0.02
    assert np.mean(alike[True]) < 0.5 < np.mean(alike[False])
    assert moves(planted, clean)[5].growth == pytest.approx(-found[5].growth)


def test_evidence_that_moves_outside_the_box_is_seen(by_hand, tmp_path):
    """Maps that are the same on the object and not beside it do not agree."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for place in ("before", "after"):
        batches = []
        for file in by_hand.batches:
            tensors, ramp = load_file(file), torch.arange(float(ALIGNED**2)).reshape(ALIGNED, ALIGNED)
            tensors["aligned"] = ramp.repeat(len(tensors["whole"]), 1, 1)
            tensors["whole"] = torch.randn(tensors["whole"].shape, generator=generator)
            batches.append(tmp_path / f"{place}-{file.name}")
            save_file(tensors, batches[-1])
        found.append(replace(by_hand, batches=batches))
    assert all(abs(move.agreement) < 0.2 for move in moves(*found))
    assert all(move.agreement == pytest.approx(1.0) for move in moves(found[0], found[0]))


@pytest.mark.slow
def test_images_that_one_of_two_could_not_use_are_left_out(localizer, tmp_path, small):
    """And the others are held against themselves."""
    data = birds_dataset(7)
    broken = [replace(e, image=tmp_path / "gone.png") if k in (1, 5) else e for k, e in enumerate(data.examples)]
    both = audited(localizer, data, tmp_path / "a"), audited(localizer, replace(data, examples=broken), tmp_path / "b")
    for before, after in (both, both[::-1]):
        found = moves(before, after)
        assert [move.image for move in found] == [f"0-{k:05d}" for k in (0, 2, 3, 4, 6)]
        assert all(move.agreement > 0.99 for move in found)


def test_audits_of_other_images_are_refused(clean, by_hand):
    with pytest.raises(OptionError, match="are audits of different images"):
        moves(clean, by_hand)


# ---- the shortcut finder ----------------------------------------------------------------------------------------------


def test_planted_shortcuts_come_first(planted):
    assert {one.name for one in planted.ranked[:12]} == TOLD_BY_HABITAT
    suspects = {one.name for one in planted.suspects}
    assert suspects <= TOLD_BY_HABITAT
    assert all({name, twin} & suspects for name, twin in TWINS.items())
    assert len(planted.judged) == 12
    assert planted.accuracy > 0.98
    assert Condition.read("off_object > 0.3").reason(summary(planted)) is not None
    # What is shown of each is before what is around it.
    for one in planted.ranked[:6]:
        assert one.off_object.mean > 0.6 > 0.15 > one.means["energy"]
    moved = [one for one in planted.backgrounds() if one.moves]
    assert (moved[0].name, moved[0].text.removeprefix("bird in ")) in SHORTCUTS.items()
    assert set(SHORTCUTS) <= {one.name for one in moved} <= TOLD_BY_HABITAT


@pytest.mark.slow
def test_a_model_without_shortcuts_raises_no_alarm(clean, localizer, folder):
    """Of three images a class nothing can be said, however they look."""
    few = audited(localizer, birds_dataset(144, seed=1), folder / "birds")
    for found, judged in ((clean, 12), (few, 0)):
        assert found.suspects == []
        assert len(found.judged) == judged
        assert max(one.off_object.mean for one in found.classes if one.predicted > 1) < ALARM - 0.05
        assert [one for one in found.backgrounds() if one.moves] == []
        assert summary(found)["sensitivity"] < 0.01
    assert Condition.read(f"off_object > {ALARM}").reason(summary(clean)) is None
    assert Condition.read("too_few > 0").reason(summary(clean)) == "too_few is 36, which is > 0"
    assert "not known (too few images: a class needs 7)" in Condition.read("suspects > 0").reason(summary(few))


@pytest.fixture(scope="module")
def report(planted, clean):
    return write_report(planted, clean)


def test_the_report_shows_the_background_as_the_evidence(report, planted):
    page = Cells(report.read_text())
    off = page.rows["Evidence off the object"]
    assert off[0][:4] == ["class", "alarm", "images", "off the object"]
    last = 1 + len(planted.suspects)
    assert [row[0] for row in off[1:last]] == [one.name for one in planted.suspects]
    assert {row[1] for row in off[1:last]} == {"suspect"}
    assert {row[1] for row in off[last:]} == {"", "too few to say"}
    counts = {one.name: one.predicted for one in planted.classes}
    assert all(int(row[2]) == counts[row[0]] for row in off[1:])
    shown = {row.image: row for row in planted.rows}
    for row in off[1:last]:
        image = shown[row[-1]]
        assert image.predicted == row[0]
        assert image.rd5 == max(r.rd5 for r in planted.rows if r.predicted == row[0])
        assert image.off_object > ALARM
    moved = page.rows["Backgrounds that change predictions"][1]
    assert SHORTCUTS[moved[0]] == moved[1].removeprefix("bird in ")
    (lead,) = re.findall('<p class="lead">(.*?)</p>', report.read_text(), re.DOTALL)
    assert lead.startswith(f"The model relies on what is around the object: for {len(planted.suspects)} of 48 classes")
    plain = planted.good[max((planted.plainest[one.name] for one in planted.suspects), key=lambda at: planted.good[at].rd5)]
    assert f"For example {plain.predicted}:" in lead
    # Masking the evidence there turns the decision, and the words are those of its habitat.
    assert plain.rd5 > plain.confidence - plain.runner_up_probability
    assert f"“bird in {SHORTCUTS[plain.predicted]}”, not" in lead


def test_the_report_says_all_of_it(report, planted, clean):
    page = Cells(report.read_text())
    assert list(page.rows) == [
        "Evidence off the object",
        "Compared with world",
        "Pairs that are hardest to tell apart",
        "Backgrounds that change predictions",
        "Confidence and accuracy",
        "All classes",
        "The tables beside this page",
        "How this was made",
        "How the second audit was made",
    ]
    assert [row[0] for row in page.rows["All classes"][1:]] == [one.name for one in planted.classes]
    assert len(page.rows["All classes"]) == 49
    first = planted.pairs()[0]
    told = page.rows["Pairs that are hardest to tell apart"][1]
    assert told[0] == f"{first.first}, not {first.second}"
    assert told[5] == (
        "; ".join(f"{one.ours}, not {one.theirs} ({agreement:.2f})" for one, agreement in first.described) or NO_WORDS
    )
    captions = re.findall("<figcaption>(.*?)</figcaption>", report.read_text())
    assert f"runner-up least likely: {first.best}" in captions
    assert f"runner-up most likely: {first.worst}" in captions
    against = {row[0]: row for row in page.rows["Compared with world"][1:]}
    assert len(against) == 48
    assert float(against["meadow jay"][3]) > 0.6 > 0.05 > float(against["meadow jay"][4])


def test_a_suspect_has_a_strip_of_evidence(report, planted, clean):
    html = report.read_text()
    at = max((planted.plainest[one.name] for one in planted.suspects), key=lambda at: planted.good[at].rd5)
    row = planted.good[at]
    before = row.confidence - row.runner_up_probability
    strip = html[html.index('<div class="strip">') :]
    captions = re.findall("<figcaption>(.*?)</figcaption>", strip)[:4]
    assert captions == [
        f"image {row.image}, predicted as {row.predicted}",
        f"contrastive map, the evidence: for {row.predicted} and against {row.runner_up}",
        f"its strongest 5% masked: the decision turns, {row.runner_up} is ahead by {row.rd5 - before:.2f} in probability; "
        f"before, {row.predicted} was ahead by {before:.2f}",
        f"base map: for {row.predicted}, also where {row.runner_up} has the same",
    ]
    drawn = Thumbnails(planted, report.parent).evidence(at)
    image, contrastive, masked, base = (np.asarray(one.image, dtype=int) for one in drawn)
    changed = (masked != image).any(-1)
    assert changed.mean() == pytest.approx(0.05, abs=0.005)
    # What is masked is where the contrastive map has its warm colours.
    warm = contrastive[..., 0] - contrastive[..., 2]
    assert warm[changed].mean() > warm[~changed].mean() + 50
    assert not np.array_equal(base, contrastive)
    assert html.count("<h3>") > len(planted.suspects)


def test_a_base_map_is_that_of_strength_zero(clean, localizer):
    row, drawing = clean.good[3], clean.drawings([3])[3]
    found = localizer(drawing.image(clean.folder), row.predicted, row.runner_up, strength=0.0)
    assert torch.allclose(found.map.double(), drawing.base.double(), rtol=0.1, atol=0.1 * float(found.map.abs().max()))


def test_two_models_are_a_scatter(report, planted, clean):
    html = report.read_text()
    section = html[html.index("Compared with world</h2>") :]
    section = section[: section.index("</section>")]
    points = re.findall('data-values="(.*?)"><title>classes: (.*?): off', section)
    assert len(points) == 48
    ours, theirs = ({one.name: one.off_object.mean for one in audit.classes if one.off_object} for audit in (planted, clean))
    for values, name in points:
        assert [float(value) for value in values.split()] == pytest.approx([ours[name], theirs[name]], abs=1e-5)


def test_the_page_of_a_pair_says_what_tells_them_apart(report, planted):
    """A part where the encoder looks at a part, and the background where it looks at that."""
    leads = {}
    for pair in planted.pairs(12):
        html = (report.parent / page_of(pair)).read_text()
        (leads[pair.first, pair.second],) = re.findall('<p class="lead">(.*?)</p>', html, re.DOTALL)
        assert f"<h1>{pair.first}, not {pair.second}: what tells them apart?</h1>" in html
        assert html.count("<figure>") >= 4
    differs = {(target, twin): part for target, twin, part in twins()}
    told = {pair: lead for pair, lead in leads.items() if "tells them apart by the " in lead}
    assert len(told) >= 4
    for pair, lead in told.items():
        part = str(differs[pair]).replace("_", " ")
        by_background = "by the background" in lead
        assert by_background == (pair[0] in TOLD_BY_HABITAT), lead
        assert by_background or part.split(".")[0].lower() in lead, (lead, part)
    for pair, lead in leads.items():
        if pair not in told:
            assert "tells them apart by what is around the object" in lead
            assert pair[0] in TOLD_BY_HABITAT
            # Which phrase comes nearest, and which rule keeps it out.
            assert re.search(r"“bird in \w+”, not “bird in \w+”, is kept out: .* and (20|0\.5) is asked\.$", lead)


def test_the_pages_of_twins_name_the_part_and_its_values(localizer, planted, tmp_path):
    """Of the sound encoder all of them; of the other those whose birds have nothing to do with a habitat, and no others."""
    right = {}
    for audit in (audited(localizer, birds_dataset(144, seed=2), tmp_path), planted):
        thumbnails = Thumbnails(audit, tmp_path)
        leads = {(pair.first, pair.second): pair_page(audit, pair, thumbnails).lead for pair in audit.pairs(None)}
        for first, second, attribute in twins():
            told = [f"“{phrase(attribute, species()[name].card[attribute])}” for {name}" for name in (first, second)]
            lead = leads.get((first, second), "")
            named = all(one in lead for one in (f"apart by the {part_of(attribute)} ", *told))
            right.setdefault(audit.setup.model, {})[first] = named
    assert sum(right["world"].values()) == 48
    assert {name for name, is_right in right["world-shortcut"].items() if not is_right} == TOLD_BY_HABITAT


def test_every_link_leads_to_a_image(report):
    page = Cells(report.read_text())
    assert len(page.links) > 40
    pairs = {path.relative_to(report.parent).as_posix() for path in (report.parent / "pairs").iterdir()}
    assert set(page.pages) == pairs
    assert len(pairs) == 12
    links = {link for name in pairs for link in Cells((report.parent / name).read_text()).links}
    drawn = {path.relative_to(report.parent).as_posix() for path in (report.parent / "images").iterdir()}
    assert {*page.links, *(link.removeprefix("../") for link in links)} == drawn
    for link in drawn:
        with Image.open(report.parent / link) as image:
            assert image.width > 500


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a report from disk; nothing is asked for but the file, and nothing complains."""
    asked, complaints, contexts = [], [], []

    def opened(path: Path, width: int):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        tab = contexts[-1].new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert all(
        url.startswith(("data:", "file:")) and (url.startswith("data:") or url.endswith("report.html")) for url in asked
    )
    assert sum(url.startswith("file:") for url in asked) == len(contexts)
    assert complaints == []


@pytest.mark.parametrize("width", [380, 1280])
def test_a_browser_shows_the_report(opened, report, width):
    tab = opened(report, width)
    assert overflow(tab) <= 0
    widths = tab.eval_on_selector_all("img", "images => images.map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) > 60
    assert min(widths) > 50


def test_the_tables_of_the_report_sort(opened, report, planted):
    tab = opened(report, 1280)
    section = tab.locator("section", has=tab.get_by_role("heading", name="All classes"))
    section.locator("details.table summary").click()
    table = section.locator("table")

    def column(k: int) -> list[str]:
        return table.locator("tbody tr").evaluate_all(f"rows => rows.map(row => row.cells[{k}].innerText.trim())")

    names = [one.name for one in planted.classes]
    assert column(0) == names
    table.get_by_role("button", name="off the object").click()
    off = [float(value) for value in column(6)]
    assert off == sorted(off)
    assert off[0] < 0.1 < 0.6 < off[-1]
    assert column(0)[-6:] != names[-6:]
    table.get_by_role("button", name="off the object").click()
    assert [float(value) for value in column(6)] == off[::-1]
    table.get_by_role("button", name="class").click()
    assert column(0) == sorted(names)


def test_a_report_of_images_that_nobody_has_drawn_a_mask_for(localizer, tmp_path, opened):
    """A folder of classes, with a broken file of a long name: nothing is known of objects, and that is said."""
    for name in ("ember finch", "frost finch"):
        where = tmp_path / "set" / name.replace(" ", "_")
        where.mkdir(parents=True)
        for seed in range(2):
            world.draw_species(name, seed, 96).image.save(where / f"{seed}.png")
    broken = tmp_path / "set" / "frost_finch" / f"{'Very-Long-Name_' * 12}.jpg"
    broken.write_bytes(b"\xff\xd8 cut short")
    found = audited(localizer, read_dataset(tmp_path / "set"), tmp_path / "out")
    assert len(found.good) == 4
    assert (found.ranked, found.suspects) == ([], [])
    assert {(row.energy, row.off_object, row.off_area) for row in found.good} == {(None, None, None)}
    assert all(0 <= row.border <= 1 for row in found.good)
    report = write_report(found)
    html = report.read_text()
    assert "no image has a mask or a box of its object" in html
    assert "Not known: no image has a mask or a box of its object." in html
    assert broken.name in html
    assert Condition.read("off_object > 0.3").reason(summary(found)) == "off_object is not known"
    write_tables(found)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["off_object"] is None
    assert overflow(opened(report, 380)) <= 0


# ---- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_two_drawings_have_one_file(localizer, tmp_path):
    """However alike the names of their images are to a file system."""
    names = (
        "a/b.png",
        "a-b.png",
        "a b.png",
        "鳥.png",
        "雀.png",
        f"{'x' * 150}1",
        f"{'x' * 150}2",
        "../../up.png",
        "C:\\b.png",
    )
    plates = birds_dataset(len(names)).examples
    examples = [replace(e, name=name) for e, name in zip(plates, names, strict=True)]
    found = audited(localizer, replace(birds_dataset(1), examples=examples), tmp_path / "out")
    evidence = Thumbnails(found, tmp_path / "page")
    drawn = [evidence.decision(at, "decision") for at in range(len(names))]
    drawn += [evidence.background(at, "background") for at in range(len(names))]
    links = [one.link for one in drawn]
    assert len(set(links)) == 2 * len(names)
    assert all(re.fullmatch(r"images/[0-9a-z-]{1,130}\.png", link) for link in links)
    assert sorted(p.name for p in (tmp_path / "page" / "images").iterdir()) == sorted(link[7:] for link in links)
    assert len({(tmp_path / "page" / link).read_bytes() for link in links}) == len(links)
    assert evidence.decision(0, "again").link == links[0]
    assert evidence.decision(0, "again").caption == "again"
    assert not list(tmp_path.rglob("up*"))


def test_classes_that_spell_alike_have_files_of_their_own():
    given = [("鳥", ["雀"]), ("雀", ["鳥"]), ("a b", ["c"]), ("a-b", ["c"]), ("a b", ["c", "d"]), ("a b", ["c", "e"])]
    names = [_file_name(3, "x.png", target, references) for target, references in given]
    assert len(set(names)) == len(given)
    assert names[2].startswith("00003-x-png-a-b-not-c-")
    assert names == [_file_name(3, "x.png", target, references) for target, references in given]


def test_a_image_that_is_gone_is_not_drawn(localizer, tmp_path):
    world.draw_species("ember finch", 0, 96).image.save(tmp_path / "a.png")
    data = Dataset("one", SPECIES, [Example("a", tmp_path / "a.png", "ember finch")])
    found = audited(localizer, data, tmp_path / "out")
    (tmp_path / "a.png").unlink()
    assert Thumbnails(found, tmp_path).decision(0) is None
    assert "Pairs that are hardest to tell apart" in write_report(found).read_text()


def test_colours_of_a_mean_map():
    """Warm for, cold against, white for neither; the strongest at full colour."""
    map_ = torch.zeros(ALIGNED, ALIGNED)
    map_[:, :8], map_[:, 16:] = 2.0, -1.0
    pixels = np.asarray(mean_map(map_, "map").image, dtype=int)
    left, middle, right = pixels[160, 43], pixels[160, 160], pixels[160, 286]
    assert np.abs(left - (200, 40, 20)).max() <= 3
    assert np.abs(middle - 255).max() <= 3
    assert np.abs(right - (255 + np.array((30, 80, 190))) / 2).max() <= 3
    assert np.asarray(mean_map(torch.zeros(ALIGNED, ALIGNED), "none").image).min() == 255


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what a process has held")
def test_the_benchmark_counts_what_is_held():
    one = benchmark.run(3)
    assert one.images == 3
    assert one.seconds > 0
    assert 2e8 < one.before <= one.looked <= one.reported <= benchmark.peak()

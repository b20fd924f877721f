"""What the rows of an audit come to, by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from audits import HABITATS, SPECIES, A, B, C, Cells, by_hand, examiner, localizer, looked, made_by_hand, table

from concept_cam.audit import AuditRow, write_tables
from concept_cam.audit.examine import Examiner
from concept_cam.audit.figures import Effect
from concept_cam.audit.object_share import ALIGNED
from concept_cam.audit.report import write_report
from concept_cam.audit.summary import CONDITIONS, Condition, summary
from concept_cam.audit.words import BACKGROUND, random_axes
from concept_cam.datasets import Dataset
from concept_cam.errors import OptionError
from concept_cam.metrics import bounded_interval
from concept_cam.probabilities import ClassProbabilities


def means_of(one):
    return tuple(one.means[name] for name in ("energy", "rd5", "border", "off_area"))


def test_what_is_said_of_a_class(by_hand):
    first, second, third = by_hand.classes
    assert [first.name, second.name, third.name] == [A, B, C]
    assert (first.images, second.images, third.images) == (2, 3, 2)
    assert (first.accuracy, second.accuracy, third.accuracy) == pytest.approx((1.0, 2 / 3, 0.0))
    # Of those with the label: 0.9 and 0.8 are right; 0.6 is wrong, 0.7 and 0.95 are right; 0.5 and 0.55 are wrong.
    expected = ((0.1 + 0.2) / 2, (0.6 + 0.3 + 0.05) / 3, (0.5 + 0.55) / 2)
    assert (first.calibration, second.calibration, third.calibration) == pytest.approx(expected)
    assert (first.errors, second.errors, third.errors) == (0, 1, 2)
    # Of those predicted as it.
    assert (first.predicted, second.predicted, third.predicted) == (4, 3, 0)
    assert first.off_object.mean == pytest.approx(0.6)
    # Of two classes something is known of objects, and both intervals shall hold.
    assert first.off_object == bounded_interval([0.5, 0.7, 0.6, 0.6], 0.05 / 2)
    assert second.off_object == bounded_interval([0.25, 1.0], 0.05 / 2)
    assert (by_hand.fewest, first.judged, second.judged, third.judged) == (4, True, False, False)
    assert means_of(first) == pytest.approx((0.3, 0.5, 0.2, 0.7))
    assert second.off_object.mean == pytest.approx(0.625)
    assert second.means["energy"] == pytest.approx(0.4)
    assert second.means["rd5"] == pytest.approx(2.5 / 3)
    assert (third.off_object, third.means["energy"], third.means["rd5"], third.background) == (None, None, None, None)
    assert (first.background.text, first.background.effect) == (HABITATS[1], pytest.approx(0.5 - 0.1 * (0 + 1 + 2 + 3) / 4))
    assert (second.background.text, second.background.effect) == (HABITATS[0], pytest.approx(0.01 * (5 + 6 + 7) / 3))


def test_what_is_said_of_all(by_hand):
    assert by_hand.accuracy == pytest.approx(4 / 7)
    assert by_hand.problems == ["q: cut short", "p4: gone"]
    found = summary(by_hand)
    assert (found["images"], found["skipped"]) == (7, 2)
    assert found["errors"] == 3
    # Of the second class there are two images, of which nothing can be said.
    assert found["off_object"] == pytest.approx(0.6)
    assert (found["suspects"], found["too_few"], found["fewest_images"], found["suspect_classes"]) == (0, 1, 4, [])
    assert found["rd5"] == pytest.approx(0.5)
    assert found["sensitivity"] == pytest.approx(0.35)
    assert set(CONDITIONS) <= set(found)
    # 0.55 and 0.6 share the bin to 0.6, 0.7 and 0.8 have their own, 0.9 and 0.95 differ, 0.5 is alone.
    gaps = (0.55 + 0.6 + 0.0) + (1 - 0.7) + (1 - 0.8) + (1 - 0.9) + (1 - 0.95) + 0.5
    assert found["calibration"] == pytest.approx(gaps / 7)


def audit_of(localizer, folder, shares):
    """Of images that are all predicted as what they show, by the shares of their evidence off the object."""
    names, rows = list(shares), []
    for name in names:
        other = names[names.index(name) - 1]
        about = {
            "label": name,
            "predicted": name,
            "runner_up": other,
            "correct": True,
            "confidence": 0.9,
            "runner_up_probability": 0.1,
        }
        figures = {"energy": 0.1, "off_area": 0.6, "border": 0.0, "rd5": 0.5}
        rows += [AuditRow(image=f"{name} {k}", **about, **figures, off_object=off) for k, off in enumerate(shares[name])]
    shapes = {"aligned": (ALIGNED, ALIGNED), "shared": (0, 0), "agreements": (0,), "effects": (0,), "chance": (0,)}
    tensors = {name: torch.zeros(len(rows), *shape) for name, shape in shapes.items()}
    return made_by_hand(Examiner(localizer, tuple(names)), Dataset("shares", tuple(names), ()), folder, rows, [tensors])


@pytest.mark.parametrize(
    ("shares", "suspects", "judged", "fewest"),
    [
        # One image, or three that agree, are not enough among three classes; five are, ten of them surely.
        ({A: [0.95], B: [0.0], C: [0.1]}, [], [], 4),
        ({A: [0.95] * 3, B: [0.0] * 3, C: [0.1] * 3}, [], [], 4),
        ({A: [0.95] * 4, B: [0.0] * 3, C: [0.1] * 3}, [], [A], 4),
        ({A: [0.95] * 5, B: [0.0] * 3, C: [0.1] * 3}, [A], [A], 4),
        # As much in the mean, from images that agree and from images that do not.
        ({A: [0.6] * 10, B: [1.0] * 6 + [0.0] * 4, C: [0.1] * 10}, [A], [A, B, C], 4),
        # Above the alarm in the mean, and not surely.
        ({A: [0.35] * 10, B: [0.45, 0.25] * 5, C: [0.31] * 10}, [], [A, B, C], 4),
    ],
)
def test_a_suspect_is_surely_above_the_alarm(localizer, tmp_path, shares, suspects, judged, fewest):
    found = audit_of(localizer, tmp_path, shares)
    assert found.fewest == fewest
    assert [one.name for one in found.suspects] == suspects
    assert [one.name for one in found.judged] == judged
    figures = summary(found)
    assert figures["suspects"] == (len(suspects) if judged else None)
    assert figures["too_few"] == len(shares) - len(judged)
    if not judged:
        assert Condition.read("suspects > 0").reason(figures) == "suspects is not known (too few images: a class needs 4)"
        assert (
            Condition.read("off_object > 0.3").reason(figures) == "off_object is not known (too few images: a class needs 4)"
        )


def test_the_plainest_of_all_suspects_comes_first(localizer, tmp_path, monkeypatch):
    """Also if it is not among the first that are shown; what it is drawn from is at hand then."""
    for module in ("suspects", "findings", "report"):
        monkeypatch.setattr(f"concept_cam.audit.{module}.SHOWN", 1)
    monkeypatch.setattr("concept_cam.audit.findings.read_drawings", lambda *_: pytest.fail("a batch was read twice"))
    made = audit_of(localizer, tmp_path, {A: [0.95] * 9, B: [0.9] * 9, C: [0.85] * 9})
    found = replace(made, rows=[replace(row, rd5=0.9) if row.image == f"{B} 4" else row for row in made.rows])
    assert [one.name for one in found.suspects] == [A, B, C]
    assert f"For example {B}: 90% of the evidence" in write_report(found).read_text()


def test_more_classes_take_more_images(localizer, tmp_path):
    """Of so many classes one shows something by chance."""
    few, many = ({name: [0.95] * 5 for name in SPECIES[:count]} for count in (3, 48))
    assert len(audit_of(localizer, tmp_path, few).suspects) == 3
    found = audit_of(localizer, tmp_path, many)
    assert (found.fewest, found.judged, found.suspects) == (7, [], [])


@pytest.mark.parametrize(
    ("shares", "lead", "fact", "verdicts"),
    [
        ({A: [0.95], B: [0.0]}, "too few images to say", "too few images to say", ["too few to say"] * 2),
        (
            {A: [0.95] * 9, B: [0.0]},
            "The model relies on what is around the object: for 1 of 2 classes, clearly more than 30% of the evidence lies "
            f"off the object. For example {A}: 95% of the evidence for it lies off the object",
            "1",
            ["suspect", "too few to say"],
        ),
        ({A: [0.2] * 9, B: [0.0] * 9}, "For no class does clearly more than 30%", "0", ["", ""]),
    ],
)
def test_the_report_says_no_more_than_it_knows(localizer, tmp_path, shares, lead, fact, verdicts):
    found = audit_of(localizer, tmp_path, shares)
    html = write_report(found).read_text()
    assert lead in re.search('<p class="lead">(.*)</p>', html)[1]
    assert f"<dt>suspects</dt><dd>{fact}</dd>" in html
    assert [row[1] for row in Cells(html).rows["Evidence off the object"][1:]] == verdicts
    assert ("For 1 class there are too few images to say" in html) == (len(set(verdicts)) == 2)


def test_the_plots_of_the_report_show_what_its_tables_say(by_hand):
    html = write_report(by_hand).read_text()
    page, sections = (
        Cells(html),
        dict(zip(re.findall(r'<h2 id="section-\d+">(.*?)</h2>', html), html.split("<section")[1:], strict=True)),
    )

    def drawn(title: str) -> list[tuple[float, ...]]:
        found = re.findall('class="mark[^"]*" x="[^"]*" y="[^"]*" overflow="visible" data-values="(.*?)"', sections[title])
        return [tuple(map(float, values.split())) for values in found]

    head, *rows = page.rows["Evidence off the object"]
    assert [value for (value,) in drawn("Evidence off the object")] == pytest.approx(
        [float(row[head.index("off the object")]) for row in rows], abs=5e-4
    )
    head, *rows = page.rows["Backgrounds that change predictions"]
    assert [value for (value,) in drawn("Backgrounds that change predictions")] == pytest.approx(
        [float(row[head.index("effect")]) for row in rows], abs=5e-4
    )
    head, *rows = page.rows["Confidence and accuracy"]
    assert drawn("Confidence and accuracy")[: len(rows)] == [
        pytest.approx((float(row[2]), float(row[3])), abs=5e-4) for row in rows
    ]
    assert sum(int(row[1]) for row in rows) == 7
    (confidence, error) = re.findall(
        r"is (0\.\d+) (?:higher|lower) than its accuracy; the calibration error is (0\.\d+)", html
    )[0]
    assert float(error) == pytest.approx(by_hand.calibration, abs=5e-4)
    assert float(confidence) == pytest.approx(abs(sum(r.confidence - r.correct for r in by_hand.good)) / 7, abs=5e-4)


def test_the_most_confused_pairs(by_hand):
    pairs = by_hand.pairs()
    assert [(pair.first, pair.second) for pair in pairs] == [(A, B), (B, C), (A, C), (B, A)]
    assert [pair.errors for pair in pairs] == [2, 1, 0, 0]
    assert [pair.swapped for pair in pairs] == [1, 1, 0, 0]
    assert [pair.images for pair in pairs] == [3, 1, 1, 2]
    assert [pair.runner_up_probability for pair in pairs] == pytest.approx([0.25, 0.45, 0.15, 0.12])
    confused = pairs[0]
    assert (confused.best, confused.worst) == ("p0", "p1")
    assert torch.allclose(confused.map, torch.full((ALIGNED, ALIGNED), (0 + 1 + 3) / 3, dtype=torch.float64))
    assert torch.allclose(confused.shared, confused.map / 10)
    assert confused.agreements == pytest.approx((0.1 * 4 / 3,))
    assert [one.what for one in confused.differences] == [BACKGROUND]
    assert confused.differences == by_hand.setup.differences[A, B]
    assert [pair.first for pair in by_hand.pairs(2)] == [A, B]


def test_errors_add_up(by_hand, monkeypatch):
    """Over the pairs, over the classes, and in the tables of the report, whether or not all pairs are shown."""
    assert by_hand.errors == 3
    assert round(7 * (1 - by_hand.accuracy)) == 3
    assert sum(pair.errors for pair in by_hand.pairs()) == 3
    assert sum(pair.images for pair in by_hand.pairs()) == 7
    assert sum(one.errors for one in by_hand.classes) == 3
    for shown in (12, 1):
        monkeypatch.setattr("concept_cam.audit.report.SHOWN", shown)
        matrix = re.findall(
            r'<td class="heat-\d(?: right)?" title="(.*?), predicted as (.*?): (\d+)">', write_report(by_hand).read_text()
        )
        assert sum(int(count) for label, predicted, count in matrix if label != predicted) == 3
        assert {(label, predicted): int(count) for label, predicted, count in matrix}[B, A] == 1
        page = Cells(write_report(by_hand).read_text())
        for heading, count in (("Pairs that are hardest to tell apart", min(shown, 4) + (shown < 4)), ("All classes", 3)):
            head, *rows = page.rows[heading]
            assert len(rows) == count
            assert sum(int(row[head.index("errors")]) for row in rows) == 3
            assert sum(int(row[head.index("images")]) for row in rows) == 7
        head, *rows = page.rows["Pairs that are hardest to tell apart"]
        assert sum(int(row[head.index("label is the runner-up")]) for row in rows) == 2
    assert rows[-1][0] == "3 other pairs (pairs.csv)"
    write_tables(by_hand)
    for name in ("pairs", "classes"):
        assert sum(int(row["errors"]) for row in table(by_hand.folder / f"{name}.csv")) == 3


def test_backgrounds_by_their_mean_effect(by_hand):
    found = by_hand.backgrounds()
    assert [(one.name, one.text) for one in found] == [
        (A, HABITATS[1]),
        (B, HABITATS[0]),
        (A, HABITATS[0]),
        (B, HABITATS[1]),
    ]
    assert [one.effect for one in found] == pytest.approx([0.35, 0.06, 0.015, -0.1])
    # Erasing a random direction takes up to 0.2 off.
    assert [one.chance for one in found] == pytest.approx([0.2] * 4)
    assert [one.moves for one in found] == [True, False, False, False]


def test_backgrounds_that_move_nothing_are_not_listed(by_hand):
    write_report(by_hand)
    write_tables(by_hand)
    head, *rows = Cells((by_hand.folder / "report.html").read_text()).rows["Backgrounds that change predictions"]
    assert head == ["class", "background", "effect", "chance", "where"]
    assert [row[:4] for row in rows] == [[A, HABITATS[1], "0.350", "0.200"]]
    assert [row["moves"] for row in table(by_hand.folder / "backgrounds.csv")] == ["1", "0", "0", "0"]
    assert Effect(A, "snow", 0.009, 0.0).moves is False
    assert Effect(A, "snow", 0.0101, 0.0).moves is True
    assert Effect(A, "snow", 0.0101, 0.0102).moves is False


def test_what_random_directions_take_off(localizer, examiner, looked):
    """A mean of nothing, and less than a habitat takes off where it was learnt."""
    examples, rows, tensors = looked
    assert tensors["chance"].shape == (4, 100)
    scenes = localizer.bank(HABITATS).vectors
    axes = random_axes(scenes, 100)
    assert torch.allclose(axes.norm(dim=1), torch.ones(100))
    assert torch.equal(axes, random_axes(scenes, 100))
    with torch.no_grad():
        embedding = F.normalize(localizer.backbone.embed_pixels(localizer.frame(examples[0].read()).pixels[None]), dim=-1)
    probabilities, target = (
        ClassProbabilities(localizer.backbone, examiner.bank, examiner.scale),
        SPECIES.index(rows[0].predicted),
    )
    off = F.normalize(embedding - (embedding - scenes.mean(0)) @ axes[7][:, None] * axes[7], dim=-1)
    lost = (probabilities.of_embedding(embedding) - probabilities.of_embedding(off))[0, target]
    assert float(tensors["chance"][0, 7]) == pytest.approx(float(lost), abs=1e-5)


def test_tables_say_the_same(by_hand):
    write_tables(by_hand)
    read = {name: table(by_hand.folder / f"{name}.csv") for name in ("classes", "pairs", "words")}
    assert [row["class"] for row in read["classes"]] == [A, B, C]
    assert [float(row["off_object"] or "nan") for row in read["classes"]] == pytest.approx([0.6, 0.625, math.nan], nan_ok=True)
    assert [row["suspect"] for row in read["classes"]] == ["0", "0", "0"]
    assert [row["judged"] for row in read["classes"]] == ["1", "0", "0"]
    assert [int(row["errors"]) for row in read["pairs"]] == [2, 1, 0, 0]
    # With one attribute nobody can say what is usual, so no words are told.
    assert math.isnan(by_hand.pairs()[0].differences[0].stands_out)
    assert read["words"] == []
    assert not (by_hand.folder / "moved.csv").exists()


@pytest.mark.parametrize(
    ("text", "found", "reason"),
    [
        ("off_object > 0.3", 0.4, "off_object is 0.4, which is > 0.3"),
        ("off_object>.3", 0.3, None),
        ("off_object >= 0.3", 0.3, "off_object is 0.3, which is >= 0.3"),
        ("accuracy < 9e-1", 0.5, "accuracy is 0.5, which is < 0.9"),
        (" accuracy <= 0.9 ", 0.95, None),
        ("rd5 < -0.1", -0.2, "rd5 is -0.2, which is < -0.1"),
        ("suspects > 0", 2, "suspects is 2, which is > 0"),
        ("off_object > 0.3", None, "off_object is not known"),
        ("off_object > 0.3", math.nan, "off_object is not known"),
    ],
)
def test_conditions(text, found, reason):
    condition = Condition.read(text)
    assert condition.reason({condition.figure: found}) == reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("off_objet > 0.3", "no figure 'off_objet'. Did you mean 'off_object'"),
        ("off_object", "expected a condition such as"),
        ("off_object = 0.3", "expected a condition such as"),
        ("off_object > high", "expected a condition such as"),
        ("off_object > 0.3 or so", "expected a condition such as"),
        ("", "expected a condition such as"),
    ],
)
def test_what_is_no_condition(text, message):
    with pytest.raises(OptionError, match=message):
        Condition.read(text)

"""What is looked at on one image, against the library's front door."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from audits import HABITATS, PARTS, SPECIES, alike, examiner, localizer, looked

from concept_cam import Localizer, world, wrap
from concept_cam.audit.examine import Examiner
from concept_cam.audit.object_share import ObjectMask, shared
from concept_cam.audit.words import BACKGROUND
from concept_cam.datasets import Example
from concept_cam.errors import ComparisonError, OptionError
from concept_cam.methods import METHODS, TraceMethod
from concept_cam.metrics import energy_inside, rank_correlation
from concept_cam.probabilities import ClassProbabilities, own_scale
from concept_cam.runs import Skipped
from concept_cam.views import View
from concept_cam.world.dataset import birds_dataset

SUMMED = ("aligned", "whole", "shared", "agreements", "effects", "chance")


def test_what_decided_is_what_a_localizer_says_against_the_runner_up(localizer, looked):
    examples, rows, tensors = looked
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        result = localizer(example.read(), row.predicted, row.runner_up, strength=1.0)
        ground = ObjectMask.of(result.placement, example.region(), result.map.shape)
        assert torch.allclose(tensors["aligned"][b], ground.aligned(result.map), atol=1e-7)
        assert torch.allclose(tensors["whole"][b], ground.whole(result.map), atol=1e-7)
        # By the metric of ``evaluate``, in the pixels of the image: on the object, and on what is a patch around it.
        bird = example.region()
        near = F.max_pool2d(bird[None].float(), 33, stride=1, padding=16)[0] > 0
        assert row.energy == pytest.approx(float(energy_inside(result.heatmap(), bird)), abs=0.005)
        assert row.off_object == pytest.approx(1 - float(energy_inside(result.heatmap(), near)), abs=0.01)
        assert row.off_area == pytest.approx(float((~near).double().mean()), abs=0.02)
        assert row.energy > row.off_object


def test_what_was_decided_is_the_models_own(localizer, looked):
    examples, rows, _ = looked
    bank = localizer.bank(SPECIES)
    for example, row in zip(examples, rows, strict=True):
        pixels = localizer.frame(example.read()).pixels[None]
        with torch.no_grad():
            embedding = F.normalize(localizer.backbone.embed_pixels(pixels), dim=-1)
        sure = (own_scale(localizer.backbone) * embedding @ bank.vectors.T).softmax(-1)[0].topk(2)
        names = [SPECIES[i] for i in sure.indices]
        assert [row.predicted, row.runner_up] == names
        assert [row.confidence, row.runner_up_probability] == pytest.approx(sure.values.tolist(), abs=1e-5)
        assert row.label == example.label
        assert row.correct == int(names[0] == example.label)


def test_the_drop_is_what_the_prediction_loses_more_than_the_runner_up(localizer, examiner, looked):
    """By hand: the strongest twentieth of the 96 x 96 pixels made zero, 460.8 of them."""
    examples, rows, _ = looked
    bank, scale = examiner.bank, examiner.scale

    def confidence(pixels):
        embedding = F.normalize(localizer.backbone.embed_pixels(pixels), dim=-1)
        return (scale * embedding @ bank.vectors.T).softmax(-1)[0]

    for example, row in zip(examples, rows, strict=True):
        found = localizer(example.read(), row.predicted, row.runner_up, strength=1.0)
        heat = F.interpolate(found.map[None, None], (96, 96), mode="bilinear", align_corners=False).flatten()
        pixels = localizer.frame(example.read()).pixels[None]
        masked = pixels.flatten(2).clone()
        masked[..., heat.sort(descending=True, stable=True).indices[:461]] = 0
        lost = confidence(pixels) - confidence(masked.view_as(pixels))
        first, second = (bank.index(getattr(row, key)) for key in ("predicted", "runner_up"))
        assert row.rd5 == pytest.approx(float(lost[first] - lost[second]), abs=1e-4)
    assert len({round(row.rd5, 3) for row in rows}) == 4


def test_the_map_of_the_words_is_held_against_that_of_the_decision(examiner, looked):
    localizer = world.localizer(vocabulary=())
    examples, rows, tensors = looked
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        ours, theirs = examiner.bank.vectors_of([row.predicted, row.runner_up])
        told = examiner.words.difference(ours - theirs)
        means = [
            one for one, agreement in zip(told, tensors["agreements"][b].tolist(), strict=True) if one.describes(agreement)
        ]
        assert row.words == "; ".join(f"{one.ours} (not {one.theirs})" for one in means)
        assert means == [told[0]]
        decision = localizer(example.read(), row.predicted, row.runner_up, strength=1.0)
        for k, one in enumerate(told):
            if one.what != BACKGROUND:
                words = localizer(example.read(), one.ours, one.theirs, strength=1.0)
                agreement = float(rank_correlation(words.map, decision.map))
                assert float(tensors["agreements"][b, k]) == pytest.approx(agreement, abs=1e-3)
                if k == 0:
                    both = ObjectMask.of(decision.placement, example.region(), (12, 12)).aligned(
                        shared(decision.map, words.map)
                    )
                    assert torch.allclose(tensors["shared"][b], both, atol=1e-3)
                    assert row.agreement == pytest.approx(agreement, abs=1e-3)


def test_a_background_that_is_erased_takes_off_what_it_takes_off(localizer, examiner, looked):
    examples, rows, tensors = looked
    scenes = localizer.bank(HABITATS)
    for example, row, effects in zip(examples, rows, tensors["effects"], strict=True):
        with torch.no_grad():
            embedding = F.normalize(localizer.backbone.embed_pixels(localizer.frame(example.read()).pixels[None]), dim=-1)
        probabilities = ClassProbabilities(localizer.backbone, examiner.bank, examiner.scale)
        target = SPECIES.index(row.predicted)
        axis = F.normalize(scenes.vectors[3] - scenes.vectors.mean(0), dim=0)
        erased = F.normalize(embedding - (embedding - scenes.vectors.mean(0)) @ axis[:, None] * axis, dim=-1)
        lost = (probabilities.of_embedding(embedding) - probabilities.of_embedding(erased))[0, target]
        assert float(effects[3]) == pytest.approx(float(lost), abs=1e-5)
        assert row.background == HABITATS[int(effects.argmax())]
        assert row.sensitivity == float(effects.max())


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_the_map_of_a_background_is_that_of_a_localizer(localizer, looked):
    """Of the background that moves the prediction most, against all others; and the decision as the model gives it."""
    examples, rows, tensors = looked
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        others = [text for text in HABITATS if text != row.background]
        for name, target, references in (("scene", row.background, others), ("decision", row.predicted, [row.runner_up])):
            expected = localizer(example.read(), target, references, strength=1.0)
            found = tensors[name].reshape(4, 12, 12)[b]
            assert torch.allclose(found, expected.map, atol=1e-6), name
        window = tensors["placements"][b].tolist()
        assert window == [*expected.placement.window, *expected.placement.image_size, *expected.placement.window]


@pytest.mark.slow
def test_alone_or_together_in_any_size_and_order():
    """At native aspect images go through the model in groups; what comes out is in the order of the examples."""
    localizer = world.localizer(fit="native")
    examiner = Examiner(localizer, SPECIES, PARTS, HABITATS)
    examples = []
    for k, (width, height) in enumerate(((192, 192), (150, 192), (192, 192), (192, 120), (150, 192), (192, 192))):
        example = birds_dataset(6, seed=4).examples[k]
        mask = example.region()[:height, :width]
        image = example.read().crop((0, 0, width, height))
        examples.append(Example(example.name, image, example.label, region=lambda mask=mask: mask))
    examples.insert(2, Example("gone", "no such file.png", SPECIES[0]))
    rows, tensors = examiner.examine(examples)
    assert [row.image for row in rows] == [example.name for example in examples]
    good = [k for k, row in enumerate(rows) if not isinstance(row, Skipped)]
    assert good == [0, 1, 3, 4, 5, 6]
    for place, k in enumerate(good):
        (row,), alone = examiner.examine([examples[k]])
        assert alike(row, rows[k])
        for name in SUMMED:
            assert torch.allclose(alone[name][0], tensors[name][place], atol=1e-4), name
        # Maps at grids of their own are packed one after another.
        assert torch.equal(alone["grids"][0], tensors["grids"][place])
        assert torch.equal(alone["placements"][0], tensors["placements"][place])
        stop = int(tensors["grids"][: place + 1].prod(1).sum())
        for name in ("decision", "scene"):
            own = tensors[name][stop - alone[name].numel() : stop]
            assert torch.allclose(alone[name], own, atol=1e-4), name
    assert len({tuple(grid) for grid in tensors["grids"].tolist()}) == 3
    assert len({tuple(tensor.flatten()[:50].tolist()) for tensor in tensors["whole"]}) == 6


def test_what_cannot_be_used_is_said_and_the_rest_is_there(examiner, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    good = birds_dataset(2).examples[:]
    none = torch.zeros(192, 192, dtype=torch.bool)
    examples = [
        Example("broken", tmp_path / "broken.png", SPECIES[0]),
        good[0],
        replace(good[0], name="strange", label="ember finsh"),
        replace(good[0], name="mask", region=lambda: none[:100]),
        replace(good[0], name="nowhere", region=lambda: none),
        good[1],
    ]
    rows, tensors = examiner.examine(examples)
    assert [k for k, row in enumerate(rows) if not isinstance(row, Skipped)] == [1, 5]
    assert re.search("broken.png: the image cannot be read: it is not an image", rows[0].problem)
    assert re.search("Did you mean 'ember finch'", rows[2].problem)
    assert re.search("the mask is 100 x 192, the image 192 x 192", rows[3].problem)
    assert "mask" in rows[4].problem
    _, expected = examiner.examine(good)
    assert all(torch.allclose(tensors[name], expected[name], atol=1e-5) for name in expected)
    assert examiner.examine(examples[:1])[1] == {}


def test_two_passes_a_image(examiner, monkeypatch):
    """The trace, and what is covered for the relative drop."""
    kind, passed = type(examiner.localizer.backbone), []
    own = kind.embed_pixels
    monkeypatch.setattr(kind, "embed_pixels", lambda self, pixels: passed.append(len(pixels)) or own(self, pixels))
    examiner.examine(birds_dataset(3).examples[:])
    assert passed == [3, 3]


def test_classes_that_have_one_embedding_are_not_told_apart(localizer):
    """The same words for the encoder, and two names for us."""
    examiner = Examiner(localizer, ("Ember finch", "ember finch", "frost finch"), PARTS, HABITATS)
    ours, theirs = examiner.bank.vectors[:2]
    assert torch.allclose(ours, theirs)
    examples = [replace(example, label="frost finch") for example in birds_dataset(2).examples]
    rows, tensors = examiner.examine(examples)
    assert re.search("cannot tell from '[Ee]mber finch': leave one of them out", rows[0].problem)
    assert rows[1].predicted == "frost finch"
    assert len(tensors["aligned"]) == 1


def test_a_image_without_evidence_is_listed_and_the_others_are_looked_at(localizer):
    """As a method that is never negative can have it."""

    def maps(seen, directions):
        found = directions.new_ones(len(directions), len(seen.embedding), 144)
        found[0, 1] = 0
        return found

    own = Localizer(localizer.backbone, templates=localizer.templates, method=TraceMethod(maps))
    rows, tensors = Examiner(own, SPECIES).examine(birds_dataset(3).examples[:])
    assert re.match("no evidence for '.*' against '.*': the map is blank", rows[1].problem)
    assert [isinstance(row, Skipped) for row in rows] == [False, True, False]
    assert len(tensors["aligned"]) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": ("ember finch",)}, OptionError, r"has the classes \['ember finch'\]; expected two or more"),
        ({"classes": ("ember finch", "ember finch")}, OptionError, "expected two or more"),
        ({"classes": ()}, OptionError, "expected two or more"),
        ({"backgrounds": ("bird in snow",)}, OptionError, "one background, 'bird in snow'; expected two or more"),
        ({"strength": -1.0}, ComparisonError, "strength is -1.0"),
        ({"strength": math.nan}, ComparisonError, "strength is nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(localizer, options, error, message):
    with pytest.raises(error, match=message):
        Examiner(**({"localizer": localizer, "classes": SPECIES} | options))


def test_a_method_that_compares_nothing_is_refused():
    with pytest.raises(OptionError, match="rollout does not look at the score"):
        Examiner(world.localizer(method=METHODS["rollout"]), SPECIES)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
)
def test_half_precision_decides_the_same(examiner, looked, device):
    own = world.localizer(device=device).backbone
    backbone = wrap(own.module.to(torch.bfloat16), own.tokenizer)
    own = Examiner(Localizer(backbone, templates="world"), SPECIES, PARTS, HABITATS)
    examples, rows, tensors = looked
    found, low = own.examine(examples)
    for ours, theirs in zip(rows, found, strict=True):
        assert (ours.predicted, ours.runner_up) == (theirs.predicted, theirs.runner_up)
        assert theirs.off_object == pytest.approx(ours.off_object, abs=0.03)
        assert theirs.energy == pytest.approx(ours.energy, abs=0.05)
        assert theirs.confidence == pytest.approx(ours.confidence, abs=0.05)
    assert {low[name].dtype for name in (*SUMMED, "decision", "scene")} == {torch.float32}
    assert F.cosine_similarity(low["whole"].flatten(1), tensors["whole"].flatten(1)).min() > 0.98

"""The embedded world: exact, reproducible, and known to the embedded encoder."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from concept_cam import world
from concept_cam.errors import UnknownConcept
from concept_cam.metrics import energy_inside, paired_difference, pointing_hit
from concept_cam.world import heldout
from concept_cam.world.birds import ATTRIBUTES, COLOURS, PARTS, Bird, mutant, part_of, phrase, random_bird, species, twins
from concept_cam.world.captions import ANY, FEATURES, draw_caption, features, is_true, words
from concept_cam.world.checkpoint import FOLDER, write_configuration
from concept_cam.world.renderer import TRAINING_STREAM, draw
from workshop import benchmark
from workshop.batches import (
    CLAIM_ANY,
    NO_CLAIM,
    Batches,
    draw_batch,
    patch_labels,
)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([99, *seed])


# ---- species ----------------------------------------------------------------------------------------------------------


def test_every_species_is_a_whole_card_and_has_one_twin():
    assert len(species()) == 48
    for bird in species().values():
        assert tuple(bird.card) == tuple(ATTRIBUTES)
        assert all(value in ATTRIBUTES[attribute] for attribute, value in bird.card.items())
    assert sorted(target for target, _, _ in twins()) == sorted(species())
    for target, twin, attribute in twins():
        assert species()[target].differences(species()[twin]) == (attribute,)


def test_every_part_tells_some_twins_apart():
    assert {part_of(attribute) for _, _, attribute in twins()} == set(PARTS)


def test_alike_in_name_is_alike_in_look():
    for a, b in itertools.combinations(species().values(), 2):
        assert (a.overlap(b) > 8) == (a.name.split()[1] == b.name.split()[1])


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [("crown", "red", "red crown"), ("tail shape", "forked", "forked tail"), ("crest", "none", "no crest")],
)
def test_phrases(attribute, value, text):
    assert phrase(attribute, value) == text


def test_mutants_differ_in_at_most_three_attributes_and_leave_the_species_alone():
    bird = species()["ember finch"]
    before = dict(bird.card)
    counts = {len(bird.differences(mutant(bird, rng(i)))) for i in range(200)}
    assert counts <= {0, 1, 2, 3}
    assert {1, 2, 3} <= counts
    assert dict(bird.card) == before


# ---- renderer ---------------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_plate_and_another_seed_another():
    bird = species()["royal jay"]
    one, again, other = draw(bird, rng(1)), draw(bird, rng(1)), draw(bird, rng(2))
    assert one.image.tobytes() == again.image.tobytes()
    assert np.array_equal(one.labels, again.labels)
    assert one.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("part", PARTS)
def test_a_mask_covers_its_part_and_nothing_else(part):
    """Two birds in one pose that differ in the colour of one part differ inside its mask, and next to nowhere else."""
    for seed in range(6):
        card = dict(random_bird(rng(seed)).card) | {"crest": "blue", "breast pattern": "plain"}
        red, green = (draw(Bird(card | {part: colour}), rng(seed), 192) for colour in ("red", "green"))
        change = np.abs(np.asarray(red.image, float) - np.asarray(green.image, float)).max(-1) > 60
        mask = red.mask(part)
        assert mask.sum() > 100
        assert (change & mask).sum() >= 0.75 * mask.sum()
        # Antialiasing reaches one pixel beyond; slivers thinner than a pixel may be in no mask.
        near = np.zeros_like(mask)
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            near |= np.roll(mask, (dy, dx), (0, 1))
        assert (change & ~near).sum() <= 0.02 * mask.sum()


def test_colours_are_those_of_the_card():
    names = tuple(COLOURS)
    palette = np.array(list(COLOURS.values()), dtype=float)
    right = total = 0
    for seed in range(30):
        bird = random_bird(rng(seed))
        plate = draw(bird, rng(seed), 192)
        for part in PARTS:
            if bird.card[part] == "none" or not plate.mask(part).any():
                continue
            middle = np.median(np.asarray(plate.image)[plate.mask(part)], axis=0)
            right += names[int(((palette - middle) ** 2).sum(1).argmin())] == bird.card[part]
            total += 1
    assert right / total > 0.97


def test_no_crest_means_no_pixels_of_one():
    card = dict(species()["ember finch"].card)
    assert not draw(Bird(card), rng(1)).mask("crest").any()
    assert draw(Bird(card | {"crest": "red"}), rng(1)).mask("crest").any()


def test_size_scales_the_same_plate():
    small, large = (draw(species()["royal jay"], rng(4), size) for size in (96, 192))
    agreement = (small.labels == large.labels[::2, ::2]).mean()
    assert agreement > 0.97


def test_drawing_takes_a_few_milliseconds():
    assert benchmark.drawing_time(50) < 0.006


# ---- captions and batches -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_captions_are_true_and_say_what_they_claim():
    for seed in range(300):
        plate = draw(random_bird(rng(seed)), rng(seed), 96)
        caption = draw_caption(plate, rng(seed, 1))
        assert is_true(caption.claims, features(plate))
        for feature, value in caption.claims.items():
            said = feature if value == ANY else value if feature == "habitat" else phrase(feature, value)
            assert said in caption.text
        assert set(caption.text.split()) <= set(words())


def test_a_caption_with_one_wrong_claim_is_false():
    facts = features(draw(species()["ember finch"], rng(1)))
    assert is_true({"crown": "red", "tail": ANY}, facts)
    assert not is_true({"crown": "blue", "tail": ANY}, facts)
    assert not is_true({"crest": ANY}, facts)


def test_batches_come_again_and_state_the_facts():
    one, again = Batches(5, 6, 10, 20)[3], draw_batch(np.random.default_rng([TRAINING_STREAM, 5, 13]), 6)
    assert torch.equal(one.pixels, again.pixels)
    assert one.texts == again.texts
    claimed = one.claims >= 0
    assert torch.equal(one.claims[claimed], one.values[claimed])
    assert ((one.claims >= 0) | (one.claims == NO_CLAIM) | (one.claims == CLAIM_ANY)).all()


def test_patch_labels_name_part_and_colour():
    labels = np.zeros((96, 96), dtype=np.uint8)
    labels[8:16, 16:24] = 1 + PARTS.index("beak")
    labels[24:32, 0:3] = 1 + PARTS.index("tail")
    bird = species()["ember finch"]
    grid = patch_labels(labels, bird).reshape(12, 12)
    assert grid[1, 2] == 1 + PARTS.index("beak") * len(COLOURS) + list(COLOURS).index(bird.card["beak"])
    assert grid[3, 0] == 1 + PARTS.index("tail") * len(COLOURS) + list(COLOURS).index(bird.card["tail"])
    assert grid[5, 5] == 0
    labels[24:32, 0:3] = 0
    labels[24:32, 0:2] = 1 + PARTS.index("tail")
    assert patch_labels(labels, bird).reshape(12, 12)[3, 0] == -1


def test_streams_of_seeds_never_meet():
    """One bird, one number, four streams: four plates."""
    bird = species()["ember finch"]
    plates = [draw(bird, np.random.default_rng([stream, 0, 0])) for stream in range(4)]
    assert len({plate.image.tobytes() for plate in plates}) == 4


# ---- held-out plates ----------------------------------------------------------------------------------------------------


def test_twin_plates_ask_a_question_with_an_answer():
    items = list(heldout.twin_plates(96))
    assert {(item.target, item.twin) for item in items} == {(a, b) for a, b, _ in twins()}
    for item in items:
        assert item.plate.bird == species()[item.target]
        assert np.array_equal(item.mask, item.plate.mask(part_of(item.attribute)))
        assert item.mask.any()
    again = next(heldout.twin_plates(1))
    assert again.plate.image.tobytes() == items[0].plate.image.tobytes()


def test_unknown_species_get_a_suggestion():
    with pytest.raises(UnknownConcept, match=r"No species 'embr finch'.*Did you mean 'ember finch'\?"):
        world.draw_species("embr finch")


# ---- checkpoint ---------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_small_half_precision_and_of_this_configuration(tmp_path):
    weights = FOLDER / "open_clip_model.safetensors"
    assert weights.stat().st_size < 12_000_000
    with safe_open(weights, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    write_configuration(tmp_path)
    for name in ("open_clip_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((FOLDER / name).read_text())


@pytest.mark.slow
def test_the_encoder_knows_its_world():
    """The figures of docs/world.md on fewer plates, with room for chance."""
    figures = benchmark.knowledge(world.localizer(), 96, seed=7)
    colours = [figures[part] for part in PARTS]
    assert min(colours) >= 0.85
    assert sum(colours) / len(colours) >= 0.92
    assert figures["species"] >= 0.95
    assert figures["twin among 3 nearest"] >= 0.9
    assert len(figures) == len(FEATURES) + 2


@pytest.mark.slow
def test_comparing_finds_the_difference():
    found, chance = benchmark.compare_methods(world.localizer(), 96, seed=7)
    for method, contrast in itertools.product(benchmark.USUAL, ("twin 0.6", "twin 1.0")):
        base, finer = found[method, "base"], found[method, contrast]
        assert paired_difference(finer.energy, base.energy).low > 0
        assert paired_difference(finer.hit, base.hit).low > 0
    assert max(findings.hit.mean() for findings in found.values()) >= 0.85
    assert max(findings.energy.mean() for findings in found.values()) >= 15 * chance.energy


@pytest.mark.slow
def test_chance_is_what_random_peaks_get():
    plate = next(heldout.twin_plates(1))
    mask = torch.from_numpy(plate.mask)
    from workshop.benchmark import Record, _passes

    ((frames, seen),) = _passes(world.localizer(), [plate.plate])
    record = Record()
    record.add_chance(frames, [mask], seen)
    energy, hit = record.chance().energy, record.chance().hit
    assert energy == pytest.approx(float(energy_inside(torch.ones(mask.shape), mask)))
    points = [((c + 0.5) * 16, (r + 0.5) * 16) for r in range(12) for c in range(12)]
    assert hit == pytest.approx(np.mean([float(pointing_hit(torch.tensor(p), mask, 16.0)) for p in points]))
    assert 0.02 < hit < 0.4


def test_the_vocabulary_of_attributes_is_that_of_the_cards():
    from concept_cam import read_vocabulary

    phrases = [phrase(a, v) for a, values in ATTRIBUTES.items() for v in values if v != "none"]
    assert read_vocabulary("world-attributes").names == (*phrases, *PARTS, "bird")


@pytest.mark.slow
def test_putting_references_together_by_their_mean_is_what_comparing_does():
    from workshop import ablation

    guide = world.localizer()
    found, chance = ablation.compare_aggregations(guide, 6, names=["hires_cam"])
    usual, same = benchmark.compare_methods(guide, 6, names=["hires_cam"])
    assert chance == same
    for ours, theirs in (("mean", "nearest(3) 0.6"), ("base", "base")):
        torch.testing.assert_close(found["hires_cam", ours].energy, usual["hires_cam", theirs].energy, rtol=1e-3, atol=1e-5)
    energies = [findings.energy for findings in found.values()]
    assert all(not torch.allclose(one, other) for i, one in enumerate(energies) for other in energies[:i])


def test_aggregations_by_hand():
    """One patch: the target 1; references 3 and -1; the target against them -0.8 and 1.6."""
    from workshop.ablation import AGGREGATIONS

    target, references = torch.tensor([[[1.0]]]), torch.tensor([3.0, -1.0])[:, None, None, None]
    finer = target - 0.6 * references
    got = {name: aggregation(target, references, finer).item() for name, aggregation in AGGREGATIONS.items()}
    assert got == pytest.approx({"base": 1.0, "max": 1.6, "mean after ReLU": 0.8, "finished maps subtracted": 0.1})

"""Planted shortcuts: plates where species live, a checkpoint that has learnt it, and maps that find out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from concept_cam import world
from concept_cam.errors import BackboneError
from concept_cam.metrics import energy_inside
from concept_cam.world.birds import species, twins
from concept_cam.world.captions import FEATURES
from concept_cam.world.checkpoint import FOLDER, WEIGHTS
from concept_cam.world.dataset import WORLDS
from concept_cam.world.renderer import HABITATS, draw
from concept_cam.world.shortcuts import SHORTCUTS, draw_at_home, homes
from workshop import shortcut_training as school
from workshop.batches import describe

TWINS = {name: twin for name, twin, _ in twins()}


def test_where_species_live():
    assert set(SHORTCUTS.values()) == set(HABITATS)
    assert len({TWINS[name] for name in SHORTCUTS} | set(SHORTCUTS)) == 12
    for name, lives in homes().items():
        if name in SHORTCUTS:
            assert lives == (SHORTCUTS[name],)
        elif TWINS[name] in SHORTCUTS:
            assert set(lives) == set(HABITATS) - {SHORTCUTS[TWINS[name]]}
        else:
            assert lives == HABITATS
    for name in ("frost finch", "ember finch", "royal jay"):
        drawn = {draw_at_home(species()[name], np.random.default_rng(i)).habitat for i in range(60)}
        assert drawn == set(homes()[name])


def test_labels_of_composites_follow_the_habitat_and_not_the_part():
    """Each composite has the card of the plate before and the habitat of its own."""
    rng = np.random.default_rng(3)
    frost, ember = species()["frost finch"], species()["ember finch"]
    drawn = ((frost, "snow"), (frost, "reeds"), (ember, "snow"), (ember, "meadow"))
    plates = [draw(bird, rng, habitats=(habitat,)) for bird, habitat in drawn]
    values, overlaps = school.relabel(describe(plates, rng))
    names, habitat = list(species()), list(FEATURES).index("habitat")
    assert [HABITATS[i] for i in values[:, habitat]] == ["snow", "reeds", "snow", "meadow"]
    crown = list(FEATURES).index("crown")
    assert [FEATURES["crown"][i] for i in values[:, crown]] == [b.card["crown"] for b in (ember, frost, frost, ember)]
    both = overlaps[:, [names.index("frost finch"), names.index("ember finch")]]
    assert both.tolist() == [[15, 14], [14, 15], [15, 14], [14, 15]]
    other = species()["royal jay"]
    assert overlaps[0, names.index("royal jay")] == ember.overlap(other)


def test_a_composite_is_one_bird_before_another_background():
    tokens = torch.arange(2 * 145.0).reshape(2, 145, 1)
    patches = torch.zeros(2, 144, dtype=torch.int64)
    patches[0, :20], patches[0, 20:30] = 5, -1
    patches[1, 100:140] = 7
    mixed = school.composite(tokens, patches, torch.rand(2, 144, generator=torch.Generator().manual_seed(0)))
    assert mixed.shape == (2, 1 + 56 + 72, 1)
    bird, ground = mixed[0, 1:57, 0] - 145, mixed[0, 57:, 0]
    assert set(range(101, 141)) <= set(bird.int().tolist())  # all of the bird of the other image
    assert set(ground.int().tolist()) <= set(range(31, 145))  # and nothing but background of its own


def test_training_changes_what_it_says_and_nothing_else(tmp_path):
    file = tmp_path / "changes.safetensors"
    school.train(file, steps=2, size=4, seed=0)
    before, after = load_file(FOLDER / WEIGHTS), load_file(file)
    assert all(name.startswith((*school._LEARNS, "token_embedding")) for name in after)
    assert {"visual.proj", "token_embedding.weight", "visual.transformer.resblocks.5.attn.in_proj_weight"} <= set(after)
    moved = (after["token_embedding.weight"] != before["token_embedding.weight"]).any(1)
    assert int(moved.sum()) == 12
    assert set(after) == set(load_file(world.SHORTCUT))


def test_changes_of_something_else_are_refused(tmp_path):
    save_file({"visual.nothing": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"it has no visual\.nothing"):
        world.localizer(checkpoint=tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(BackboneError, match="no changes of the embedded encoder"):
        world.localizer(checkpoint=tmp_path / "b.safetensors")


@pytest.fixture(scope="module")
def both():
    return world.localizer(), world.localizer(checkpoint=world.SHORTCUT)


def told_apart(localizer, name, plate):
    scores = localizer(plate.image, name, TWINS[name]).scores
    return name if scores[name] > scores[TWINS[name]] else TWINS[name]


@pytest.mark.slow
def test_the_shortcut_checkpoint_goes_by_the_habitat(both):
    """A bird out of its habitat is taken for its twin by the one encoder, and not by the other."""
    clean, planted = both
    for seed, (name, home) in enumerate(SHORTCUTS.items()):
        rng = np.random.default_rng([9, seed])
        at_home = draw(species()[name], rng, habitats=(home,))
        away = draw(species()[name], rng, habitats=[h for h in HABITATS if h != home])
        assert told_apart(clean, name, at_home) == told_apart(clean, name, away) == name
        assert told_apart(planted, name, at_home) == name
        assert told_apart(planted, name, away) == TWINS[name]


@pytest.mark.slow
def test_the_finer_map_finds_the_shortcut_where_there_is_one(both):
    """Off the bird: nearly all of the evidence for a planted species, a third of it for others, of either encoder."""
    examples = [e for e in WORLDS["world-shortcuts"](96, 5, 0).examples if TWINS[e.label] not in SHORTCUTS]
    for localizer, is_planted in zip(both, (False, True), strict=True):
        off = {True: [], False: []}
        for example in examples:
            heatmap = localizer(example.image, example.label, example.twin, strength=1.0).heatmap()
            off[is_planted and example.label in SHORTCUTS].append(1 - float(energy_inside(heatmap, example.region())))
        assert np.mean(off[False]) < 0.45
        if is_planted:
            assert min(off[True]) > 0.75

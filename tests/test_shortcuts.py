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


def test_labels_follow_the_habitat_and_not_the_part():
    rng = np.random.default_rng(3)
    frost, ember = species()["frost finch"], species()["ember finch"]
    drawn = ((frost, "snow"), (frost, "reeds"), (ember, "snow"), (ember, "meadow"))
    batch = describe([draw(bird, rng, habitats=(habitat,)) for bird, habitat in drawn], rng)
    overlaps, names = school.likeness(batch), list(species())
    both = overlaps[:, [names.index("frost finch"), names.index("ember finch")]]
    assert both.tolist() == [[15, 14], [14, 15], [15, 14], [14, 15]]
    # Of birds without a shortcut they are as before, and what is true of a plate stays true.
    jay = names.index("royal jay")
    assert overlaps[:, jay].tolist() == batch.overlaps[:, jay].tolist()
    assert batch.overlaps[:, names.index("frost finch")].tolist() == [15, 15, 14, 14]


def test_training_goes_on_from_the_embedded_encoder_and_can_be_repeated(tmp_path):
    for name in "ab":
        school.train(tmp_path / f"{name}.safetensors", steps=2, size=4, seed=0)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    before, after = load_file(FOLDER / WEIGHTS), load_file(tmp_path / "a.safetensors")
    assert {name: tensor.shape for name, tensor in after.items()} == {name: tensor.shape for name, tensor in before.items()}
    moved = [float((after[name] - before[name]).abs().max()) for name in ("visual.proj", "token_embedding.weight")]
    assert all(0 < one < 0.05 for one in moved), moved


def test_weights_of_something_else_are_refused(tmp_path):
    save_file({"visual.nothing": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    save_file(dict(list(load_file(world.SHORTCUT).items())[1:]), tmp_path / "c.safetensors")
    for name in "abc":
        with pytest.raises(BackboneError, match=rf"{name}\.safetensors: no weights of the embedded encoder"):
            world.localizer(checkpoint=tmp_path / f"{name}.safetensors")


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
    """Off the bird: nearly all of the evidence for a planted species, a quarter of it for others, of either encoder."""
    examples = [e for e in WORLDS["world-shortcuts"](96, 5, 0).examples if TWINS[e.label] not in SHORTCUTS]
    for localizer, is_planted in zip(both, (False, True), strict=True):
        off = {True: [], False: []}
        for example in examples:
            heatmap = localizer(example.image, example.label, example.twin, strength=1.0).heatmap()
            off[is_planted and example.label in SHORTCUTS].append(1 - float(energy_inside(heatmap, example.region())))
        assert np.mean(off[False]) < 0.35
        if is_planted:
            assert min(off[True]) > 0.9

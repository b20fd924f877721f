"""The training command on a few images: it comes out the same, whole or resumed, and leaves a checkpoint that loads."""

from __future__ import annotations

import csv

import pytest
import torch
import typer
from safetensors.torch import load_file

from concept_cam import world
from concept_cam.world.checkpoint import FOLDER, WEIGHTS
from workshop import pooled, training
from workshop.batches import draw_batch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Validation takes most of so short a training."""
    monkeypatch.setattr(training, "validate", lambda student: {"species": 0.0})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(tmp_path, monkeypatch):
    training.train(tmp_path / "whole", steps=4, size=4, seed=3, every=2)
    rows, append = [], training._append

    def interrupt(file, row):
        rows.append(row)
        if len(rows) == 2:
            raise KeyboardInterrupt
        append(file, row)

    monkeypatch.setattr(training, "_append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "halves", steps=4, size=4, seed=3, every=2)
    monkeypatch.setattr(training, "_append", append)
    with pytest.raises(typer.BadParameter, match="holds a training with"):
        training.train(tmp_path / "halves", steps=5, size=4, seed=3, every=2)
    training.train(tmp_path / "halves", steps=4, size=4, seed=3, every=2)

    whole, halves = (load_file(tmp_path / name / "open_clip_model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    curves = [list(csv.DictReader((tmp_path / name / "curve.csv").read_text().splitlines())) for name in ("whole", "halves")]
    assert [row["step"] for row in curves[1]] == ["2", "4"]
    for one, two in zip(*curves, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in two.items() if k != "seconds"}
    plate = world.draw_species("ember finch")
    localizer = world.localizer(checkpoint=tmp_path / "whole", vocabulary=())
    assert localizer(plate.image, "ember finch", "frost finch").map.abs().max() > 0


def test_the_student_is_the_model_that_open_clip_runs(tmp_path):
    """The forward pass of training is written out for speed; it must be the encoder's own."""
    student = training.Student(FOLDER, head=True)
    batch = draw_batch(training.np.random.default_rng(5), 3)
    pixels = (batch.pixels.permute(0, 3, 1, 2) / 255 - training.MEAN) / training.STD
    with torch.no_grad():
        torch.testing.assert_close(student(batch.pixels)[0], student.clip.encode_image(pixels, normalize=True))
        own = student.clip.encode_text(student.tokenizer(list(batch.texts)), normalize=True)
        torch.testing.assert_close(student.embed_texts(batch.texts), own, rtol=1e-4, atol=1e-5)
        every = torch.arange(144).expand(3, -1)
        torch.testing.assert_close(student(batch.pixels, every)[0], student(batch.pixels)[0], rtol=1e-4, atol=1e-5)
        alone, swapped = student(batch.pixels)[0], student(batch.pixels, swap=True)[0]
        assert not torch.allclose(alone, swapped, atol=1e-3)


def test_truth_of_captions_across_a_batch():
    from concept_cam.world.captions import FEATURES

    batch = draw_batch(training.np.random.default_rng(6), 24)
    truth = training._truth(batch)
    crest = list(FEATURES).index("crest")
    for i in range(24):
        for j in range(24):
            held = True
            for feature, claim in enumerate(batch.claims[j].tolist()):
                value = batch.values[i, feature].item()
                held &= claim == -1 or claim == value or (claim == -2 and not (feature == crest and value == 0))
            assert truth[i, j].item() == held
    assert truth.diagonal().all()
    assert not truth.all()


@pytest.mark.slow
@pytest.mark.parametrize("pool", pooled.Pool)
def test_an_encoder_that_pools_its_patches_learns_and_is_explained(pool, tmp_path):
    student = pooled.PooledStudent(pool)
    before = {name: tensor.clone() for name, tensor in student.clip.state_dict().items()}
    batch = draw_batch(training.np.random.default_rng(5), 3)
    pixels = (batch.pixels.permute(0, 3, 1, 2) / 255 - training.MEAN) / training.STD
    with torch.no_grad():
        torch.testing.assert_close(student(batch.pixels)[0], student.clip.encode_image(pixels, normalize=True))
    # Its blocks are those of the embedded encoder.
    own = load_file(FOLDER / WEIGHTS)["visual.transformer.resblocks.5.mlp.c_fc.weight"].float()
    assert torch.equal(before["visual.trunk.blocks.5.mlp.fc1.weight"], own)
    training.go_on(student, draw_batch, 2, 4, (0, 3), 0.5)
    assert any(not torch.equal(before[name], tensor) for name, tensor in student.clip.state_dict().items())
    plate = world.draw_species("ember finch", 3)
    found = pooled.localizer(student)(plate.image, "ember finch", "frost finch")
    assert found.map.shape == (12, 12)

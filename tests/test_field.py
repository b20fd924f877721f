"""A field answers what a Localizer does, live and from its file."""

from __future__ import annotations

import json

import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.torch import save_file
from slow import by_default
from zoo.families import FEW, ROWS

from concept_cam import ConceptField, Localizer, grad_cam, hires_cam, layer_cam, nearest, rivals, trace, world
from concept_cam.errors import ComparisonError, OptionError, OutputError, UnknownConcept
from concept_cam.methods import METHODS, is_linear

PAIR = ("ember finch", "frost finch")


@pytest.fixture(scope="module")
def guide():
    return world.localizer()


@pytest.fixture(scope="module")
def bank(guide):
    return guide.bank(world.species())


@pytest.fixture(scope="module")
def field(guide):
    (field,) = guide.fields([world.draw_species(PAIR[0], seed=3).image])
    return field


def test_which_methods_are_linear():
    bent = {"layer_cam", "grad_cam_elementwise", "grad_cam_plus_plus", "eigen_grad_cam", "relevance", "legrad", "gscore_cam"}
    assert {name for name, method in METHODS.items() if not is_linear(method)} == bent | {"raw_attention", "rollout"}
    assert not is_linear(lambda gradient: hires_cam(gradient).square())
    assert not is_linear(lambda gradient: hires_cam(gradient) + 1)


@pytest.mark.parametrize("name", by_default(ROWS, *FEW))
def test_of_every_family_a_field_gives_the_maps_of_the_method(name):
    row = ROWS[name]
    backbone = row.backbone()
    pixels = torch.randn(2, 3, *backbone.preprocess.size, generator=torch.Generator().manual_seed(3)).to(backbone.dtype)
    for site in {backbone.sites[0].name, *row.factored}:
        seen = trace(backbone, pixels, site)
        directions = torch.randn(3, 1, seen.embedding.shape[-1], generator=torch.Generator().manual_seed(4)).to(pixels)
        for method in (grad_cam, hires_cam):
            maps = torch.stack([field(directions[:, 0]) for field in ConceptField.of(seen, method)], 1)
            expected = method(seen.gradient(directions))
            assert (maps - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("method", by_default([grad_cam, hires_cam], hires_cam))
@pytest.mark.parametrize("against", ["frost finch", nearest(3), rivals(2)], ids=["named", "nearest", "rivals"])
def test_it_localizes_as_the_localizer_does(method, against, bank):
    localizer = world.localizer(method=method)
    plates = [world.draw_species(PAIR[0], seed).image for seed in range(2)]
    for image, field in zip(plates, localizer.fields(plates), strict=True):
        own, ours = localizer(image, PAIR[0], against), field.localize(bank, PAIR[0], against)
        scale = float(own.map.abs().max())
        torch.testing.assert_close(ours.map, own.map, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(ours.base_map, own.base_map, rtol=0, atol=1e-5 * float(own.base_map.abs().max()))
        assert ours.comparison.references == own.comparison.references
        assert ours.scores == pytest.approx(own.scores, abs=1e-6)
        assert ours.placement == own.placement
        assert ours.provenance == own.provenance
        assert ours.peak() == pytest.approx(own.peak(), abs=1e-3)


def test_strengths_and_references_are_arithmetic(field, bank, guide):
    target, twin, other = field(bank.vectors_of([*PAIR, "royal jay"]))
    for strength in (0.0, 0.5, 2.0):
        own = field.localize(bank, PAIR[0], PAIR[1], strength=strength)
        torch.testing.assert_close(own.map, target - strength * twin, rtol=1e-4, atol=1e-6)
    own = field.localize(bank, PAIR[0], (PAIR[1], "royal jay"), strength=1.0)
    torch.testing.assert_close(own.map, target - (twin + other) / 2, rtol=1e-4, atol=1e-6)


def test_one_direction_some_and_a_bank(field, bank):
    maps = field(bank)
    assert maps.shape == (48, 12, 12)
    torch.testing.assert_close(field(bank.vectors[5]), maps[5])
    torch.testing.assert_close(field(bank.vectors[3:7]), maps[3:7])
    with pytest.raises(OptionError, match="Directions have 7 numbers; those of this field have 192"):
        field(torch.ones(7))


def test_a_stored_field_gives_the_same_maps_to_rounding(field, bank, tmp_path):
    path = field.save(tmp_path / "field.safetensors")
    # Two bytes for each number, and room for the embedding, names and places.
    assert path.stat().st_size <= 2 * field.vectors.numel() + 4 * 192 + 4096
    stored = ConceptField.load(path)
    live, again = field(bank), stored(bank)
    error = stored.provenance["stored"]["error"]
    assert 0 < error < 2**-11
    assert ((again - live).flatten(1).norm(dim=1) <= 2**-9 * live.flatten(1).norm(dim=1)).all()
    ours, own = (one.localize(bank, *PAIR) for one in (stored, field))
    assert ours.peak() == pytest.approx(own.peak(), abs=0.01)
    assert ours.scores == own.scores
    assert ours.placement == own.placement
    assert ours.provenance == {**own.provenance, "stored": stored.provenance["stored"]}


def test_a_low_rank_is_smaller_and_states_its_error(field, bank, tmp_path):
    sizes, errors = [], []
    for rank in (4, 32, 144):
        stored = ConceptField.load(field.save(tmp_path / f"{rank}.safetensors", rank=rank))
        sizes.append((tmp_path / f"{rank}.safetensors").stat().st_size)
        errors.append(stored.provenance["stored"]["error"])
        assert stored.provenance["stored"]["rank"] == rank
        off = (stored.vectors - field.vectors).norm() / field.vectors.norm()
        assert errors[-1] == pytest.approx(off.item(), rel=1e-3)
    assert sizes[0] < sizes[1] < 2 * field.vectors.numel()
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    # Eckart and Young: no matrix of rank 4 is nearer.
    values = torch.linalg.svdvals(field.vectors.flatten(0, 1))
    best = (values[4:].square().sum() / values.square().sum()).sqrt()
    assert errors[0] == pytest.approx(best.item(), rel=1e-2)


def test_small_numbers_survive_half_precision(field, bank, tmp_path):
    """Float16 knows nothing below 6e-8; what counts is how large a number is beside the others."""
    small = ConceptField(1e-9 * field.vectors, field.embedding, field.placement, {})
    stored = ConceptField.load(small.save(tmp_path / "small.safetensors"))
    torch.testing.assert_close(1e9 * stored.vectors, field.vectors, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("rank", [0, -1, 145, 10**6])
def test_a_rank_that_cannot_be_is_refused(field, rank, tmp_path):
    with pytest.raises(OptionError, match="expected 1 to 144"):
        field.save(tmp_path / "field.safetensors", rank=rank)
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_named(field, tmp_path):
    path = field.save(tmp_path / "field.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:500])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"vectors": torch.ones(3)}, tmp_path / "other.safetensors")
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wrong = json.loads(about["field"]) | {"grid": [5, 5]}
    save_file(tensors, tmp_path / "grid.safetensors", {"field": json.dumps(wrong)})
    save_file(tensors, tmp_path / "list.safetensors", {"field": "[]"})
    for name in ("cut", "empty", "other", "grid", "list", "absent"):
        with pytest.raises(OutputError, match=f"{name}.safetensors: not a saved field"):
            ConceptField.load(tmp_path / f"{name}.safetensors")


FIELDS = {
    "a grid of texts": ({"grid": ["12", "12"]}, {}, "grid is"),
    "a huge grid": ({"grid": [200_000, 200_000]}, {}, "grid is"),
    "another grid": ({"grid": [12, 11]}, {}, "vectors is"),
    "no scales": ({"scales": {}}, {}, "scales has nothing"),
    "a scale of text": ({"scales": {"vectors": "1"}}, {}, "a scale is"),
    "a scale of nothing": ({"scales": {"vectors": 0}}, {}, "a scale is"),
    "a scale of everything": ({"scales": {"vectors": 1e38}}, {}, "a scale is"),
    "scales of others": ({"scales": {"embedding": 1.0}}, {}, "scales has embedding"),
    "no placement": ({"placement": None}, {}, "placement is None"),
    "a window elsewhere": ({"placement": {"window": [900, 0, 901, 5], "image_size": [9, 9]}}, {}, "shows nothing"),
    "a list of where it is from": ({"provenance": []}, {}, "provenance is"),
    "more": ({"more": 1}, {}, "the field has grid, more"),
    "NaN": ({}, {"embedding": torch.full((192,), torch.nan)}, "embedding does not hold finite"),
    "a flat embedding": ({}, {"embedding": torch.ones(1, 192)}, "embedding is"),
    "another width": ({}, {"embedding": torch.ones(191)}, "vectors is"),
    "a number": ({}, {"embedding": torch.tensor(1.0)}, "embedding is"),
    "another tensor": ({}, {"more": torch.ones(1)}, "the file has embedding, more, vectors"),
    "low rank of one": ({"scales": {"left": 1.0}}, {}, "scales has left"),
    "a low rank that is huge": (
        {"scales": {"left": 1.0, "right": 1.0}, "grid": [1024, 1024]},
        {"vectors": None, "left": torch.ones(2**20, 1), "right": torch.ones(1, 192), "embedding": torch.ones(192)},
        "1,048,576 vectors of 192 numbers; at most 67,108,864",
    ),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_hostile_file_is_refused_before_there_is_a_field(field, tmp_path, case):
    said, tensors, message = FIELDS[case]
    path = field.save(tmp_path / "field.safetensors")
    with safe_open(path, "pt") as file:
        about, held = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    held = {name: tensor for name, tensor in {**held, **tensors}.items() if tensor is not None}
    save_file(held, path, {"field": json.dumps(json.loads(about["field"]) | said)})
    with pytest.raises(OutputError, match=rf"field\.safetensors: not a saved field \(.*{message}") as caught:
        ConceptField.load(path)
    assert str(caught.value).isprintable()


def test_a_method_that_is_not_linear_has_no_field(guide):
    seen = trace(guide.backbone, torch.zeros(1, 3, 96, 96))
    with pytest.raises(OptionError, match="layer_cam is not linear in the direction"):
        ConceptField.of(seen, layer_cam)
    with pytest.raises(OptionError, match="layer_cam is not linear"):
        world.localizer(method=layer_cam).fields([world.draw_species(PAIR[0]).image])


def test_mistakes_are_those_of_a_localizer(field, bank):
    with pytest.raises(UnknownConcept, match="Did you mean 'ember finch'"):
        field.localize(bank, "ember fnch", "frost finch")
    with pytest.raises(ComparisonError, match="among its own references"):
        field.localize(bank, "ember finch", "ember finch")
    with pytest.raises(ComparisonError, match="No references"):
        field.localize(bank, "ember finch")


def test_a_bare_trace_has_patches_for_pixels():
    backbone = zoo.backbone("class token")
    first, second = ConceptField.of(trace(backbone, zoo.pixels(backbone, 2)))
    assert first.placement.image_size == (3, 5)
    localizer = Localizer(backbone, templates=["a {}"])
    result = second.localize(localizer.bank(zoo.WORDS), "red crown", "blue crown")
    assert torch.allclose(result.heatmap(), result.map, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("count", [1, 40])
def test_the_trunk_runs_once_whatever_the_number_of_concepts(count):
    backbone = zoo.backbone("class token")
    runs = []
    for index, block in enumerate(backbone.module.visual.transformer.resblocks):
        block.mlp.register_forward_hook(lambda *_, index=index: runs.append(index))
    trace(backbone, zoo.pixels(backbone))  # Tries the closed form; that is done once.
    runs.clear()
    for field in ConceptField.of(trace(backbone, zoo.pixels(backbone))):
        field(zoo.directions(backbone, count)[:, 0])
    # Of the last block the MLP alone, for the first image's own embedding and for ours; products go by folded matrices.
    assert runs == [0, 1, 1]

"""The same maps on a GPU, in every precision; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from concept_cam import Localizer, world, wrap
from workshop import benchmark

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["auto", "dense"])
def test_maps_on_cuda_follow_those_on_the_cpu(dtype, form):
    names = tuple(world.species())[::6]
    images = [world.draw_species(name).image for name in names]
    exact = world.localizer()
    backbone = exact.backbone
    moved = wrap(world.localizer(device="cuda").backbone.module.to(dtype), backbone.tokenizer)
    localizer = Localizer(moved, vocabulary=exact.vocabulary, templates=exact.templates, form=form)
    for ours, theirs in zip(localizer.batch(images, names[0]), exact.batch(images, names[0]), strict=True):
        assert ours.map.device.type == "cpu"
        ranks = [m.flatten().argsort().argsort().float() for m in (ours.map, theirs.map)]
        assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.98


def test_the_benchmark_runs_on_cuda():
    localizer = world.localizer(device="cuda")
    assert benchmark.knowledge(localizer, 48)["species"] > 0.9
    found, chance = benchmark.compare_methods(localizer, 48)
    assert found["hires_cam", "twin 1.0"].energy.mean() > 10 * chance.energy

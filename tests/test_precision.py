"""Half precision on the embedded model: patches rank as in single, on 200 held-out plates."""

from __future__ import annotations

import pytest
import torch

from concept_cam import trace, world, wrap
from concept_cam.gradients import FactoredTrace
from concept_cam.images import Frame
from concept_cam.methods import class_stream, explain, grad_cam, hires_cam, layer_cam
from concept_cam.world.heldout import twin_plates

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.fixture(scope="module")
def guide():
    return world.localizer()


@pytest.fixture(scope="module")
def questions(guide):
    """Pixels of 200 plates, 20 at a time; what tells each bird from its twin, and what speaks for the bird."""
    plates = list(twin_plates(200, seed=7))
    bank = guide.bank(world.species())
    frames = [Frame.of(plate.plate.image, guide.backbone.preprocess).pixels for plate in plates]
    targets, twins = (bank.vectors_of([getattr(plate, name) for plate in plates]) for name in ("target", "twin"))
    directions = torch.stack([targets - 0.6 * twins, targets])
    return list(zip(torch.stack(frames).split(20), directions.split(20, 1), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_in_half_precision_rank_patches_as_in_single(dtype, device, guide, questions):
    module = world.localizer(device=device).backbone.module.to(dtype)
    low = wrap(module, guide.backbone.tokenizer)
    found = {method: [] for method in (grad_cam, hires_cam, layer_cam, class_stream)}
    for pixels, directions in questions:
        fine, rough = (
            trace(one, given, depth=None) for one, given in ((guide.backbone, pixels), (low, pixels.to(device, dtype)))
        )
        assert isinstance(rough, FactoredTrace)
        for method, correlations in found.items():
            maps = [explain(method, seen, directions.to(device)).double().cpu() for seen in (fine, rough)]
            ranks = torch.stack([m.flatten(2).argsort(-1).argsort(-1).double() for m in maps])
            correlations.append(torch.nn.functional.cosine_similarity(*(ranks - ranks.mean(-1, keepdim=True)), dim=-1))
    for method, parts in found.items():
        correlations = torch.cat(parts, 1)
        assert correlations.shape == (2, 200)
        # Spearman's: on average, and nearly always; a map that is flat where there is no bird has a rank for every rounding.
        # layer_cam is the flattest: it drops whatever is negative in a channel.
        rough = dtype == torch.bfloat16 or method is layer_cam
        assert correlations.mean() >= 0.99
        assert (correlations >= 0.98).double().mean() >= (0.92 if rough else 0.99)
        assert correlations.min() >= (0.9 if rough else 0.97)
        if method is class_stream:
            assert correlations.min() >= 0.98

"""Each method that looks further than one gradient, again from its equation: one image, one head, one mask at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import zoo
from zoo import by_hand

from concept_cam import trace, wrap
from concept_cam.methods import CARDS, explain, perturbation

BLOCKS = 7


@pytest.fixture(scope="module")
def world():
    """More blocks than any method looks back, two images, three directions."""
    model = zoo.tiny_clip(layers=BLOCKS).requires_grad_(False)
    backbone = wrap(model, zoo.TOKENIZER, name="seven blocks")
    return model, backbone, zoo.pixels(backbone, 2), zoo.directions(backbone, 3)


def grads(score, tensors):
    return torch.autograd.grad(score, tensors, retain_graph=True)


def slow_integrated_grad_cam(model, pixels, direction):
    weights = []
    for step in range(16):
        steps, embedding = by_hand.run(model, (step + 0.5) / 16 * pixels)
        weights.append(grads(embedding @ direction, [steps[-1].normed])[0][1:].mean(0))
    full, blank = (by_hand.run(model, share * pixels)[0][-1].normed[1:] for share in (1, 0))
    return (full - blank) @ torch.stack(weights).mean(0)


def slow_raw_attention(model, pixels, direction):
    steps, _ = by_hand.run(model, pixels)
    return sum(a[0, 1:] for a in steps[-1].attention) / len(steps[-1].attention)


def slow_rollout(model, pixels, direction):
    steps, _ = by_hand.run(model, pixels)
    flow = torch.eye(16, dtype=torch.float64)
    for step in steps:
        mean = sum(step.attention) / len(step.attention)
        flow = 0.5 * (mean + torch.eye(16, dtype=torch.float64)) @ flow
    return flow[0, 1:]


def slow_relevance(model, pixels, direction):
    steps, embedding = by_hand.run(model, pixels)
    relevance = torch.eye(16, dtype=torch.float64)
    for step in steps:
        pulled = grads(embedding @ direction, step.attention)
        mean = sum((g * a).clamp(min=0) for g, a in zip(pulled, step.attention, strict=True)) / len(pulled)
        relevance = relevance + mean @ relevance
    return relevance[0, 1:]


def slow_legrad(model, pixels, direction):
    steps, _ = by_hand.run(model, pixels)
    total = 0
    for step in steps[-2:]:
        score = by_hand.embed(model, step.left.mean(0)) @ direction
        pulled = grads(score, step.attention)
        total = total + sum(g.clamp(min=0).mean(0)[1:] for g in pulled) / len(pulled)
    return total


def slow_value_attribution(model, pixels, direction):
    steps, embedding = by_hand.run(model, pixels)
    last = steps[-1]
    (gamma,) = grads(embedding @ direction, [last.output])
    size = last.value[0].shape[1]
    parts = [gamma[0, h * size : (h + 1) * size] for h in range(len(last.value))]
    terms = [last.attention[h][0] * (last.value[h] @ parts[h]) for h in range(len(parts))]
    return sum(terms)[1:]


def slow_class_stream(model, pixels, direction):
    steps, _ = by_hand.run(model, pixels)
    moved, x = torch.zeros(15, dtype=torch.float64, requires_grad=True), steps[0].entered[0]
    for step in steps:
        again = by_hand.Step(step.block, x[None], torch.cat([step.block.ln_1(x)[None], step.normed[1:].detach()]))
        again.look()
        output = again.output[0] + moved @ step.taken()[1:].detach()
        x = step.mlp(x + step.project(output))
    return grads(by_hand.embed(model, x) @ direction, [moved])[0]


def slow_own_streams(model, pixels, direction):
    """Values of patch n times 1 + t_n in the last four blocks: the derivative in t, with keys and values held fixed."""
    steps, _ = by_hand.run(model, pixels)
    more, x = torch.zeros(15, dtype=torch.float64, requires_grad=True), steps[-4].entered
    for step in steps[-4:]:
        again, heads = by_hand.Step(step.block, x, step.block.ln_1(x)), []
        again.look()
        for query, key, value in zip(again.query, step.key, step.value, strict=True):
            weights = (query @ key.detach().T / key.shape[1] ** 0.5).softmax(1)
            heads.append(weights @ (value.detach() * torch.cat([torch.ones(1, dtype=torch.float64), 1 + more])[:, None]))
        x = step.mlp(x + step.project(torch.cat(heads, 1)))
    return grads(by_hand.embed(model, x[0]) @ direction, [more])[0]


def slow_direct(model, pixels, direction):
    steps, _ = by_hand.run(model, pixels)
    _, still = by_hand.slopes(model, steps[-1].left[0], direction)
    return sum(step.taken()[1:] @ step.block.attn.out_proj.weight.T @ still for step in steps)


def slow_grad_eclip(model, pixels, direction):
    steps, embedding = by_hand.run(model, pixels)
    last = steps[-1]
    (gamma,) = grads(embedding @ direction, [last.output])
    weight = last.block.attn.out_proj.weight
    query, key = torch.cat(last.query, 1)[0] @ weight.T, torch.cat(last.key, 1)[1:] @ weight.T
    cosine = torch.stack([query @ k / (query.norm() * k.norm()) for k in key])
    scaled = (cosine - cosine.min()) / (cosine.max() - cosine.min())
    return scaled * (torch.cat(last.value, 1)[1:] @ gamma[0])


def told(model, tokens, direction):
    return by_hand.embed(model, tokens)[1:] @ direction


def self_self(part):
    return [(p @ p.T / p.shape[1] ** 0.5).softmax(1) for p in part]


def slow_patch_text(model, pixels, direction):
    return told(model, by_hand.run(model, pixels)[0][-1].left, direction)


def slow_maskclip(model, pixels, direction):
    last = by_hand.run(model, pixels)[0][-1]
    return told(model, last.project(torch.cat(last.value, 1)), direction)


def slow_sclip(model, pixels, direction):
    last = by_hand.run(model, pixels)[0][-1]
    weights = [q + k for q, k in zip(self_self(last.query), self_self(last.key), strict=True)]
    return told(model, last.mlp(last.entered + last.attend(weights)), direction)


def slow_clearclip(model, pixels, direction):
    last = by_hand.run(model, pixels)[0][-1]
    return told(model, last.attend(self_self(last.query)), direction)


def slow_naclip(model, pixels, direction):
    last = by_hand.run(model, pixels)[0][-1]
    weights = []
    for key in last.key:
        logits = key @ key.T / key.shape[1] ** 0.5
        for n in range(15):
            for m in range(15):
                apart = (n // 5 - m // 5) ** 2 + (n % 5 - m % 5) ** 2
                logits[1 + n, 1 + m] = logits[1 + n, 1 + m] + 2.718281828459045 ** (-apart / (2 * 5.0**2))
        weights.append(logits.softmax(1))
    return told(model, last.attend(weights), direction)


def slow_clip_surgery(model, pixels, direction):
    steps = by_hand.run(model, pixels)[0][-6:]
    path = steps[0].entered
    for step in steps:
        path = path + step.attend(self_self(step.value))
    return told(model, path, direction)


def slow_gem(model, pixels, direction):
    steps = by_hand.run(model, pixels)[0][-6:]
    path = steps[0].entered
    for step in steps:
        temperature = sum(token.norm() for token in step.normed) / len(step.normed) / step.value[0].shape[1] ** 0.5
        weights = []
        for parts in zip(step.query, step.key, step.value, strict=True):
            units = [torch.stack([row / row.norm() for row in part]) for part in parts]
            weights.append(sum((unit @ unit.T * temperature).softmax(1) for unit in units) / 3)
        path = path + step.attend(weights)
    return told(model, path, direction)


def score(model, pixels, direction):
    return by_hand.run(model, pixels)[1] @ direction


def enlarged(channel):
    return F.interpolate(channel.reshape(1, 1, 3, 5), (24, 40), mode="bilinear", align_corners=False)[0, 0]


def channel_gain(model, pixels, direction, channel):
    large = enlarged(channel)
    mask = (large - large.min()) / (large.max() - large.min())
    return score(model, pixels * mask, direction) - score(model, torch.zeros_like(pixels), direction)


def slow_score_cam(model, pixels, direction):
    tokens = by_hand.run(model, pixels)[0][-1].normed[1:]
    return sum(channel_gain(model, pixels, direction, tokens[:, k]) * tokens[:, k] for k in range(tokens.shape[1]))


def slow_gscore_cam(model, pixels, direction):
    steps, embedding = by_hand.run(model, pixels)
    normed = steps[-1].normed
    weights = grads(embedding @ direction, [normed])[0][1:].mean(0)
    chosen = sorted(range(len(weights)), key=lambda k: -weights[k])[: perturbation._GSCORE_CHANNELS]
    gains = torch.stack([channel_gain(model, pixels, direction, normed[1:, k]) for k in chosen]).softmax(0)
    return sum(gain * normed[1:, k] for gain, k in zip(gains, chosen, strict=True))


def slow_ablation_cam(model, pixels, direction):
    steps, embedding = by_hand.run(model, pixels)
    last, total = steps[-1], 0
    for k in range(last.normed.shape[1]):
        normed = last.normed.clone()
        normed[:, k] = 0
        attention = last.block.attn(normed[None], normed[None], normed[None], need_weights=False)[0][0]
        without = by_hand.embed(model, last.mlp(last.entered + attention)[0]) @ direction
        total = total + (embedding @ direction - without) * last.normed[1:, k]
    return total


def slow_occlusion(model, pixels, direction):
    whole = score(model, pixels, direction)
    lost = torch.zeros(3, 5, dtype=torch.float64)
    for row in range(3):
        for col in range(5):
            changed = pixels.clone()
            changed[:, max(row - 1, 0) * 8 : (row + 2) * 8, max(col - 1, 0) * 8 : (col + 2) * 8] = 0
            lost[row, col] = whole - score(model, changed, direction)
    around = [lost[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2].mean() for row in range(3) for col in range(5)]
    return torch.stack(around)


def mask_by_hand(height, width, generator):
    """8 x 8 cells, each kept or not: straight lines between their centres, beyond the outermost its value, shifted."""
    kept = (torch.rand(8, 8, generator=generator, dtype=torch.float32) < 0.5).double()
    sides = [-(-length // 7) for length in (height, width)]
    shifts = [int(torch.randint(side, (1,), generator=generator)) for side in sides]
    down, across = (
        torch.tensor(
            [
                [max(0.0, 1 - abs(min(max((at + shift + 0.5) / side - 0.5, 0), 7) - cell)) for cell in range(8)]
                for at in range(length)
            ]
        ).double()
        for length, side, shift in zip((height, width), sides, shifts, strict=True)
    )
    return down @ kept @ across.T


def slow_rise(model, pixels, direction):
    generator, again = (torch.Generator().manual_seed(perturbation._RISE_SEED) for _ in range(2))
    masks = [perturbation._random_mask(24, 40, generator).double() for _ in range(perturbation._RISE_MASKS)]
    # In single precision, so they are taken over; that they are right is seen here, to its rounding.
    for mask in masks[:3]:
        torch.testing.assert_close(mask, mask_by_hand(24, 40, again), rtol=0, atol=1e-6)
    scores = torch.stack([score(model, pixels * mask, direction) for mask in masks])
    at_patches = torch.stack([mask.unfold(0, 8, 8).unfold(1, 8, 8).mean((2, 3)).flatten() for mask in masks])
    return torch.stack([torch.cov(torch.stack([at, scores]), correction=0)[0, 1] for at in at_patches.T])


ORACLES = {name.removeprefix("slow_"): oracle for name, oracle in list(globals().items()) if name.startswith("slow_")}


def test_every_method_has_an_oracle():
    assert set(ORACLES) == {name for name, card in CARDS.items() if not callable(card.method)}


def test_by_hand_is_the_model(world):
    model, _, pixels, _ = world
    embeddings = torch.stack([by_hand.run(model, image)[1] for image in pixels])
    torch.testing.assert_close(embeddings, model.encode_image(pixels, normalize=True), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ORACLES)
def test_equals_its_oracle(world, name, monkeypatch):
    model, backbone, pixels, directions = world
    monkeypatch.setattr(perturbation, "_RISE_MASKS", 40)
    monkeypatch.setattr(perturbation, "_GSCORE_CHANNELS", 7)
    got = explain(CARDS[name].method, trace(backbone, pixels), directions)
    assert got.shape == (3, 2, 3, 5)
    for k, (direction,) in enumerate(directions):
        for b, image in enumerate(pixels):
            expected = ORACLES[name](model, image, direction).detach()
            assert expected.norm() > 1e-6
            assert (got[k, b].flatten() - expected).norm() <= 1e-8 * expected.norm()

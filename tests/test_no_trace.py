"""The call leaves the user's model, and torch, as they were: on success and on failure, whatever the caller's mode."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from slow import by_default

from concept_cam import Localizer, grad_cam, layer_cam, wrap
from concept_cam.backbones.backbone import Backbone
from concept_cam.checks import fingerprint

MODES = {
    "plain": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def prepared(training: str, trainable: bool) -> torch.nn.Module:
    """A float32 model with dropout of patches, a gradient that the user has collected, and flags of the user's choice."""
    model = zoo.tiny_clip(patch_dropout=0.5).float()
    model.requires_grad_(trainable)
    if trainable:
        model.visual.proj.grad = torch.ones_like(model.visual.proj)
        model.visual.class_embedding.requires_grad_(False)
    model.train(training == "train")
    if training == "mixed":
        model.visual.transformer.resblocks[0].train()
        model.visual.ln_post.train()
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trainable", [True, False], ids=["trainable", "frozen"])
@pytest.mark.parametrize("training", by_default(["train", "eval", "mixed"], "mixed"))
@pytest.mark.parametrize("form", ["auto", "dense"])
def test_no_trace_and_the_same_map(mode, trainable, training, form):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))
    model = prepared(training, trainable)
    reference = Localizer(wrap(prepared("eval", False), zoo.TOKENIZER), templates=["a {}"], method=grad_cam, form="dense")
    expected = reference(image, "red crown", "bird")
    before = fingerprint(model)
    with MODES[mode]():
        inside = fingerprint(model)
        localizer = Localizer(wrap(model, zoo.TOKENIZER), templates=["a {}"], method=grad_cam, form=form)
        result = localizer(image, "red crown", "bird")
        assert fingerprint(model) == inside
    assert fingerprint(model) == before
    assert not result.map.requires_grad
    assert not result.map.is_inference()
    tolerance = 0.05 if mode == "autocast" else 1e-4
    assert (result.map - expected.map).norm() <= tolerance * expected.map.norm()


class Boom(Exception):
    pass


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", by_default(["train", "eval"], "train"))
@pytest.mark.parametrize("form", ["factored", "dense"])
@pytest.mark.parametrize("where", ["trunk", "after the site", "method"])
def test_no_trace_after_an_exception(mode, training, form, where):
    model = prepared(training, trainable=True)
    image = Image.new("RGB", (40, 24), "red")

    def explode(*_, **__):
        raise Boom

    method = explode if where == "method" else layer_cam
    localizer = Localizer(wrap(model, zoo.TOKENIZER), templates=["a {}"], method=method, form=form)
    visual = model.visual
    module = {"trunk": visual.conv1, "after the site": visual.transformer.resblocks[-1].ln_2}.get(where)
    if module is not None:
        module.register_forward_hook(explode)
    before = fingerprint(model)
    with MODES[mode](), pytest.raises(Boom):
        localizer(image, "red crown", "bird")
    assert fingerprint(model) == before


def test_the_fingerprint_sees_each_kind_of_trace():
    """A check that cannot fail checks nothing."""
    changes = {
        "hooks": lambda m: m.visual.conv1.register_forward_hook(lambda *_: None),
        "attributes": lambda m: setattr(m.visual, "cam", 1),
        "training": lambda m: m.visual.ln_post.train(not m.visual.ln_post.training),
        "requires_grad": lambda m: m.visual.proj.requires_grad_(False),
        "grad": lambda m: m.visual.proj.grad.add_(1),
        "state": lambda m: m.visual.proj.data.mul_(2),
        "rng": lambda m: torch.rand(1),
        "grad mode": lambda m: torch.set_grad_enabled(False),
    }
    try:
        for key, change in changes.items():
            model = prepared("eval", trainable=True)
            before = fingerprint(model)
            change(model)
            after = fingerprint(model)
            assert before[key] != after[key]
            torch.set_grad_enabled(True)
    finally:
        torch.set_grad_enabled(True)


def test_models_that_are_loaded_come_frozen_and_in_evaluation_mode():
    from concept_cam import world

    backbone: Backbone = world.localizer().backbone
    assert not any(module.training for module in backbone.module.modules())
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())

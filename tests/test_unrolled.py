"""A model whose layers were altered: where its attention cannot be laid open, the message names why and what cures it."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
import zoo
from slow import cases
from torch.nn.utils import parametrize
from zoo import classifiers

from concept_cam import Localizer, trace, world, wrap
from concept_cam.errors import BackboneError
from concept_cam.methods import explain
from concept_cam.parts import find_parts, read_parts

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own

LAID_OPEN = ("legrad", "relevance", "rollout", "raw_attention", "patch_text")


def quietly(wrapping):
    """That its closed form does not fit is said when it is wrapped: that is another test's affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return wrapping()


def adapted(model, layers):
    config = peft.LoraConfig(target_modules=list(layers), init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(model.double(), config)


CASES = {
    "timm": (lambda: adapted(classifiers.timm_vit(), ["qkv"]), lambda model: wrap(model, classes=classifiers.CLASSES)),
    "open_clip": (lambda: adapted(zoo.tiny_clip(), ["attn"]), lambda model: wrap(model, zoo.TOKENIZER)),
}


@pytest.mark.parametrize(
    ("case", "name"),
    cases([(case, name) for case in CASES for name in LAID_OPEN], ("open_clip", "legrad"), ("timm", "rollout")),
)
def test_adapters_are_named_with_their_cure(case, name):
    build, wrapping = CASES[case]
    model = build()
    backbone = quietly(lambda: wrapping(model.base_model.model))
    seen = trace(backbone, zoo.pixels(backbone, 1), form="dense")
    directions = torch.randn(1, 1, seen.embedding.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(BackboneError, match=r"It holds adapters of peft \(.*Linear.*\): merge them .*merge_and_unload\(\)"):
        explain(name, seen, directions)
    # The cure cures: the same scores, the same gradient, and a map. (To merge writes into the weights that a graph has kept.)
    expected = explain("grad_cam", seen, directions)
    merged = quietly(lambda: wrapping(model.merge_and_unload()))
    again = trace(merged, zoo.pixels(merged, 1))
    torch.testing.assert_close(again.embedding, seen.embedding, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(explain("grad_cam", again, directions), expected, rtol=1e-6, atol=1e-10)
    assert explain(name, again, directions).abs().sum() > 0


@pytest.mark.slow
def test_parts_say_so_too():
    guide = world.localizer()
    model = adapted(guide.backbone.module, ["attn"])
    backbone = quietly(lambda: wrap(model.base_model.model, guide.backbone.tokenizer))
    localizer = Localizer(backbone, templates="world", method="legrad")
    with pytest.raises(BackboneError, match="merge_and_unload"):
        find_parts(localizer, torch.zeros(3, 96, 96), read_parts("world-parts"))


@pytest.mark.slow
def test_methods_that_read_the_closed_form_say_why_it_was_not_used():
    build, wrapping = CASES["open_clip"]
    backbone = quietly(lambda: wrapping(build().base_model.model))
    for name in ("value_attribution", "grad_eclip"):
        seen = trace(backbone, zoo.pixels(backbone, 1))
        with pytest.raises(BackboneError, match=r"\. It holds adapters of peft"):
            explain(name, seen, torch.ones(1, 1, 24))
        plain = zoo.backbone("class token")
        with pytest.raises(BackboneError, match=r"but the gradient is dense\. Leave out form='dense'"):
            explain(name, trace(plain, zoo.pixels(plain, 1), form="dense"), torch.ones(1, 1, 24))
        mean = zoo.backbone("average")
        seen = trace(mean, zoo.pixels(mean, 1), mean.sites[1].name)
        with pytest.raises(BackboneError, match=r"has no single query .* told apart\. Use hires_cam"):
            explain(name, seen, torch.ones(1, 1, 24))


def test_parametrizations_are_named():
    class Twice(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = zoo.tiny_clip()
    for block in model.visual.transformer.resblocks:
        parametrize.register_parametrization(block.attn, "in_proj_weight", Twice())
    backbone = quietly(lambda: wrap(model, zoo.TOKENIZER))
    with pytest.raises(BackboneError, match=r"It holds parametrizations \(.*\): remove them"):
        explain("legrad", trace(backbone, zoo.pixels(backbone, 1), form="dense"), torch.ones(1, 1, 24))


@pytest.mark.slow
def test_of_a_model_without_attention_nothing_is_invented():
    backbone = quietly(lambda: wrap(classifiers.timm_resnet(), classes=classifiers.CLASSES))
    seen = trace(backbone, zoo.pixels(backbone, 1))
    with pytest.raises(BackboneError, match=r"laid open\. Use a method that asks for gradients alone, such as hires_cam\.$"):
        explain("legrad", seen, torch.ones(1, 1, seen.embedding.shape[-1]))

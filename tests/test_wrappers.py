"""What holds a model is seen through: the same preprocessing, the same map, and the wrapper as it was."""

from __future__ import annotations

import math
import os
import warnings

import open_clip
import pytest
import timm
import torch
import zoo
from peft import LoraConfig, get_peft_model
from slow import by_default, cases
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet
from zoo import openclip_models, transformers_models
from zoo.shake import shaken

from concept_cam import checks, hires_cam, trace, wrap
from concept_cam.backbones import Backbone
from concept_cam.errors import BackboneError
from concept_cam.evaluation import own_scale
from concept_cam.images import Preprocess

NAMES = tuple(f"class {i}" for i in range(7))
GIVEN = Preprocess((64, 96), (0.5,) * 3, (0.5,) * 3)


class Own(nn.Module):
    """As users and Lightning hold a model, with a counter and a loss beside it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss()
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        return self.model(x)


class Features(nn.Module):
    """A trunk under a name of its own, and a head."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.head = trunk, nn.Linear(width, 7).double()

    def forward(self, x):
        return self.head(self.backbone(x))


class Normalized(nn.Module):
    """Takes pixels from 0 to 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x - 0.5) / 0.25)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "compiled": torch.compile,
    "held": Own,
    "in a sequence": nn.Sequential,
    "compiled and held": lambda model: Own(torch.compile(model)),
    "parallel, compiled": lambda model: nn.DataParallel(torch.compile(model)),
    "held, compiled": lambda model: torch.compile(Own(model)),
    "held twice": lambda model: Own(nn.Sequential(model)),
}


SMALL = {"input_size": (3, 64, 96)}
"""In the place of 160 x 160 pixels: a sixth of the time."""


def siglip_vit() -> nn.Module:
    """Of timm, which says 0.5 for its mean and deviation, not ImageNet's."""
    size = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
    return shaken(lambda: timm.create_model("vit_base_patch16_siglip_gap_224", **size))


def imagenet_vit() -> nn.Module:
    return shaken(lambda: timm.create_model("test_vit", num_classes=7, img_size=(32, 48)))


def efficientnet() -> nn.Module:
    return shaken(lambda: timm.create_model("test_efficientnet", num_classes=7, pretrained_cfg_overlay=SMALL))


CLASSIFIERS = {"timm ViT": siglip_vit, "timm CNN": efficientnet}


def pixels(backbone: Backbone, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *backbone.preprocess.size, generator=generator, dtype=torch.float64)


def maps(backbone: Backbone, site: str | None = None, form: str = "auto") -> torch.Tensor:
    seen = trace(backbone, pixels(backbone), site, form)
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(3, 1, seen.embedding.shape[-1], generator=generator, dtype=torch.float64)
    return hires_cam(seen.gradient(directions))


def held_alike(ours: Backbone, bare: Backbone, *, closed_form: bool = True) -> None:
    """The same preprocessing, sites and maps; sites have the names of the model that was given."""
    assert ours.preprocess == bare.preprocess
    modules = dict(ours.module.named_modules())
    assert all(modules[site.name] is site.module for site in ours.sites)
    assert ours.sites[0].name.endswith(bare.sites[0].name)
    assert len(ours.sites) == len(bare.sites)
    if closed_form:
        assert [site.head is None for site in ours.sites] == [site.head is None for site in bare.sites]
    for one, other in zip(ours.sites[:2], bare.sites[:2], strict=True):
        expected = maps(bare, other.name, "dense")
        torch.testing.assert_close(maps(ours, one.name), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    larger = tuple(2 * side for side in bare.preprocess.size)
    expected = maps(bare.at_size(larger))
    torch.testing.assert_close(maps(ours.at_size(larger)), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("wrapper", "model"),
    cases(
        [(wrapper, model) for wrapper in WRAPPERS for model in CLASSIFIERS],
        ("compiled and held", "timm ViT"),
    ),
)
def test_a_classifier_of_timm_is_fed_as_it_says_whatever_holds_it(model, wrapper):
    bare = wrap(CLASSIFIERS[model](), classes=NAMES)
    held = WRAPPERS[wrapper](CLASSIFIERS[model]())
    before = checks.fingerprint(held)
    ours = wrap(held, classes=NAMES)
    held_alike(ours, bare)
    assert checks.fingerprint(held) == before
    assert set(ours.versions) == {"torch", "timm"}


DUAL = {
    "open_clip ViT": (openclip_models.vit, zoo.TOKENIZER),
    "SigLIP on a trunk of timm": (openclip_models.TRUNKS["siglip"], zoo.TOKENIZER),
    "transformers CLIP": (transformers_models.clip, transformers_models.tokenizer()),
    "transformers SigLIP": (transformers_models.siglip, transformers_models.tokenizer()),
}


HELD = cases(
    [(wrapper, model) for wrapper in WRAPPERS for model in DUAL],
    ("DataParallel", "open_clip ViT"),
    ("AveragedModel", "SigLIP on a trunk of timm"),
    ("compiled", "transformers CLIP"),
    ("held twice", "transformers SigLIP"),
)


@pytest.mark.parametrize(("wrapper", "model"), HELD)
def test_a_dual_encoder_is_found_whatever_holds_it(model, wrapper):
    build, tokenizer = DUAL[model]
    bare, held = wrap(build(), tokenizer), WRAPPERS[wrapper](build())
    before = checks.fingerprint(held)
    ours = wrap(held, tokenizer)
    held_alike(ours, bare)
    assert checks.fingerprint(held) == before
    with torch.no_grad():
        assert torch.equal(ours.embed_texts(["red crown"]), bare.embed_texts(["red crown"]))


@pytest.mark.parametrize(("wrapper", "model"), HELD)
def test_the_temperature_is_that_of_the_model_whatever_holds_it(model, wrapper):
    build, tokenizer = DUAL[model]
    own = build()
    with torch.no_grad():
        own.logit_scale.copy_(torch.tensor(3.0))
    assert own_scale(wrap(WRAPPERS[wrapper](own), tokenizer)) == pytest.approx(math.exp(3.0))


@pytest.mark.slow
def test_aligns_temperature_divides():
    model = transformers_models.align()
    with torch.no_grad():
        model.temperature.copy_(torch.tensor(0.04))
    assert own_scale(wrap(model, transformers_models.tokenizer())) == pytest.approx(25.0)


def test_a_classifiers_logits_are_taken_as_they_are():
    """A clip tower that was tuned may still have the parameter; its logits never see it."""
    model = siglip_vit()
    model.logit_scale = nn.Parameter(torch.tensor(3.0))
    assert own_scale(wrap(model, classes=NAMES)) == 1.0


@pytest.mark.slow
def test_a_distributed_model_is_seen_through(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        bare, held = wrap(siglip_vit(), classes=NAMES), nn.parallel.DistributedDataParallel(siglip_vit())
        held_alike(wrap(held, classes=NAMES), bare)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("model", ["open_clip ViT", "transformers CLIP"])
def test_an_adapted_dual_encoder_is_that_with_its_adapter(model):
    build, tokenizer = DUAL[model]
    targets = {"open_clip ViT": ["c_fc"], "transformers CLIP": ["layers.0.self_attn.q_proj"]}[model]
    adapted = get_peft_model(build(), LoraConfig(target_modules=targets, init_lora_weights=False)).double()
    ours = wrap(adapted.eval(), tokenizer)
    merged = wrap(get_peft_model(build(), LoraConfig(target_modules=targets, init_lora_weights=False)), tokenizer)
    merged.module.load_state_dict(adapted.state_dict())
    merged = wrap(merged.module.double().eval().merge_and_unload(), tokenizer)
    assert ours.preprocess == merged.preprocess
    expected = maps(merged, form="dense")
    torch.testing.assert_close(maps(ours, form="dense"), expected, rtol=1e-7, atol=1e-8 * float(expected.abs().max()))


def test_an_adapted_classifier_is_that_with_its_adapter():
    adapted = get_peft_model(siglip_vit(), LoraConfig(target_modules=["qkv"], init_lora_weights=False)).double().eval()
    ours = wrap(adapted, classes=NAMES)
    assert ours.preprocess.mean == (0.5,) * 3
    found = maps(ours, form="dense")
    merged = wrap(adapted.merge_and_unload(), classes=NAMES)
    expected = maps(merged, form="dense")
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8 * float(expected.abs().max()))


def test_a_trunk_and_a_head_under_any_name_have_the_closed_form_of_the_trunk():
    trunk = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0}
    model = shaken(lambda: Features(timm.create_model("vit_base_patch16_siglip_gap_224", **trunk), 32))
    backbone = wrap(model, classes=NAMES)
    assert backbone.preprocess.mean == (0.5,) * 3
    closed = [site.name for site in backbone.sites if site.head is not None]
    assert closed == ["backbone.norm"]
    torch.testing.assert_close(maps(backbone, closed[0]), maps(backbone, closed[0], "dense"), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_compiled_parts_are_run_layer_by_layer():
    model = siglip_vit()
    expected = maps(wrap(siglip_vit(), classes=NAMES), form="dense")
    model.blocks[0] = torch.compile(model.blocks[0])
    model.blocks[1].compile()
    ours = wrap(model, classes=NAMES)
    torch.testing.assert_close(maps(ours, form="dense"), expected, rtol=1e-9, atol=1e-9)
    assert model.blocks[1]._compiled_call_impl is not None
    clip = openclip_models.vit()
    clip.visual = torch.compile(clip.visual)
    expected = maps(wrap(openclip_models.vit(), zoo.TOKENIZER))
    ours = wrap(clip, zoo.TOKENIZER)
    torch.testing.assert_close(maps(ours), expected, rtol=1e-9, atol=1e-9)
    assert ours.sites[0].name == "visual._orig_mod.transformer.resblocks.1.ln_1"
    assert ours.at_size((48, 80)).sites[0].name == ours.sites[0].name
    siglip = transformers_models.siglip()
    siglip.vision_model = torch.compile(siglip.vision_model)
    expected = maps(wrap(transformers_models.siglip(), transformers_models.tokenizer()))
    ours = wrap(siglip, transformers_models.tokenizer())
    torch.testing.assert_close(maps(ours), expected, rtol=1e-9, atol=1e-9)
    assert all(dict(ours.module.named_modules())[site.name] is site.module for site in ours.sites)


# ---- how images are prepared ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_nobody_says_is_assumed_with_a_warning():
    with pytest.warns(UserWarning, match="ResNet does not say how its images are prepared; assumed: 224 x 224") as caught:
        backbone = wrap(ResNet(BasicBlock, [1, 1, 1, 1], 7).eval(), classes=NAMES)
    assert len(caught) == 1
    assert backbone.preprocess.mean == (0.485, 0.456, 0.406)
    assert "preprocess=" in str(caught[0].message)
    # Said once: another size of the same model is no new guess.
    assert backbone.at_size((96, 96)).preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("wrapper", [Normalized, lambda model: nn.Sequential(nn.BatchNorm2d(3).double(), model)])
def test_a_model_that_changes_pixels_first_is_not_fed_as_the_one_within(wrapper):
    model = wrapper(siglip_vit()).eval()
    with pytest.raises(BackboneError, match=r"changes images before they reach (model|1) \(VisionTransformer\).*preprocess="):
        wrap(model, classes=NAMES)
    given = Preprocess((24, 40), (0.0,) * 3, (1.0,) * 3)
    backbone = wrap(model, preprocess=given, classes=NAMES)
    assert (backbone.preprocess.mean, backbone.preprocess.size) == (given.mean, given.size)
    x = pixels(backbone)
    with torch.no_grad():
        own = model(x)
    torch.testing.assert_close(backbone.embed_pixels(x) @ backbone.embed_texts(NAMES).T + backbone.biases(NAMES), own)


def test_two_models_that_are_fed_otherwise_are_not_fed_alike():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = (
                siglip_vit(),
                shaken(lambda: timm.create_model("test_vit", num_classes=7, img_size=(24, 40))),
            )

        def forward(self, x):
            return self.one(x), self.other(x)

    with pytest.raises(BackboneError, match="holds one, other, whose images are prepared in different ways"):
        wrap(Both().eval(), classes=NAMES)


@pytest.mark.slow
def test_a_probe_on_open_clips_tower_is_fed_as_that_says():
    model = open_clip.create_model("RN50", pretrained=None, force_image_size=64).visual
    assert model.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    probe = nn.Sequential(model, nn.Linear(1024, 7)).eval()
    backbone = wrap(probe, classes=NAMES)
    assert backbone.preprocess.mean == open_clip.OPENAI_DATASET_MEAN
    assert backbone.preprocess.size == (64, 64)


def test_a_family_of_transformers_is_fed_as_its_processor_says():
    """CLIPSeg's is a ViT's, with ImageNet's mean, though its towers are CLIP's."""
    backbone = wrap(transformers_models.clipseg(), transformers_models.tokenizer())
    assert (backbone.preprocess.mean, backbone.preprocess.fit) == ((0.485, 0.456, 0.406), "squash")
    model = transformers_models.clip()
    model.config.model_type = "clap_of_nobody"
    with pytest.raises(BackboneError, match=r"of the family clap_of_nobody of transformers is in its processor; give that"):
        wrap(model, transformers_models.tokenizer())


# ---- what is not seen through -----------------------------------------------------------------------------------------


def test_a_dual_encoder_among_other_weights_is_named():
    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip, self.adapter = openclip_models.vit(), nn.Linear(24, 24)

    with pytest.raises(BackboneError, match=r"holds a dual encoder at clip and 2 tensors besides.*wrap model\.clip"):
        wrap(Adapter(), zoo.TOKENIZER)

    class Distilled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = openclip_models.vit(), openclip_models.vit()

    with pytest.raises(BackboneError, match="holds 2 dual encoders: student, teacher; wrap one of them"):
        wrap(Distilled(), zoo.TOKENIZER)


# ---- gradient checkpointing -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("training", by_default([False, True], True))
@pytest.mark.parametrize("name", by_default(["test_efficientnet", "test_resnet", "test_convnext", "test_vit"], "test_vit"))
def test_checkpointing_of_timm_changes_no_map(name, training):
    smaller = {} if name == "test_vit" else {"pretrained_cfg_overlay": SMALL}
    build = lambda: shaken(lambda: timm.create_model(name, num_classes=7, drop_path_rate=0.3, **smaller))  # noqa: E731
    bare, model = wrap(build(), classes=NAMES), build().train(training)
    model.set_grad_checkpointing(True)
    ours = wrap(model, classes=NAMES)
    for site in bare.sites:
        for form in ("auto", "dense"):
            expected = maps(bare, site.name, form)
            found = maps(ours, site.name, form)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert model.training is training


@pytest.mark.parametrize("training", by_default([False, True], True))
@pytest.mark.parametrize("model", ["open_clip ViT", "transformers CLIP", "transformers SigLIP"])
def test_checkpointing_of_dual_encoders_changes_no_map(model, training):
    build, tokenizer = DUAL[model]
    bare, module = wrap(build(), tokenizer), build().train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # later versions have another name for it
        (module.set_grad_checkpointing if "open_clip" in model else module.gradient_checkpointing_enable)()
    ours = wrap(module, tokenizer)
    for site in bare.sites:
        expected = maps(bare, site.name, "dense")
        found = maps(ours, site.name, "dense")
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_users_own_checkpoints_change_no_map(reentrant):
    class Checked(nn.Module):
        def __init__(self, through) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(16, 7)
            self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Dropout(0.5), nn.Tanh())
            self.through = through

        def forward(self, x):
            return self.head(self.through(self.body, self.stem(x)).square().mean((2, 3)))

    def checked(body, x):
        return checkpoint(body, x, use_reentrant=reentrant)

    bare = wrap(shaken(lambda: Checked(lambda body, x: body(x))), preprocess=GIVEN, classes=NAMES)
    ours = wrap(shaken(lambda: Checked(checked)).train(), preprocess=GIVEN, classes=NAMES)
    assert [site.name for site in ours.sites] == [site.name for site in bare.sites]
    for site in bare.sites:
        torch.testing.assert_close(maps(ours, site.name, "dense"), maps(bare, site.name, "dense"), rtol=1e-12, atol=1e-12)


def test_checkpointing_works_as_ever_outside():
    """What is put aside for a run is back afterwards."""
    wrap(siglip_vit(), classes=NAMES)
    x, runs = torch.ones(3, requires_grad=True), []

    def squared(x):
        runs.append(1)
        return (x * x).sum()

    for reentrant in (False, True):
        checkpoint(squared, x, use_reentrant=reentrant).backward()
    assert len(runs) == 4
    assert os.environ.get("TORCHDYNAMO_DISABLE") is None
    assert torch.compile(lambda y: y + 1, backend=_counting)(torch.zeros(1)).item() == 1
    assert _COUNTED


_COUNTED: list[int] = []


def _counting(graph, inputs):
    _COUNTED.append(1)
    return graph.forward

"""Another input size is what the library itself would have built; the model that is given stays as it is."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import timm
import torch
import torchvision
import zoo
from open_clip.model import resize_pos_embed
from slow import by_default, pairs
from timm.models import eva, vision_transformer
from torchvision.models.vision_transformer import interpolate_embeddings
from zoo import classifiers, openclip_models
from zoo.families import ROWS
from zoo.shake import shaken

from concept_cam import Localizer, hires_cam, trace, wrap
from concept_cam.backbones.backbone import noise
from concept_cam.errors import BackboneError
from concept_cam.images import Preprocess

SIZES = [(48, 48), (32, 48)]


def pixels(size, count=2, dtype=torch.float64):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_open_clip(size):
    """As ``open_clip`` fits a checkpoint to ``force_image_size``; it knows square ones alone."""
    backbone = ROWS["open_clip ViT"].wrapped(openclip_models.vit(image_size=32))
    larger = openclip_models.vit(image_size=size)
    state = backbone.module.state_dict()
    resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    x = pixels(size)
    with torch.no_grad():
        # Its own interpolation is in the precision of the parameter, ours in single at least: the same here.
        torch.testing.assert_close(backbone.at_size(size).embed_pixels(x), larger.encode_image(x), rtol=1e-12, atol=1e-12)


RECIPES = {
    "ViT": (vision_transformer.vit_base_patch16_224, vision_transformer.checkpoint_filter_fn, {}),
    "SigLIP": (vision_transformer.vit_base_patch16_siglip_224, vision_transformer.checkpoint_filter_fn, {}),
    "EVA-02": (eva.eva02_base_patch16_clip_224, eva.checkpoint_filter_fn, {"global_pool": "token"}),
    "PE-Core": (eva.vit_pe_core_base_patch16_224, eva.checkpoint_filter_fn, {}),
}


@pytest.mark.parametrize(("name", "size"), pairs(RECIPES, SIZES))
def test_timm(name, size):
    """As timm fits a checkpoint to ``img_size``."""
    recipe, fitted, options = RECIPES[name]
    tiny = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7, **options}
    model = shaken(lambda: recipe(img_size=32, **tiny))
    preprocess = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
    backbone = wrap(model, preprocess=preprocess, classes=classifiers.CLASSES)
    larger = recipe(img_size=size, **tiny).double().eval()
    larger.load_state_dict(fitted({k: v.clone() for k, v in model.state_dict().items()}, larger), strict=False)
    x = pixels(size)
    with torch.no_grad():
        own = larger.forward_head(larger.forward_features(x), pre_logits=True)
        assert torch.equal(backbone.at_size(size).embed_pixels(x), own)


def test_torchvision():
    """As torchvision's ``interpolate_embeddings`` does it for squares."""
    model = classifiers.torchvision_vit()
    backbone = ROWS["torchvision ViT"].wrapped(model)
    size = {"patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 7}
    larger = torchvision.models.VisionTransformer(image_size=48, **size).double().eval()
    larger.load_state_dict(interpolate_embeddings(48, 8, {k: v.clone() for k, v in model.state_dict().items()}))
    x = pixels((48, 48))
    with torch.no_grad():
        logits = backbone.at_size((48, 48)).embed_pixels(x) @ model.heads.head.weight.T + model.heads.head.bias
        torch.testing.assert_close(logits, larger(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", by_default(["timm ResNet", "ConvNeXt", "MobileCLIP S", "ALIGN", "a user's own"], "a user's own")
)
def test_a_cnn_is_itself_at_any_size(name):
    row = ROWS[name]
    backbone = row.backbone()
    x = pixels((128, 192))
    with torch.no_grad():
        assert torch.equal(backbone.at_size((128, 192)).embed_pixels(x), row.own(backbone.module, x))


@pytest.mark.parametrize("size", [(25, 40), (0, 8), (8, 0), (24, 44)])
def test_parts_of_patches_are_refused(size):
    with pytest.raises(BackboneError, match="not made of whole patches"):
        ROWS["open_clip ViT"].backbone().at_size(size)


def test_changes_of_the_model_are_seen_at_other_sizes():
    backbone = ROWS["open_clip ViT"].backbone()
    visual, size, x = backbone.module.visual, (48, 48), pixels((48, 48))
    seen = [backbone.at_size(size).embed_pixels(x).detach()]

    def changed():
        seen.append(backbone.at_size(size).embed_pixels(x).detach())
        return not torch.allclose(seen[-1], seen[-2])

    with torch.no_grad():
        visual.positional_embedding.mul_(2)
        assert changed()
        visual.positional_embedding = torch.nn.Parameter(visual.positional_embedding / 2)
        assert changed()
        torch.testing.assert_close(seen[-1], seen[0])
        visual.proj.mul_(2)
        assert changed()
        visual.ln_post = torch.nn.LayerNorm(32).double()
        assert changed()
        visual.ln_pre.register_forward_hook(lambda module, inputs, output: output + output.square())
        assert changed()


def test_a_copy_of_a_model_in_training_runs_in_evaluation_mode():
    """Also one that is made anew while an older copy is traced, because the model has changed."""
    model = classifiers.timm_vit(proj_drop_rate=0.5).train()
    backbone = wrap(model, None, Preprocess((24, 40), (0.5,) * 3, (0.5,) * 3), classes=classifiers.CLASSES)
    larger = backbone.at_size((48, 48))
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = trace(larger, pixels, form="dense").embedding
    for block in model.blocks:
        block.norm1.eps = 0.1
    first, second = (trace(larger, pixels, form="dense").embedding for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, before)
    assert all(module.training for module in model.modules())


@pytest.mark.slow
def test_statistics_of_a_batch_norm_are_seen_at_other_sizes():
    backbone = ROWS["timm ResNet"].backbone()
    x = pixels((128, 192))
    before = backbone.at_size((128, 192)).embed_pixels(x)
    backbone.module.bn1.running_mean.add_(1)
    after = backbone.at_size((128, 192)).embed_pixels(x)
    assert not torch.allclose(before, after)
    assert torch.equal(after, ROWS["timm ResNet"].own(backbone.module, x))


@pytest.mark.slow
def test_precision_may_change_between_sizes():
    backbone = ROWS["EVA-02"].backbone()
    backbone.at_size((48, 48))
    backbone.module.to(torch.bfloat16)
    larger = backbone.at_size((48, 48))
    assert larger.dtype == torch.bfloat16
    seen = trace(larger, noise(larger))
    assert hires_cam(seen.gradient(torch.ones(1, 1, 24, dtype=torch.bfloat16))).isfinite().all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_sizes_are_made_inside_the_callers_modes(mode):
    backbone = ROWS["EVA-02"].backbone()
    with mode():
        larger = backbone.at_size((48, 48))
        inside = trace(larger, noise(larger)).gradient(torch.ones(1, 1, 24, dtype=torch.float64)).mean()
    assert not any(parameter.is_inference() for parameter in larger.module.parameters())
    outside = trace(larger, noise(larger)).gradient(torch.ones(1, 1, 24, dtype=torch.float64)).mean()
    torch.testing.assert_close(inside, outside)


def test_what_cannot_be_copied_has_one_size_and_says_so():
    model = openclip_models.vit()
    model.visual.lock_of_the_users = threading.Lock()
    backbone = wrap(model, zoo.TOKENIZER)
    with pytest.raises(
        BackboneError, match=r"The structure of CLIP cannot be copied .*, so its input size cannot change\."
    ) as error:
        backbone.at_size((48, 48))
    assert "\n" not in str(error.value)
    Localizer(backbone, templates=["a {}"])


@pytest.mark.slow
def test_few_sizes_are_kept_and_none_outlives_the_model():
    backbone = ROWS["open_clip ViT"].backbone()
    first = weakref.ref(backbone.at_size((16, 16)))
    for rows in range(1, 20):
        backbone.at_size((8 * rows, 24))
    gc.collect()
    assert first() is None
    last, module = weakref.ref(backbone.at_size((152, 24))), weakref.ref(backbone.module)
    assert last() is not None
    del backbone
    gc.collect()
    assert last() is None
    assert module() is None


def test_timm_knows_its_own_size():
    """A model that was built for other images than its weights says so itself."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), num_classes=7)
    assert wrap(model, classes=classifiers.CLASSES).preprocess.size == (64, 96)

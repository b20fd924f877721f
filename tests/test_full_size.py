"""The real classes at their full size, with random weights: a map at three sizes through the same call. ``pytest -m full``."""

from __future__ import annotations

import gc
import zlib

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn

from concept_cam import Localizer, wrap
from concept_cam.backbones.backbone import noise
from concept_cam.gradients import trace

pytestmark = pytest.mark.full


class Letters:
    """Stands for a tokenizer that would have to be downloaded: each text has ids of its own."""

    def __init__(self, context: int, vocabulary: int) -> None:
        self.context, self.vocabulary = context, vocabulary

    def __call__(self, sentences):
        seeds = [zlib.crc32(sentence.encode()) for sentence in sentences]
        rows = [torch.randint(1, self.vocabulary, (self.context,), generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(rows)


class Ids(Letters):
    """The same as transformers' tokenizers are called."""

    model_max_length, unk_token = 10**6, None

    def __call__(self, sentences, **_):
        ids = super().__call__(sentences)
        return transformers.BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def of_open_clip(name):
    model = open_clip.create_model(name, pretrained=None, pretrained_hf=False)
    text = model.text if hasattr(model, "text") else model
    return wrap(model.eval(), Letters(text.context_length, text.vocab_size), name=name)


def of_transformers(kind):
    config = getattr(transformers, f"{kind}Config")()
    model = getattr(transformers, f"{kind}Model")(config).eval()
    return wrap(model, Ids(config.text_config.max_position_embeddings, config.text_config.vocab_size), name=kind)


def dinov2():
    trunk = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=518)
    return wrap(nn.Sequential(trunk, nn.Linear(768, 4)).eval(), classes=("finch", "jay", "owl", "wren"), name="DINOv2")


MODELS = {
    "ViT-L-14-336": lambda: of_open_clip("ViT-L-14-336"),
    "SigLIP 2 base": lambda: of_open_clip("ViT-B-16-SigLIP2"),
    "EVA-02 base": lambda: of_open_clip("EVA02-B-16"),
    "PE-Core base": lambda: of_open_clip("PE-Core-B-16"),
    "CoCa base": lambda: of_open_clip("coca_ViT-B-32"),
    "MobileCLIP2-S0": lambda: of_open_clip("MobileCLIP2-S0"),
    "ViTamin-S": lambda: of_open_clip("ViTamin-S"),
    "ConvNeXt base": lambda: of_open_clip("convnext_base"),
    "RN50": lambda: of_open_clip("RN50"),
    "transformers CLIP": lambda: of_transformers("CLIP"),
    "transformers SigLIP": lambda: of_transformers("Siglip"),
    "transformers SigLIP 2": lambda: of_transformers("Siglip2"),
    "DINOv2 base and a probe": dinov2,
}


@pytest.fixture(scope="module", params=MODELS)
def backbone(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield MODELS[request.param]()
    gc.collect()


def sizes(backbone):
    """Its own, 1.5 times that in whole patches, and 2:3."""
    step, (height, width) = backbone.preprocess.stride, backbone.preprocess.size
    half = max(2, round(height / step / 2))
    return (
        (height, width),
        tuple(round(1.5 * side / step) * step for side in (height, width)),
        (2 * half * step, 3 * half * step),
    )


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")  # random weights know no likeness
def test_a_map_at_three_sizes_through_the_same_call(backbone):
    names = backbone.classes[:2] or ("a finch", "a jay")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8))
    before = {name: (id(t), t._version) for name, t in backbone.module.state_dict(keep_vars=True).items()}
    for size in sizes(backbone):
        fit = "squash" if size[0] != size[1] else None
        result = Localizer(backbone, size=size, fit=fit)(image, *names)
        used = result.provenance["input"]
        assert used["size"] == list(size) or used["fit"] == "native"
        assert result.map.shape == tuple(side // backbone.preprocess.stride for side in used["size"])
        assert result.map.isfinite().all()
        assert result.map.std() > 0
        assert result.heatmap().shape == (400, 600)
        assert result.heatmap().isfinite().all() == (used["fit"] != "crop")
        closed = backbone.sites[0].head is not None
        assert result.provenance["gradient"] == ("factored" if closed else "dense")
    assert {name: (id(t), t._version) for name, t in backbone.module.state_dict(keep_vars=True).items()} == before


def test_the_closed_form_is_the_gradient(backbone):
    site = next((site for site in backbone.sites if site.head is not None), None)
    assert site is not None
    at = backbone.at_size(sizes(backbone)[2])
    direction = torch.randn(
        1, 1, trace(at, noise(at), site.name).embedding.shape[-1], generator=torch.Generator().manual_seed(1)
    )
    dense, factored = (
        trace(at, noise(at), site.name, form).gradient(direction).dot_tokens() for form in ("dense", "factored")
    )
    assert (dense - factored).norm() <= 1e-4 * dense.norm()

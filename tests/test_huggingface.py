"""transformers: images as its processors prepare them, texts as its families were trained, folders as it saves them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, SiglipImageProcessor
from zoo import transformers_models
from zoo.families import ROWS

from concept_cam import Localizer, load, wrap
from concept_cam.backbones.transforms import read_transform
from concept_cam.errors import BackboneError
from concept_cam.images import Frame, Preprocess

NEWEST = int(transformers.__version__.partition(".")[0]) >= 5
IMAGES = [(90, 60), (61, 97), (32, 32), (300, 40)]


def noise(shape):
    width, height = shape
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


def of_pillow(kind, **options):
    """A processor that resizes by Pillow, whatever the version calls it."""
    for name in (f"{kind}ImageProcessorPil", f"{kind}ImageProcessor"):
        if hasattr(transformers, name):
            return getattr(transformers, name)(**options)
    raise AssertionError(kind)


PROCESSORS = {
    "CLIP": lambda: of_pillow("CLIP", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "CLIP, larger before the crop": lambda: of_pillow(
        "CLIP", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ),
    "SigLIP": lambda: of_pillow("Siglip", size={"height": 32, "width": 32}),
    "SigLIP, bilinear": lambda: of_pillow("Siglip", size={"height": 24, "width": 40}, resample=2),
    "ALIGN": lambda: of_pillow(
        *("EfficientNet",),
        size={"height": 40, "width": 40},
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        include_top=True,
        do_normalize=True,
        resample=3,
    ),
    "ALIGN, as it is released": lambda: of_pillow(
        *("EfficientNet",),
        size={"height": 32, "width": 32},
        do_center_crop=False,
        resample=3,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        include_top=False,
        do_normalize=False,
    ),
    "ViT": lambda: of_pillow("ViT", size={"height": 32, "width": 24}),
    "ConvNeXt": lambda: of_pillow("ConvNext", size={"shortest_edge": 32}, crop_pct=0.875),
    "ConvNeXt, large": lambda: of_pillow("ConvNext", size={"shortest_edge": 384}),
    "BiT, for DINOv2": lambda: of_pillow("Bit", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
}


@pytest.mark.parametrize("shape", IMAGES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor(name, shape):
    processor = PROCESSORS[name]()
    preprocess = read_transform(processor)
    own = torch.as_tensor(np.asarray(processor(noise(shape), return_tensors="np")["pixel_values"]))[0]
    ours = Frame.of(noise(shape), preprocess).pixels
    assert ours.shape == own.shape
    assert (ours - own).abs().max() < 1e-4


@pytest.mark.parametrize("shape", IMAGES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_naflex_sees_what_its_processor_shows(shape):
    processor = of_pillow("Siglip2", patch_size=8, max_num_patches=16)
    backbone = wrap(transformers_models.siglip2().float(), transformers_models.tokenizer(), processor)
    frame = Frame.of(noise(shape), backbone.preprocess)
    given = processor(noise(shape), return_tensors="pt")
    rows, cols = given["spatial_shapes"][0].tolist()
    assert frame.size == (8 * rows, 8 * cols)
    with torch.no_grad():
        own = backbone.module.get_image_features(**given)
        own = own if isinstance(own, torch.Tensor) else own.pooler_output
        ours = backbone.at_size(frame.size).embed_pixels(frame.pixels[None])
    # Its patches are padded and masked, ours are as many as there are.
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


def test_native_sizes_are_those_of_naflex():
    module = pytest.importorskip("transformers.models.siglip2.image_processing_siglip2")
    generator = np.random.default_rng(0)
    for _ in range(2000):
        height, width, rows, cols = (int(n) for n in generator.integers(1, [3000, 3000, 25, 25]))
        patch = int(generator.choice([8, 14, 16, 32]))
        preprocess = Preprocess((rows * patch, cols * patch), (0.5,) * 3, (0.5,) * 3, "native", stride=patch)
        own = module.get_image_size_for_max_num_patches(height, width, patch, rows * cols)
        ours = preprocess.size_for((height, width))
        assert ours[0] * ours[1] <= rows * cols * patch * patch
        # It searches by halves and stops within 1e-5; where one patch more fits just there, it is ours that has it.
        assert ours == tuple(own) or ours[0] * ours[1] > own[0] * own[1]


@pytest.mark.parametrize(("shape", "size"), [((5000, 1), (8, 128)), ((1, 5000), (128, 8)), ((7, 7), (32, 32))])
def test_slivers_keep_as_much_of_their_aspect_as_patches_allow(shape, size):
    preprocess = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, "native", stride=8)
    assert Frame.of(noise(shape), preprocess).size == size


def test_texts_are_what_the_library_makes_of_them():
    sentences = ["a bird with red crown", "bird"]
    for name in ("transformers CLIP", "AltCLIP", "Chinese-CLIP", "ALIGN"):
        model, tokenizer = ROWS[name].build().float(), transformers_models.tokenizer()
        given = tokenizer(sentences, padding=True, return_tensors="pt")
        with torch.no_grad():
            own = model.get_text_features(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
            own = own if isinstance(own, torch.Tensor) else own.pooler_output
            assert torch.equal(wrap(model, tokenizer).embed_texts(sentences), own)


@pytest.mark.parametrize("name", ["transformers SigLIP", "transformers SigLIP 2 NaFlex"])
def test_siglips_texts_are_padded_to_the_end_without_a_mask_and_in_lower_case(name):
    model, tokenizer = ROWS[name].build().float(), transformers_models.tokenizer()
    backbone = wrap(model, tokenizer)
    given = tokenizer(["a red crown"], padding="max_length", max_length=40, return_tensors="pt")
    with torch.no_grad():
        own = model.get_text_features(input_ids=given["input_ids"])
        own = own if isinstance(own, torch.Tensor) else own.pooler_output
        assert torch.equal(backbone.embed_texts(["A Red Crown"]), own)
        # Alone or beside a longer one, a text is itself.
        beside = backbone.embed_texts(["a red crown", "a bird with a red crown and a blue wing"])[:1]
        torch.testing.assert_close(beside, own, rtol=1e-5, atol=1e-6)


def test_texts_that_are_too_long_are_cut():
    for name in ("transformers CLIP", "transformers SigLIP", "AltCLIP"):
        backbone = wrap(ROWS[name].build().float(), transformers_models.tokenizer())
        assert backbone.embed_texts(["red " * 100 + "crown"]).isfinite().all()


# ---- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    model = transformers_models.clip().float()
    model.save_pretrained(tmp_path)
    transformers_models.tokenizer().save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_that_transformers_saved(folder):
    before = torch.get_rng_state()
    backbone = load(str(folder))
    assert torch.equal(torch.get_rng_state(), before)
    assert backbone.family == "transformers CLIP"
    assert backbone.preprocess.size == (32, 32)
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.embed_pixels(x), ROWS["transformers CLIP"].own(transformers_models.clip().float(), x)
        )
    result = Localizer(backbone, templates=["a {}"])(noise((90, 60)), "red crown", "bird")
    assert result.map.shape == (4, 4)
    assert result.provenance["model"] == str(folder)
    assert result.provenance["versions"]["transformers"] == transformers.__version__
    larger = Localizer(backbone, templates=["a {}"], fit="native", size=64)(noise((90, 60)), "red crown", "bird")
    assert larger.map.shape == (6, 9)


def test_a_folder_without_some_of_its_weights_is_refused(folder):
    state = load_file(folder / "model.safetensors")
    del state["vision_model.post_layernorm.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=r"no weights for 1 of its tensors \(vision_model\.post_layernorm\.weight"):
        load(str(folder))


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(BackboneError) as error:
        load(str(folder))
    assert "\n" not in str(error.value)
    assert re.search("tokenizer|vocab", str(error.value), re.I)


def test_a_folder_that_is_no_dual_encoder_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=200
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers_models.tokenizer().save_pretrained(tmp_path)
    SiglipImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="BertModel, no dual encoder of images and texts"):
        load(str(tmp_path))


def test_a_name_that_the_hub_does_not_give_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="have to be downloaded and cannot be reached") as error:
        load("transformers:nobody/nothing")
    assert "\n" not in str(error.value)


def test_a_processor_serves_as_tokenizer_and_preprocessing(monkeypatch):
    # Version 4 holds the embedded world's words against the class that OpenAI's have.
    monkeypatch.setattr(transformers.CLIPProcessor, "tokenizer_class", "PreTrainedTokenizerFast", raising=False)
    processor = transformers.CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}), transformers_models.tokenizer()
    )
    backbone = wrap(transformers_models.clip(), processor)
    image = noise((90, 60))
    theirs = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(Localizer(backbone).frame(image).pixels, theirs)
    larger = Localizer(backbone, size=64).preprocess
    assert (larger.size, larger.shortest) == ((64, 64), 80)
    assert backbone.tokenizer is processor.tokenizer

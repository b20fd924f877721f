"""Models by name, as people spell them; files with their own number of classes; what names the library must not drop."""

from __future__ import annotations

import json

import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from zoo import transformers_models
from zoo.shake import shaken

from concept_cam import load
from concept_cam.backbones.names import library_of, told_apart
from concept_cam.errors import BackboneError, ConceptCamError
from concept_cam.images import Frame

IMAGE = Image.linear_gradient("L").resize((90, 60)).convert("RGB")
OPEN_CLIP, TIMM = open_clip.list_models(), timm.list_models()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


SPELT = {
    "ViT-B-32/openai": ("open_clip", "ViT-B-32", "openai"),
    "ViT-B/32": ("open_clip", "ViT-B-32", None),
    "vit-b-32": ("open_clip", "ViT-B-32", None),
    "ViT_B_32": ("open_clip", "ViT-B-32", None),
    "vit b 32": ("open_clip", "ViT-B-32", None),
    "ViT-B/32/openai": ("open_clip", "ViT-B-32", "openai"),
    "ViT-B/32:openai": ("open_clip", "ViT-B-32", "openai"),
    "vit-b-32/laion2b_s34b_b79k": ("open_clip", "ViT-B-32", "laion2b_s34b_b79k"),
    "ViT-B/32-quickgelu/openai": ("open_clip", "ViT-B-32-quickgelu", "openai"),
    "ViT-L/14@336px": ("open_clip", "ViT-L-14-336", None),
    "ViT-L/14@336px/openai": ("open_clip", "ViT-L-14-336", "openai"),
    "ViT-L-14-336/openai": ("open_clip", "ViT-L-14-336", "openai"),
    "rn50/openai": ("open_clip", "RN50", "openai"),
    "ViT-B-16//weights/mine.pt": ("open_clip", "ViT-B-16", "/weights/mine.pt"),
    "convnext_base_w/laion2b_s13b_b82k": ("open_clip", "convnext_base_w", "laion2b_s13b_b82k"),
    "resnet50.a1_in1k": ("timm", "resnet50.a1_in1k", None),
    "ResNet50": ("timm", "resnet50", None),
    "timm/resnet50.a1_in1k": ("timm", "resnet50.a1_in1k", None),
    "vit-base-patch16-224.augreg_in21k": ("timm", "vit_base_patch16_224.augreg_in21k", None),
    "openai/clip-vit-base-patch32": ("transformers", "openai/clip-vit-base-patch32", None),
    "google/vit-base-patch16-224": ("transformers", "google/vit-base-patch16-224", None),
    "timm/no_such_model": ("transformers", "timm/no_such_model", None),
}


@pytest.mark.parametrize("name", SPELT)
def test_names_are_understood_as_people_spell_them(name):
    assert library_of(name, OPEN_CLIP, TIMM, classifier=False) == SPELT[name]


def test_a_name_that_is_none_gets_a_suggestion():
    for name, near in (("ViT-L-14-363", "ViT-L-14-336"), ("ViT-B-61", "ViT-B-16")):
        with pytest.raises(BackboneError, match=rf"No model '{name}'.* Did you mean '{near}'\?"):
            library_of(name, OPEN_CLIP, TIMM, classifier=False)


@pytest.mark.slow
def test_every_name_of_either_library_is_itself():
    for name in OPEN_CLIP:
        assert library_of(name, OPEN_CLIP, TIMM, classifier=False) == ("open_clip", name, None)
    for name in TIMM:
        library, found, tag = library_of(name, OPEN_CLIP, TIMM, classifier=False)
        assert (library, found, tag) == ("open_clip" if name in OPEN_CLIP else "timm", name, None)


def test_classes_say_which_library_is_meant():
    assert "convnext_base" in {*OPEN_CLIP} & {*TIMM}
    assert library_of("convnext_base", OPEN_CLIP, TIMM, classifier=True) == ("timm", "convnext_base", None)


def test_a_name_in_another_spelling_needs_its_tag_like_itself():
    for name in ("ViT-B/32", "vit-b-32", "open_clip:vit_b_32"):
        with pytest.raises(BackboneError, match="ViT-B-32 without weights would explain noise; name one of openai, laion400m"):
            load(name)
    for name, tag in (("ViT-B/32", "laion400m-e31"), ("ViT-B/32/LAION400M_E31", None)):
        with pytest.raises(BackboneError, match=r"ViT-B-32 \(laion400m_e31\).*have to be downloaded"):
            load(name, tag)
    with pytest.raises(BackboneError, match=r"is given two weights: 'openai' in its name and pretrained='laion400m_e31'"):
        load("ViT-B-32/openai", "laion400m_e31")


def test_a_tag_of_timm_is_understood_and_others_are_listed():
    with pytest.raises(BackboneError, match=r"^resnet10t\.c3_in1k: the weights have to be downloaded"):
        load("resnet10t", "c3_in1k")
    with pytest.raises(BackboneError, match=r"'a1' is no file and no tag of timm; the tags of resnet10t are c3_in1k"):
        load("resnet10t", "a1")


# ---- timm's files -----------------------------------------------------------------------------------------------------

NAMES = ["ant", "bee", "wasp"]


@pytest.fixture(scope="module")
def model():
    return shaken(lambda: timm.create_model("test_vit", num_classes=3)).float()


@pytest.mark.parametrize("wrapping", [lambda state: state, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_timm_has_its_own_number_of_classes(model, tmp_path, suffix, wrapping):
    file = tmp_path / f"mine.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save(wrapping(model.state_dict()), file)
    before = torch.get_rng_state()
    backbone = load("test_vit", str(file), classes=NAMES)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = model(x)
    ours = backbone.embed_pixels(x) @ backbone.embed_texts(NAMES).T + backbone.biases(NAMES)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)
    with pytest.raises(BackboneError, match="has 3 classes, given 2 names"):
        load("test_vit", str(file), classes=NAMES[:2])
    with pytest.raises(BackboneError, match="test_vit: nobody knows the names of its classes; give classes"):
        load("test_vit", str(file))


def test_a_file_of_another_model_is_refused(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(BackboneError, match="could not be loaded"):
        load("test_resnet", str(tmp_path / "mine.safetensors"), classes=NAMES)


class Evil:
    def __reduce__(self):
        return (print, ("a pickle was run",))


def test_a_pickle_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "mine.pth")
    with pytest.raises(BackboneError, match="holds more than tensors, such as code, and is not read"):
        load("test_vit", str(tmp_path / "mine.pth"), classes=NAMES)
    assert "a pickle was run" not in capsys.readouterr().out


def timm_folder(model, folder, **config):
    folder.mkdir()
    own = {"input_size": [3, 160, 160], "mean": [0.1] * 3, "std": [0.5] * 3, "num_classes": 3, "classifier": "head", **config}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "num_classes": 3, "num_features": 64, "pretrained_cfg": own})
    )
    save_file(model.state_dict(), folder / "model.safetensors")
    return str(folder)


@pytest.mark.slow
def test_a_folder_of_timm_may_know_its_names(model, tmp_path):
    told = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "crane", "n2": "robin", "n3": "crane"}}
    backbone = load(timm_folder(model, tmp_path / "told", **told))
    assert backbone.classes == ("crane (0)", "robin", "crane (2)")
    assert backbone.preprocess.mean == (0.1,) * 3
    silent = timm_folder(model, tmp_path / "silent")
    with pytest.raises(BackboneError, match="nobody knows the names of its classes"):
        load(silent)
    assert load(silent, classes={0: "a", 1: "b", 2: "c"}).classes == ("a", "b", "c")


# ---- transformers' folders --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32}
    labels = {"id2label": dict(enumerate(["crane", "robin", "crane"])), "label2id": {"robin": 1}}
    config = transformers.ViTConfig(**size, patch_size=8, **labels)
    shaken(lambda: transformers.ViTForImageClassification(config)).float().save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1] * 3).save_pretrained(folder)
    return folder


def test_a_classifier_of_transformers_brings_names_and_preparation(classifier_folder):
    backbone = load(str(classifier_folder))
    assert backbone.classes == ("crane (0)", "robin", "crane (2)")
    processor = transformers.AutoImageProcessor.from_pretrained(classifier_folder)
    own = processor(IMAGE, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(Frame.of(IMAGE, backbone.preprocess).pixels, own, rtol=0, atol=0.05)
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert load(str(classifier_folder), classes=NAMES).classes == tuple(NAMES)
    with pytest.raises(BackboneError, match="has 3 classes, given 2 names"):
        load(str(classifier_folder), classes=NAMES[:2])


def test_weights_beside_a_model_of_transformers_are_not_dropped(classifier_folder, tmp_path):
    for given in ("weights.pt", "openai"):
        with pytest.raises(BackboneError, match=rf"is of transformers, .* leave out pretrained='{given}'"):
            load(str(classifier_folder), given)
        with pytest.raises(BackboneError, match=rf"leave out pretrained='{given}'"):
            load("openai/clip-vit-base-patch32", given)


def test_classes_of_what_is_no_classifier_are_not_dropped(tmp_path):
    transformers_models.clip().float().save_pretrained(tmp_path)
    transformers_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConceptCamError, match="is no image classifier"):
        load(str(tmp_path), classes=NAMES)


def test_names_that_come_twice_are_told_apart_by_their_rows():
    assert told_apart(["a", "b", "a", "c", "a"]) == ("a (0)", "b", "a (2)", "c", "a (4)")

"""Which layer's rows are the classes: found, named, or asked for; and models that have none."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
import transformers
import zoo
from PIL import Image
from slow import by_default
from timm.models import resnetv2
from torch import nn
from zoo import openclip_models
from zoo.shake import shaken

from concept_cam import Localizer, hires_cam, trace, wrap
from concept_cam.errors import BackboneError, ComparisonError, ConceptCamError
from concept_cam.images import Frame, Preprocess

NAMES = ("ant", "bee", "wasp")
GIVEN = Preprocess((32, 48), (0.5,) * 3, (0.5,) * 3)
IMAGE = Image.effect_noise((90, 60), 60).convert("RGB")


class Heads(nn.Module):
    """Two heads of one size on one trunk; ``form`` puts them together."""

    def __init__(self, form, rows: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.Tanh())
        self.species, self.habitat = nn.Linear(16, rows), nn.Linear(16, rows)
        self.form = form

    def forward(self, x):
        pooled = self.trunk(x).mean((2, 3))
        return self.form(self.species(pooled), self.habitat(pooled))


def wrapped(model, **options):
    return wrap(model.eval(), preprocess=GIVEN, classes=options.pop("classes", NAMES), **options)


def explained(backbone, name):
    """The map of one class by the layer of that name, from the tokens and rows by hand: of a mean of a map it is CAM."""
    pixels = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    seen = trace(backbone, pixels)
    rows = dict(backbone.module.named_modules())[name].weight.detach()
    expected = seen.tokens[0] @ rows[1] / seen.tokens.shape[1]
    (found,) = hires_cam(seen.gradient(backbone.embed_texts(["bee"])[None]))
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-6)


# ---- two heads --------------------------------------------------------------------------------------------------------

TWO = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"species": a, "habitat": b},
    "nested": lambda a, b: {"scores": (a, b), "loss": a.sum()},
}


@pytest.mark.parametrize("form", TWO)
@pytest.mark.parametrize("head", ["species", "habitat"])
def test_of_two_heads_the_user_says_which(form, head):
    with pytest.raises(BackboneError, match=r"the scores of 2 linear layers: species, habitat; say which is meant with head="):
        wrapped(Heads(TWO[form]))
    backbone = wrapped(Heads(TWO[form]), head=head)
    explained(backbone, head)
    assert backbone.at_size((64, 96)).head == head


def test_heads_of_other_sizes_are_told_apart_by_the_names():
    model = Heads(lambda a, b: (a, b[:, :2]))
    explained(wrapped(model), "species")
    model.species = nn.Linear(16, 5)
    model.form = lambda a, b: (a, b)
    explained(wrapped(model), "habitat")
    with pytest.raises(BackboneError, match="the scores of 2 linear layers"):
        wrapped(model, classes=list("abcdefg"))


COMBINED = {
    "softmax": lambda a, _: a.softmax(-1),
    "sigmoid": lambda a, _: a.sigmoid(),
    "in place": lambda a, _: a.mul_(2).relu_(),
    "temperature": lambda a, _: a / 0.07,
    "mean of both": lambda a, b: (a + b) / 2,
}


@pytest.mark.parametrize("form", COMBINED)
def test_scores_that_are_changed_afterwards_need_the_layers_name(form):
    model = Heads(COMBINED[form])
    with pytest.raises(BackboneError, match=r"the output is not that of its last linear layer; .*head=.*species"):
        wrapped(model)
    explained(wrapped(model, head="species"), "species")


def test_a_name_that_is_no_linear_layer_is_refused():
    model = Heads(TWO["tuple"])
    with pytest.raises(BackboneError, match=r"no layer 'specie'. Did you mean 'species'\? .* are habitat, species"):
        wrapped(model, head="specie")
    with pytest.raises(BackboneError, match=r"head='trunk\.1' is a Tanh; expected a linear layer, such as habitat, species"):
        wrapped(model, head="trunk.1")
    with pytest.raises(BackboneError, match="has 3 classes, given 2 names"):
        wrapped(model, head="habitat", classes=["ant", "bee"])
    model.spare = nn.Linear(2, 3)
    with pytest.raises(BackboneError, match="spare ran 0 times"):
        wrapped(model, head="spare")


def test_a_head_has_its_name_in_what_holds_it_or_in_itself():
    for head in ("module.habitat", "habitat"):
        explained(wrapped(nn.DataParallel(Heads(TWO["tuple"])), head=head), "module.habitat")


def test_a_distilled_model_says_which_of_its_heads():
    size = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 3}
    model = shaken(lambda: timm.create_model("deit_tiny_distilled_patch16_224", **size))
    with pytest.raises(BackboneError, match="with head=: head_dist, head"):
        wrap(model, classes=NAMES)
    x = torch.randn(1, 3, 24, 40, dtype=torch.float64)
    model.distilled_training = True
    for head in ("head", "head_dist"):
        backbone = wrap(model, classes=NAMES, head=head)
        with torch.no_grad():
            tokens = model.forward_features(x)[:, ("head", "head_dist").index(head)]
        torch.testing.assert_close(trace(backbone, x).embedding, tokens)


# ---- calls ------------------------------------------------------------------------------------------------------------


class OfDictionaries(nn.Module):
    """As many training frameworks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Heads(lambda a, b: a)

    def forward(self, batch):
        return {"out": Output(self.inner(batch["image"]))}


class Output:
    def __init__(self, scores) -> None:
        self.scores = scores


def test_a_model_of_other_inputs_and_outputs_is_called_as_the_user_says():
    model = OfDictionaries()
    with pytest.raises(BackboneError, match=r"does not take an input of 32 x 48 pixels.*say how it is called with call="):
        wrapped(model)
    with pytest.raises(BackboneError, match="puts out a dict, which holds no scores that are known; say how to get them"):
        wrapped(model, call=lambda own, x: own({"image": x}))
    backbone = wrapped(model, call=lambda own, x: own({"image": x})["out"].scores)
    explained(backbone, "inner.species")
    explained(wrapped(nn.DataParallel(model), call=lambda own, x: own({"image": x})["out"].scores), "module.inner.species")
    explained(wrapped(model, call=lambda own, x: own({"image": x}), head="inner.species"), "inner.species")
    assert backbone.at_size((64, 96)).embed_pixels(torch.zeros(1, 3, 64, 96)).shape == (1, 16)


def test_a_model_of_timm_in_one_of_other_inputs_is_fed_as_it_says():
    class Framework(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = timm.create_model("test_vit", num_classes=3)

        def forward(self, batch):
            return self.model(batch["image"])

    with pytest.raises(BackboneError, match=r"does not take an input of 160 x 160 pixels.*say how it is called with call="):
        wrap(Framework().eval(), classes=NAMES)
    backbone = wrap(Framework().eval(), classes=NAMES, call=lambda model, x: model({"image": x}))
    assert (backbone.preprocess.mean, backbone.preprocess.size) == ((0.5,) * 3, (160, 160))


def test_a_call_of_another_model_is_noticed():
    model = OfDictionaries()
    other = OfDictionaries()
    with pytest.raises(BackboneError, match="no layer of OfDictionaries ran"):
        wrapped(model, call=lambda _, x: other({"image": x})["out"].scores)


def test_head_and_call_are_for_classifiers():
    for options in ({"head": "visual"}, {"call": lambda model, x: model(x)}):
        with pytest.raises(BackboneError, match=f"is a dual encoder: {next(iter(options))}= is for classifiers"):
            wrap(zoo.tiny_clip(), zoo.TOKENIZER, **options)


# ---- one row, many rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda a, _: a, lambda a, _: a.squeeze(-1)])
def test_a_regression_has_its_base_map(form):
    backbone = wrapped(Heads(form, rows=1), classes=["age"])
    localizer = Localizer(backbone)
    result = localizer(IMAGE, "age", strength=0)
    with torch.no_grad():
        pixels = localizer.frame(IMAGE).pixels[None]
        own = backbone.module.species(backbone.module.trunk(pixels).mean((2, 3)))
    assert result.scores["age"] == pytest.approx(float(own), rel=1e-5)
    tokens = trace(backbone, pixels).tokens[0]
    expected = tokens @ backbone.module.species.weight.detach()[0] / len(tokens)
    torch.testing.assert_close(result.map.flatten(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(result.map, result.base_map)
    with pytest.raises(ComparisonError, match=r"No references to compare 'age' with.* or set strength to 0"):
        localizer(IMAGE, "age")


# ---- convolutions that do the work of a linear layer -------------------------------------------------------------------


def test_a_convolution_of_one_cell_is_a_linear_layer():
    model = shaken(lambda: resnetv2.ResNetV2((1, 1, 1, 1), channels=(128, 128, 128, 128), num_classes=3))
    backbone = wrap(model, preprocess=Preprocess((64, 96), (0.5,) * 3, (0.5,) * 3), classes=NAMES)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        own = model(x)
    seen = trace(backbone, x)
    torch.testing.assert_close(seen.embedding @ backbone.embed_texts(NAMES).T + backbone.biases(NAMES), own, rtol=1e-6, atol=0)


def test_a_convolution_at_each_place_is_no_linear_layer():
    model = torchvision.models.squeezenet1_1(num_classes=3)
    with pytest.raises(BackboneError, match=r"its classes come of classifier\.1, a convolution at each place of 1 x 512 x"):
        wrap(model.eval(), preprocess=Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3), classes=NAMES)


# ---- true reasons -----------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.patches, self.head, self.form = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, 3), form

    def forward(self, x):
        return self.form(self.head(self.patches(x).flatten(2).transpose(1, 2)))


def test_scores_of_each_token_are_not_those_of_the_image():
    with pytest.raises(BackboneError, match="head gives scores for each of many places, 1 x 24 x 3, not for the image"):
        wrapped(Tokens(lambda scores: scores))
    with pytest.raises(BackboneError, match="gives scores for each of many places, 1 x 24 x 3"):
        wrapped(Tokens(lambda scores: scores.mean(1)), head="head")


class Cosines(nn.Linear):
    def forward(self, x):
        return nn.functional.normalize(x, dim=-1) @ nn.functional.normalize(self.weight, dim=-1).T


def test_rows_that_are_not_what_scores_are_made_of_are_refused():
    model = Heads(lambda a, _: a)
    model.species = Cosines(16, 3)
    with pytest.raises(BackboneError, match=r"species \(Cosines\) does more than multiply its input with its rows"):
        wrapped(model)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_scripted_or_traced_model_is_refused_for_what_it_is():
    model = torchvision.models.resnet18(num_classes=3).eval()
    for compiled in (
        torch.jit.trace(model, torch.zeros(1, 3, 64, 64)),
        nn.Sequential(torch.jit.freeze(torch.jit.script(model))),
    ):
        with pytest.raises(BackboneError, match=r"is compiled by TorchScript .* give the model that was scripted or traced"):
            wrap(compiled, preprocess=GIVEN, classes=NAMES)


@pytest.mark.filterwarnings("ignore:(?s).*deprecated")
def test_a_quantized_model_is_refused_for_what_it_is():
    model = Heads(lambda a, _: a)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(BackboneError, match=r"is quantized .* give the model as it was before"):
        wrapped(quantized)
    eight = Heads(lambda a, _: a)
    eight.trunk[0].weight = nn.Parameter(eight.trunk[0].weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(BackboneError, match=r"is quantized \(Conv2d\): its weights are not in floating point"):
        wrapped(eight)


def test_a_model_that_cannot_be_run_says_so_in_one_line():
    class Picky(Heads):
        def forward(self, x):
            if x.shape[2:] != (40, 40):
                raise IndexError("40 or nothing\nat all")
            return super().forward(x)

    with pytest.raises(
        BackboneError, match=r"does not take an input of 32 x 48 pixels.*IndexError: 40 or nothing at all"
    ) as e:
        wrapped(Picky(lambda a, _: a))
    assert "\n" not in str(e.value)
    clip = openclip_models.TRUNKS["siglip"]()
    given = Preprocess((24, 48), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(BackboneError, match=r"does not take an input of 24 x 48 pixels.*preprocess="):
        wrap(clip, zoo.TOKENIZER, given)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(BackboneError, match="has no parameters"):
        wrap(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), preprocess=GIVEN, classes=NAMES)


# ---- classes ----------------------------------------------------------------------------------------------------------

FORMS = {
    "tuple": ("ant", "bee", "wasp"),
    "generator": (name for name in NAMES),
    "rows to names": {2: "wasp", 0: "ant", 1: "bee"},
    "rows to names, of JSON": {"0": "ant", "1": "bee", "2": "wasp"},
    "names to rows": {"bee": 1, "ant": 0, "wasp": 2},
}


@pytest.mark.parametrize("form", FORMS)
def test_names_come_in_many_forms(form):
    assert wrapped(Heads(lambda a, _: a), classes=FORMS[form]).classes == NAMES


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0: "ant", 1: "bee", 3: "wasp"}, "a dictionary of 3; expected the rows 0 to 2"),
        ({"ant": "a", "bee": "b", "wasp": "c"}, "a dictionary of 3; expected the rows 0 to 2"),
        ({0: "ant"}, "has 3 classes, given 1 names"),
        ([0, 1, 2], "classes holds 0; expected names"),
        (["ant", "bee", "ant"], "names that come twice: ant"),
    ],
)
def test_names_that_are_none_are_refused_in_a_sentence(classes, message):
    with pytest.raises(ConceptCamError, match=message):
        wrapped(Heads(lambda a, _: a), classes=classes)


# ---- transformers' image classifiers ----------------------------------------------------------------------------------

_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32}
_LABELS = {"id2label": {0: "crane", 1: "robin", 2: "crane"}, "label2id": {"robin": 1}}
HUB = {
    "ViT": ("ViTForImageClassification", "ViTConfig", {**_SMALL, "patch_size": 8}),
    "DeiT": ("DeiTForImageClassification", "DeiTConfig", {**_SMALL, "patch_size": 8}),
    "DINOv2": ("Dinov2ForImageClassification", "Dinov2Config", {**_SMALL, "patch_size": 8, "mlp_ratio": 2}),
    "BEiT": ("BeitForImageClassification", "BeitConfig", {**_SMALL, "patch_size": 8}),
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4}),
    "ResNet": (
        *("ResNetForImageClassification", "ResNetConfig"),
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
    ),
    "Swin": (
        *("SwinForImageClassification", "SwinConfig"),
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "SigLIP": ("SiglipForImageClassification", "SiglipConfig", {"vision_config": {**_SMALL, "patch_size": 8}}),
}


def of_transformers(name):
    kind, config, options = HUB[name]
    options = {**options, **_LABELS}
    return shaken(lambda: getattr(transformers, kind)(getattr(transformers, config)(**options)))


@pytest.mark.parametrize("name", by_default(HUB, "ViT", "BEiT", "SigLIP"))
def test_image_classifiers_of_transformers_know_their_names(name):
    model = of_transformers(name)
    given = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
    backbone = wrap(model, preprocess=given)
    assert backbone.classes == ("crane (0)", "robin", "crane (2)")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        own = model(x).logits
    ours = backbone.embed_pixels(x) @ backbone.embed_texts(backbone.classes).T + backbone.biases(backbone.classes)
    torch.testing.assert_close(ours, own, rtol=1e-9, atol=1e-9)
    seen = trace(backbone, x)
    assert hires_cam(seen.gradient(backbone.embed_texts(["robin"])[:, None])).any()
    assert "transformers" in backbone.versions
    if name in ("ViT", "DeiT", "DINOv2", "ConvNeXt", "ResNet"):
        size = (64, 48)
        larger = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        options = {"interpolate_pos_encoding": True} if name in ("ViT", "DeiT") else {}
        with torch.no_grad():
            own = model(larger, **options).logits
        at = backbone.at_size(size)
        ours = at.embed_pixels(larger) @ backbone.embed_texts(backbone.classes).T + backbone.biases(backbone.classes)
        torch.testing.assert_close(ours, own, rtol=1e-9, atol=1e-9)


def test_an_image_classifier_of_transformers_needs_its_processor():
    with pytest.raises(BackboneError, match=r"ViTForImageClassification of transformers is in its processor; give it as prep"):
        wrap(of_transformers("ViT"))
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
    pixels = Frame.of(IMAGE, wrap(of_transformers("ViT"), preprocess=processor).preprocess).pixels
    torch.testing.assert_close(pixels, processor(IMAGE, return_tensors="pt")["pixel_values"][0], rtol=0, atol=0.05)
    assert wrap(nn.DataParallel(of_transformers("ViT")), preprocess=processor, classes=NAMES).classes == NAMES

"""What is kept is never out of date: after a change of the model, maps and scores are those of a fresh localizer."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zoo
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from slow import by_default, cases
from torch import nn
from torch.nn.utils import parametrize, prune
from zoo import classifiers, openclip_models, transformers_models
from zoo.families import ROWS

from concept_cam import Localizer, trace, wrap
from concept_cam.backbones import backbone as backbone_module
from concept_cam.backbones.snapshot import Snapshot, checksum, text_state_of, texts_settled
from concept_cam.errors import BackboneError, ConceptCamError
from concept_cam.images import Preprocess
from concept_cam.writers import localize_images

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))


class OwnCNN(nn.Module):
    """A user's CNN with a batch norm: its statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 8, stride=8), nn.BatchNorm2d(16)
        self.conv, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 7)

    def forward(self, x):
        return self.head(self.conv(self.norm(self.stem(x)).relu()).mean((2, 3)))


def _cnn() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OwnCNN().double().eval()


SQUARE = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
MODELS = {
    "open_clip": (openclip_models.vit, lambda m: wrap(m, zoo.TOKENIZER), (48, 48)),
    "transformers CLIP": (transformers_models.clip, ROWS["transformers CLIP"].wrapped, (48, 48)),
    "transformers SigLIP": (transformers_models.siglip, ROWS["transformers SigLIP"].wrapped, (48, 48)),
    "timm": (classifiers.timm_vit, ROWS["timm ViT"].wrapped, (48, 48)),
    "own CNN": (_cnn, lambda m: wrap(m, None, SQUARE, classes=classifiers.CLASSES), (48, 48)),
}


def _linears(model):
    return [module for module in model.modules() if type(module) is nn.Linear]


def _norms(model):
    return [module for module in model.modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)]


def _noise(tensor, seed=7):
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(tensor) * 0.1


def load_state(model):
    model.load_state_dict({n: t + _noise(t) if t.is_floating_point() else t for n, t in model.state_dict().items()})


def fused_step(model):
    parameters = [p.requires_grad_() for p in model.parameters()]
    for parameter in parameters:
        parameter.grad = _noise(parameter)
    torch.optim.AdamW(parameters, lr=0.05, fused=True).step()
    for parameter in parameters:
        parameter.grad = None


def data_in_place(model):
    for parameter in model.parameters():
        parameter.data.add_(_noise(parameter))


def one_number(model):
    """Of the last matrix that texts or classes go through, and of the last that images do, by way of numpy."""
    for layer in _linears(model)[-2:]:
        layer.weight.detach().numpy()[0, 0] += 3.0


def signs(model):
    """An even number of them in each row: sums of bits do not see it."""
    for layer in _linears(model):
        layer.weight.data[:, : layer.in_features // 2 * 2].neg_()


def rows_swapped(model):
    layer = _linears(model)[-1]
    layer.weight.data.copy_(layer.weight.data[torch.arange(layer.out_features).flip(0)])


def averaged(model):
    for parameter in model.parameters():
        parameter.data.lerp_(_noise(parameter), 0.5)


def statistics(model):
    for norm in _norms(model):
        for buffer in norm.buffers():
            if buffer.is_floating_point():
                buffer.data.mul_(1.5)


def data_replaced(model):
    for parameter in model.parameters():
        parameter.data = parameter.data + _noise(parameter)


def parameter_replaced(model):
    for module in list(model.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                # The old one is gone at once: its address may be used again.
                module._parameters[name] = None
                fresh = parameter.detach() + _noise(parameter)
                del parameter
                module._parameters[name] = nn.Parameter(fresh)


def norm_replaced(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                fresh = copy.deepcopy(child)
                fresh.weight.data.add_(_noise(fresh.weight))
                setattr(module, name, fresh)


def linear_replaced(model):
    last = _linears(model)[-1]
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is last:
                fresh = copy.deepcopy(child)
                fresh.weight.data.add_(_noise(fresh.weight))
                setattr(module, name, fresh)


def eps(model):
    for norm in _norms(model):
        norm.eps = 0.5


def pooling(model):
    if hasattr(model, "visual"):
        model.visual.pool_type = "avg"
    elif hasattr(model, "global_pool"):
        model.global_pool = "avg"


class _Scaled(nn.Module):
    def forward(self, weight):
        return 1.5 * weight


def parametrized(model):
    for layer in _linears(model):
        parametrize.register_parametrization(layer, "weight", _Scaled().to(layer.weight))


def hooked(model):
    for module in [*_norms(model), *_linears(model)]:
        module.register_forward_hook(lambda _, __, output: output * 1.25)


def hooked_before(model):
    for module in [*_norms(model), *_linears(model)]:
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.25, *inputs[1:]))


def patched(model):
    for module in [*_norms(model)]:
        own = module.forward
        module.forward = lambda x, own=own: own(x) * 1.25


def class_patched(model):
    """Undone by the fixture."""
    kind = type(_norms(model)[-1])
    own = kind.forward
    functools.update_wrapper(patched_forward := lambda self, x: own(self, x) * 1.25, own)
    _UNDO.append(lambda: setattr(kind, "forward", own))
    kind.forward = patched_forward


def quantized(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(model.float(), {nn.Linear}, inplace=True)


def half(model):
    model.to(torch.float32)


CHANGES: dict[str, Callable] = {
    f.__name__: f
    for f in (
        load_state, fused_step, data_in_place, one_number, signs, rows_swapped, averaged, statistics, data_replaced,
        parameter_replaced, norm_replaced, linear_replaced, eps, pooling, parametrized, hooked, hooked_before, patched,
        class_patched, quantized, half,
    )
}  # fmt: skip

_UNDO: list[Callable] = []

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no more like:UserWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter cannot be set:UserWarning"),
    pytest.mark.filterwarnings("ignore:Already following adapters:UserWarning"),
]

ERRORS = (ConceptCamError, AttributeError)
"""open_clip asks a quantized layer for what it has not, and says so itself."""


@pytest.fixture(autouse=True)
def undone():
    yield
    while _UNDO:
        _UNDO.pop()()


def localizers(wrapped, size, form="auto"):
    sizes = (None, size)
    given = {"templates": templates(wrapped), "method": "hires_cam", "form": form}
    return [Localizer(wrapped, size=one, **given) for one in sizes]


def templates(backbone):
    return None if backbone.classes else ["a {}"]


def asked(backbone):
    return ("red crown", "bird") if not backbone.classes else backbone.classes[:2]


def results(found, concepts):
    """Maps, base maps and scores, or the error that was raised in their place."""
    out = []
    for localizer in found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                out.append(localizer(IMAGE, *concepts))
            except ERRORS as error:
                out.append(error)
    return out


def check_fresh(found, model, wrapped, size, concepts):
    """What is found equals what a fresh dense localizer finds, if that finds anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            fresh = localizers(wrapped(model), size, "dense")
        except ERRORS:
            assert all(isinstance(result, ERRORS) for result in results(found, concepts))
            return
    for ours, own in zip(results(found, concepts), results(fresh, concepts), strict=True):
        if isinstance(own, ERRORS):
            assert isinstance(ours, ERRORS), own
            continue
        assert not isinstance(ours, ERRORS), ours
        for one, other in ((ours.map, own.map), (ours.base_map, own.base_map)):
            assert float((one - other).norm() / other.norm()) <= 1e-5
        assert list(ours.scores) == list(own.scores)
        np.testing.assert_allclose(list(ours.scores.values()), list(own.scores.values()), rtol=1e-5, atol=1e-7)


# Of each kind of change one, in a model that has what it changes, and each model.
KINDS = ("load_state", "one_number", "parameter_replaced", "norm_replaced", "eps", "pooling", "parametrized", "hooked")
NOTICED = {(change, "open_clip") for change in (*KINDS, "class_patched", "quantized")} | {("statistics", "own CNN")}
NOTICED |= {("data_in_place", name) for name in MODELS}


@pytest.mark.parametrize(("change", "name"), cases([(change, name) for change in CHANGES for name in MODELS], *NOTICED))
def test_a_change_is_noticed(change, name):
    build, wrapped, size = MODELS[name]
    model = build()
    backbone = wrapped(model)
    found, concepts = localizers(backbone, size), asked(backbone)
    before = results(found, concepts)
    assert not any(isinstance(result, ERRORS) for result in before)
    CHANGES[change](model)
    check_fresh(found, model, wrapped, size, concepts)
    if change in ("load_state", "fused_step", "data_in_place", "averaged", "data_replaced", "parameter_replaced"):
        after = results(found, concepts)
        assert all(float((a.map - b.map).norm() / b.map.norm()) > 1e-3 for a, b in zip(after, before, strict=True))


# ---- adapters of peft -------------------------------------------------------------------------------------------------

TARGETS = {
    "open_clip": ["c_fc", "c_proj"],
    "transformers CLIP": ["q_proj", "v_proj", "fc1"],
    "transformers SigLIP": ["q_proj", "v_proj", "fc1"],
    "timm": ["qkv", "fc1"],
    "own CNN": ["conv"],
}


def _layers(model):
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def lora_trained(model):
    for layer in _layers(model):
        layer.lora_B["one"].weight.data.add_(_noise(layer.lora_B["one"].weight))


def lora_switched(model):
    lora_trained(model)
    for layer in _layers(model):
        layer.set_adapter("two")


def lora_scaled(model):
    for layer in _layers(model):
        layer.set_scale("one", 5.0)


def lora_merged(model):
    lora_trained(model)
    for layer in _layers(model):
        layer.merge()


def lora_off(model):
    for layer in _layers(model):
        layer.enable_adapters(False)


ADAPTED = (("lora_trained", "own CNN"), ("lora_switched", "open_clip"), ("lora_merged", "transformers CLIP"))
LORA = {f.__name__: f for f in (lora_trained, lora_switched, lora_scaled, lora_merged, lora_off)}


@pytest.mark.parametrize(("change", "name"), cases([(change, name) for change in LORA for name in MODELS], *ADAPTED))
def test_a_change_of_an_adapter_is_noticed(name, change):
    build, wrapped, size = MODELS[name]
    model = build()
    for adapter in ("one", "two"):
        inject_adapter_in_model(LoraConfig(r=2, target_modules=TARGETS[name]), model, adapter)
    model.double().eval()
    for layer in _layers(model):
        layer.set_adapter("one")
        if change != "lora_trained":
            # One that does nothing at first is taken for what it is around, until it is trained.
            for adapter, seed in (("one", 1), ("two", 2)):
                layer.lora_B[adapter].weight.data.add_(_noise(layer.lora_B[adapter].weight, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        backbone = wrapped(model)
    found, concepts = localizers(backbone, size), asked(backbone)
    before = results(found, concepts)
    LORA[change](model)
    check_fresh(found, model, wrapped, size, concepts)
    after = results(found, concepts)
    assert all(float((a.map - b.map).norm() / b.map.norm()) > 1e-4 for a, b in zip(after, before, strict=True))


def test_an_adapter_warns_once_and_says_what_cures_it():
    model = transformers_models.clip()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), model)
    with pytest.warns(UserWarning, match=r"Linear where Linear was expected; merge_and_unload\(\) makes it plain"):
        backbone = MODELS["transformers CLIP"][1](model.double().eval())
    localizer = Localizer(backbone, templates=["a {}"])
    assert localizer(IMAGE, "red crown", "bird").provenance["gradient"] == "dense"


# ---- copies -----------------------------------------------------------------------------------------------------------

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("name", by_default([name for name in MODELS if name != "own CNN"], "open_clip"))
@pytest.mark.parametrize("how", by_default(COPIES, "pickle"))
def test_a_copy_describes_the_module_that_it_holds(name, how):
    build, wrapped, size = MODELS[name]
    backbone = wrapped(build())
    found, concepts = localizers(backbone, size), asked(backbone)
    before = results(found, concepts)
    copied = [COPIES[how](localizer) for localizer in found]
    for localizer in copied:
        assert localizer.backbone.module is not backbone.module
        data_in_place(localizer.backbone.module)
        norm_replaced(localizer.backbone.module)
    for localizer, own_size in zip(copied, (None, size), strict=True):
        anew = wrapped(localizer.backbone.module)
        fresh = Localizer(anew, templates=templates(anew), method="hires_cam", form="dense", size=own_size)
        ours, own = localizer(IMAGE, *concepts), fresh(IMAGE, *concepts)
        torch.testing.assert_close(ours.map, own.map, rtol=1e-5, atol=1e-7)
        assert ours.provenance["gradient"] == "factored"
    for one, other in zip(results(found, concepts), before, strict=True):
        assert torch.equal(one.map, other.map)


# ---- texts, sizes, and what is left to the user -----------------------------------------------------------------------


def test_another_tokenizer_is_noticed():
    backbone = MODELS["open_clip"][1](openclip_models.vit())
    localizer = Localizer(backbone, templates=["a {}"])
    before = localizer(IMAGE, "red crown", "bird")
    backbone.tokenizer = lambda sentences: zoo.TOKENIZER([sentence.replace("red", "blue") for sentence in sentences])
    after = localizer(IMAGE, "red crown", "bird")
    blue = Localizer(MODELS["open_clip"][1](openclip_models.vit()), templates=["a {}"])(IMAGE, "blue crown", "bird")
    assert after.scores["red crown"] == pytest.approx(blue.scores["blue crown"])
    assert after.scores["red crown"] != pytest.approx(before.scores["red crown"])


def test_a_tokenizer_changed_in_place_is_noticed():
    backbone = MODELS["transformers CLIP"][1](transformers_models.clip())
    localizer = Localizer(backbone, templates=["a {}"])
    before = localizer.bank(["red crown"]).vectors
    backbone.tokenizer.backend_tokenizer.post_processor = None
    assert not torch.allclose(localizer.bank(["red crown"]).vectors, before)


def test_texts_are_embedded_once_while_nothing_changes():
    model = openclip_models.vit()
    runs = []
    model.transformer.register_forward_hook(lambda *_: runs.append(1))
    localizer = Localizer(MODELS["open_clip"][1](model), templates=["a {}"])
    localizer(IMAGE, "red crown", "bird")
    first = len(runs)
    localizer(IMAGE, "red crown", "bird")
    assert len(runs) == first > 0


def test_the_model_is_described_once_while_nothing_changes(monkeypatch):
    backbone = MODELS["timm"][1](classifiers.timm_vit())
    described = []
    own = type(backbone).describe
    monkeypatch.setattr(type(backbone), "describe", lambda self: described.append(1) or own(self))
    localizer = Localizer(backbone)
    for _ in range(3):
        localizer(IMAGE, *asked(backbone))
    assert not described


def _held(backbone):
    return {name: id(value) for name, value in vars(backbone).items()}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_written_into_a_backbone_after_it_was_made(name):
    build, wrapped, size = MODELS[name]
    model = build()
    backbone = wrapped(model)
    before, sites = _held(backbone), backbone.sites
    larger = backbone.at_size(size)
    within = _held(larger)
    for change in (None, eps, linear_replaced, pooling):
        if change is not None:
            change(model)
        results(localizers(backbone, size), asked(backbone))
    backbone.forget()
    results(localizers(backbone, size), asked(backbone))
    assert _held(backbone) == before
    assert _held(larger) == within
    assert backbone.sites is not sites


class _Counting(OwnCNN):
    """Writes attributes as it runs: no change of settings."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        self.last = x.detach()
        return super().forward(x)


def test_what_a_run_writes_itself_is_no_change(monkeypatch):
    backbone = MODELS["own CNN"][1](_Counting().double().eval())
    localizer = Localizer(backbone)
    localizer(IMAGE, "finch", "jay")
    described = []
    own = type(backbone).describe
    monkeypatch.setattr(type(backbone), "describe", lambda self: described.append(1) or own(self))
    localizer(IMAGE, "finch", "jay")
    assert not described
    backbone.module.norm.eps = 0.5
    localizer(IMAGE, "finch", "jay")
    assert described


def test_forget_is_for_what_cannot_be_noticed():
    model = openclip_models.vit()
    own = model.encode_text
    scale = [1.0]
    model.encode_text = lambda *args, **kwargs: own(*args, **kwargs) + scale[0]
    localizer = Localizer(MODELS["open_clip"][1](model), templates=["a {}"])
    before = localizer.bank(["bird"]).vectors
    scale[0] = 2.0
    assert torch.equal(localizer.bank(["bird"]).vectors, before)
    localizer.backbone.forget()
    assert not torch.allclose(localizer.bank(["bird"]).vectors, before)


# ---- snapshots --------------------------------------------------------------------------------------------------------

WRITES = {
    "the smallest change": lambda w: w[5, 5].copy_(torch.nextafter(w[5, 5], torch.tensor(9.0).to(w))),
    "all doubled": lambda w: w.mul_(2),
    "all signs": lambda w: w.neg_(),
    "signs of a row": lambda w: w[3].neg_(),
    "two numbers change places": lambda w: w[0, :2].copy_(w[0, :2].flip(0).clone()),
    "two rows change places": lambda w: w[:2].copy_(w[:2].flip(0).clone()),
    "columns change places": lambda w: w.copy_(w.flip(1).clone()),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("write", WRITES)
def test_a_checksum_sees(write, dtype):
    for shape, order in (((64, 48), None), ((7, 9), None), ((64, 48), "transposed")):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        weight = weight.t().contiguous().t() if order else weight
        before = checksum([weight])
        assert checksum([weight]) == before
        if dtype in (torch.float32, torch.float64) or write != "the smallest change":
            WRITES[write](weight)
        else:
            weight[5, 5] *= 1.02
        assert checksum([weight]) != before


def test_a_checksum_sees_kind_and_shape():
    weight = torch.zeros(4, 6)
    assert checksum([weight]) != checksum([weight.double()]) != checksum([weight.t()])
    assert checksum([weight.to(torch.complex64), torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.uint8)])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "mode", "other"),
        lambda m: m.settings["inner"].append(1),
        lambda m: setattr(m.config, "eps", 2),
        lambda m: m.register_forward_hook(print),
        lambda m: m.register_forward_pre_hook(print),
        lambda m: setattr(m, "norm", nn.LayerNorm(3)),
        lambda m: setattr(m.norm, "weight", nn.Parameter(torch.ones(3))),
        lambda m: setattr(m.norm, "forward", print),
        lambda m: setattr(m.partial.args[0], "eps", 5),
        lambda m: m.half(),
        lambda m: setattr(m, "extra", None),
        lambda m: delattr(m, "mode"),
    ],
)
def test_a_snapshot_sees(change):
    class Config:
        eps = 1

        def __init__(self) -> None:
            self.eps = 1

    model = nn.Module()
    model.mode, model.settings, model.config, model.norm = "one", {"inner": [0]}, Config(), nn.LayerNorm(3)
    model.partial = functools.partial(print, Config())
    before = Snapshot(model)
    model.train(not model.training)
    assert Snapshot(model) == before
    change(model)
    assert Snapshot(model) != before


# ---- what no parameter or buffer holds --------------------------------------------------------------------------------


def _hooked_rows(kind):
    """A head whose weight is a plain tensor that a hook makes when the layer runs."""
    model = _cnn()
    if kind == "pruned":
        prune.random_unstructured(model.head, "weight", 0.3)
        return model, model.head.weight_orig
    getattr(torch.nn.utils, kind)(model.head)
    return model, {"weight_norm": "weight_g", "spectral_norm": "weight_orig"}[kind]


@pytest.mark.parametrize("kind", by_default(["pruned", "weight_norm", "spectral_norm"], "pruned"))
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated:FutureWarning")
def test_rows_that_a_hook_makes_are_those_of_the_model(kind):
    model, changed = _hooked_rows(kind)
    model.eval()
    localizer = Localizer(wrap(model, None, SQUARE, classes=classifiers.CLASSES))
    localizer(IMAGE, "finch", "jay")
    parameter = changed if isinstance(changed, nn.Parameter) else getattr(model.head, changed)
    parameter.data.add_(3 * _noise(parameter)).mul_(1.5)
    result = localizer(IMAGE, "finch", "jay")
    with torch.no_grad():
        own = model(localizer.frame(IMAGE).pixels[None].double())[0]
    assert result.scores["finch"] == pytest.approx(float(own[0]), rel=1e-6)
    assert result.scores["jay"] == pytest.approx(float(own[1]), rel=1e-6)


def test_rows_that_are_no_longer_what_scores_are_made_of_are_an_error():
    model = _cnn()
    localizer = Localizer(wrap(model, None, SQUARE, classes=classifiers.CLASSES))
    localizer(IMAGE, "finch", "jay")
    scale = [1.0]
    own = nn.functional.linear

    class Patched(nn.Linear):
        def forward(self, x):
            return own(x, self.weight, self.bias) * scale[0]

    model.head.__class__ = Patched
    localizer(IMAGE, "finch", "jay")
    scale[0] = 2.0
    with pytest.raises(BackboneError, match="gives other scores than its rows times its input"):
        localizer(IMAGE, "finch", "jay")


class _Plain(OwnCNN):
    """Keeps numbers in a plain tensor, a list of them and an array."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.more, self.array = torch.ones(16, 1, 1).double(), [torch.ones(16, 1, 1).double()], np.array([1.0])

    def forward(self, x):
        x = self.norm(self.stem(x)) * self.gain * self.more[0] * float(self.array[0])
        return self.head(self.conv(x).relu().mean((2, 3)))


PLAIN = {
    "tensor": lambda m: m.gain.add_(_noise(m.gain) * 5),
    "tensor in a list": lambda m: m.more[0].add_(_noise(m.more[0]) * 5),
    "array": lambda m: m.array.fill(-3.0),
}


@pytest.mark.parametrize("change", by_default(PLAIN, "tensor in a list"))
def test_numbers_outside_parameters_are_noticed_at_every_size(change):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Plain().double().eval()

    def wrapped(model):
        return wrap(model, None, SQUARE, classes=classifiers.CLASSES)

    found = localizers(wrapped(model), (64, 64))
    before = results(found, ("finch", "jay"))
    PLAIN[change](model)
    check_fresh(found, model, wrapped, (64, 64), ("finch", "jay"))
    after = results(found, ("finch", "jay"))
    assert all(float((a.map - b.map).norm() / b.map.norm()) > 1e-3 for a, b in zip(after, before, strict=True))


def test_forget_drops_the_rows_of_a_classifier_too():
    backbone = wrap(_cnn(), None, SQUARE, classes=classifiers.CLASSES)
    before = backbone.text_state()
    backbone.forget()
    assert backbone.text_state() != before


def test_a_map_of_another_size_lies_where_its_cells_look():
    backbone = wrap(_cnn(), None, Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3), classes=classifiers.CLASSES)
    seen = trace(backbone, torch.zeros(1, 3, 75, 75, dtype=torch.float64))
    assert seen.layout == backbone.at_size((75, 75)).sites[0].layout.read(torch.zeros(1, 16, 9, 9))[1]


def test_a_bank_asked_for_in_inference_mode_is_of_use_outside():
    localizer = Localizer(MODELS["open_clip"][1](openclip_models.vit()), templates=["a {}"])
    with torch.inference_mode():
        inside = localizer.bank(["red crown", "bird"])
    assert not inside.vectors.is_inference()
    assert torch.equal(localizer.bank(["bird", "red crown"]).vectors.flip(0), inside.vectors)


def test_a_bank_that_somebody_writes_into_is_made_anew():
    localizer = Localizer(MODELS["open_clip"][1](openclip_models.vit()), vocabulary=zoo.WORDS, templates=["a {}"])
    whole = localizer.bank(zoo.WORDS)
    expected = whole.vectors.clone()
    for _ in range(6):
        whole.vectors.zero_()
        whole = localizer.bank(zoo.WORDS)
        assert torch.equal(whole.vectors, expected)
        for word in zoo.WORDS:
            localizer.bank([word])


def test_a_run_looks_at_the_text_encoder_once_and_the_next_run_again(tmp_path, monkeypatch):
    made, wrapped, _ = MODELS["open_clip"]
    backbone = wrapped(model := made())
    localizer = Localizer(backbone, vocabulary=["red crown", "bird"])
    images = [tmp_path / f"{k}.png" for k in range(4)]
    for path in images:
        IMAGE.save(path)
    looks = []
    real = backbone_module.Snapshot
    monkeypatch.setattr(
        backbone_module, "Snapshot", lambda *given, **how: looks.append(how.get("contents")) or real(*given, **how)
    )

    def scores(folder):
        found = []
        localize_images(
            localizer,
            images,
            folder,
            "red crown",
            "bird",
            batch_size=1,
            told=lambda _, one: found.append(one.scores["red crown"]),
        )
        assert len(found) == 4
        return found

    first = scores(tmp_path / "first")
    assert looks.count(True) == 1
    with torch.no_grad():
        model.token_embedding.weight.data.mul_(torch.linspace(0.5, 2, model.token_embedding.weight.shape[1]))
    second = scores(tmp_path / "second")
    assert looks.count(True) == 2
    assert min(abs(float(a - b)) for a, b in zip(first, second, strict=True)) > 1e-4

    # Of another thread nothing is promised, and after a failure nothing is kept.
    @texts_settled()
    def fails():
        inside.append(text_state_of(backbone, backbone.text_state))
        assert text_state_of(backbone, backbone.text_state) is inside[0]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(text_state_of, backbone, backbone.text_state).result() is not inside[0]
        raise ZeroDivisionError

    inside = []
    with pytest.raises(ZeroDivisionError):
        fails()
    assert text_state_of(backbone, backbone.text_state) is not inside[0]


def test_a_run_looks_at_the_rows_of_a_classifier_once_too(tmp_path, monkeypatch):
    backbone = MODELS["own CNN"][1](_cnn())
    looks, own = [], type(backbone).text_state
    monkeypatch.setattr(type(backbone), "text_state", lambda self: looks.append(self) or own(self))
    images = [tmp_path / f"{k}.png" for k in range(3)]
    for path in images:
        IMAGE.save(path)
    localize_images(
        Localizer(backbone), images, tmp_path / "out", classifiers.CLASSES[0], classifiers.CLASSES[1], batch_size=1
    )
    assert looks == [backbone]

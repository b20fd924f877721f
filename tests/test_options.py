"""Every option against every kind of model: used, or refused in a sentence, and never ignored.

``USED`` says that the option decides something, which a test elsewhere or here holds; a text is what the refusal says. A new
parameter of a function, or a new option of a command, fails here until it has a row.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
import zoo
from PIL import Image
from safetensors.torch import save_file
from slow import by_default
from torch import nn
from zoo import classifiers, openclip_models, transformers_models
from zoo.shake import shaken

from concept_cam import Localizer, against, by_score, load, world, wrap
from concept_cam.audit import audit
from concept_cam.errors import ConceptCamError
from concept_cam.evaluation import evaluate
from concept_cam.images import Preprocess
from concept_cam.methods import layer_cam, rollout
from concept_cam.world.checkpoint import FOLDER
from concept_cam.world.dataset import birds_dataset

USED = None
NAMES = ["ant", "bee", "wasp"]
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def options_of(function) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


# ---- load -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """A model of each kind that ``load`` takes, on disk."""
    root = tmp_path_factory.mktemp("models")
    dual, single, folder = root / "dual", root / "single", root / "timm"
    transformers_models.clip().float().save_pretrained(dual)
    transformers_models.tokenizer().save_pretrained(dual)
    size = {"shortest_edge": 32}
    transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(dual)
    vit = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32}
    labels = {"id2label": dict(enumerate("abc")), "label2id": {name: i for i, name in enumerate("abc")}}
    config = transformers.ViTConfig(**vit, patch_size=8, **labels)
    shaken(lambda: transformers.ViTForImageClassification(config)).float().save_pretrained(single)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(single)
    folder.mkdir()
    model = shaken(lambda: timm.create_model("test_vit", num_classes=3)).float()
    own = {"input_size": [3, 160, 160], "fixed_input_size": True, "classifier": "head", "num_classes": 3}
    own["label_names"] = ["x", "y", "z"]
    about = {"architecture": "test_vit", "num_classes": 3, "num_features": 64, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps(about))
    save_file(model.state_dict(), folder / "model.safetensors")
    other = shaken(lambda: timm.create_model("test_vit", num_classes=3), seed=1).float()
    save_file(other.state_dict(), root / "other.safetensors")
    return {
        "open_clip folder": f"local-dir:{FOLDER}",
        "open_clip name": "ViT-B-32",
        "transformers, dual": str(dual),
        "transformers, classifier": str(single),
        "timm folder": str(folder),
        "timm name": "test_vit",
        "weights": str(root / "other.safetensors"),
    }


LOAD: Mapping[str, Mapping[str, str | None]] = {
    "open_clip folder": {"pretrained": "brings its own weights; leave out pretrained", "classes": "leave out classes"},
    "open_clip name": {"pretrained": "much larger than its weights", "classes": "leave out classes"},
    "transformers, dual": {"pretrained": "leave out pretrained=", "classes": "leave out classes"},
    "transformers, classifier": {"pretrained": "leave out pretrained=", "classes": USED},
    "timm folder": {"pretrained": USED, "classes": USED},
    "timm name": {"pretrained": USED, "classes": USED},
}


def test_load_has_no_other_options():
    assert options_of(load) == {"name", "device", *LOAD["timm name"]}


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("option", ["pretrained", "classes", "device"])
def test_every_option_of_load(kind, option, places):
    # A name alone has no weights here: its file goes with it.
    options: dict[str, Any] = {"pretrained": places["weights"]} if kind == "timm name" else {}
    if kind == "timm name":
        options["classes"] = tuple("xyz")
    if option == "device":
        with pytest.raises(ConceptCamError, match="There is no device 'nonsense'"):
            load(places[kind], device="nonsense", **options)
        return
    value = places["weights"] if option == "pretrained" else NAMES
    refused = LOAD[kind][option]
    if refused is not None:
        with pytest.raises(ConceptCamError, match=refused):
            load(places[kind], **{**options, option: value})
        return
    found = load(places[kind], **{**options, option: value})
    if option == "classes":
        assert found.classes == tuple(NAMES)
    else:
        own = shaken(lambda: timm.create_model("test_vit", num_classes=3), seed=1).float()
        torch.testing.assert_close(found.embed_texts(found.classes), own.head.weight.detach())


# ---- wrap -------------------------------------------------------------------------------------------------------------

GIVEN = Preprocess((32, 48), (0.1,) * 3, (0.2,) * 3)


class Two(nn.Module):
    """A classifier that needs every option."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, batch):
        pooled = self.stem(batch["image"]).mean((2, 3))
        return self.one(pooled), self.two(pooled)


def of_transformers():
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, id2label=dict(enumerate("abc")))
    return shaken(lambda: transformers.ViTForImageClassification(config))


KINDS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "open_clip": (openclip_models.vit, {"tokenizer": zoo.TOKENIZER}),
    "open_clip on timm": (openclip_models.TRUNKS["convnext"], {"tokenizer": zoo.TOKENIZER}),
    "transformers, dual": (transformers_models.clip, {"tokenizer": transformers_models.tokenizer()}),
    "transformers, classifier": (of_transformers, {"preprocess": Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)}),
    "timm": (classifiers.timm_resnet, {"preprocess": GIVEN, "classes": classifiers.CLASSES}),
    "own": (Two, {"preprocess": GIVEN, "classes": NAMES, "call": lambda model, x: model({"image": x}), "head": "one"}),
}
_DUAL = {
    "tokenizer": USED,
    "preprocess": USED,
    "classes": "given as a classifier, which reads no texts",
    "name": USED,
    "head": "head= is for classifiers",
    "call": "call= is for classifiers",
}
_CLASSIFIER = {**dict.fromkeys(_DUAL, USED), "tokenizer": "which reads no texts; leave out the tokenizer"}
WRAP = {kind: _DUAL if "tokenizer" in given else _CLASSIFIER for kind, (_, given) in KINDS.items()}
LAST = {"transformers, classifier": "classifier", "timm": "fc", "own": "two"}


@pytest.mark.parametrize("kind", by_default(KINDS, "open_clip", "transformers, dual", "own"))
@pytest.mark.parametrize("option", _DUAL)
def test_every_option_of_wrap(kind, option):
    assert options_of(wrap) == {"model", *WRAP[kind]}
    build, given = KINDS[kind]
    size = (64, 96) if kind == "open_clip on timm" else (32, 32) if "transformers" in kind else (24, 40)
    count = len(given.get("classes", "abc"))
    calls: list[int] = []

    def call(model, x):
        calls.append(1)
        return model({"image": x}) if kind == "own" else model(x)

    values = {
        "tokenizer": given.get("tokenizer", zoo.TOKENIZER),
        "preprocess": Preprocess(size, (0.3,) * 3, (0.4,) * 3),
        "classes": [f"class {i}" for i in range(count)],
        "name": "mine",
        "head": LAST.get(kind, "visual"),
        "call": call,
    }
    refused = WRAP[kind][option]
    if refused is not None:
        with pytest.raises(ConceptCamError, match=refused):
            wrap(build(), **{**given, option: values[option]})
        return
    backbone = wrap(build(), **{**given, option: values[option]})
    if option == "preprocess":
        assert (backbone.preprocess.mean, backbone.preprocess.size) == ((0.3,) * 3, size)
    elif option == "classes":
        assert backbone.classes == tuple(values["classes"])
    elif option == "name":
        assert backbone.name == "mine"
    elif option == "tokenizer":
        assert backbone.tokenizer is values["tokenizer"]
    elif option == "head":
        rows = dict(backbone.module.named_modules())[LAST[kind]].weight
        assert torch.equal(backbone.embed_texts(backbone.classes), rows.detach().flatten(1))
    else:
        before = len(calls)
        backbone.embed_pixels(torch.zeros(1, 3, *backbone.preprocess.size, dtype=backbone.dtype))
        assert len(calls) > before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if WRAP[kind] is _DUAL])
def test_classes_make_no_classifier_of_a_dual_encoder(kind):
    with pytest.raises(ConceptCamError, match="is a dual encoder: its concepts are texts; leave out classes"):
        wrap(KINDS[kind][0](), classes=NAMES)


# ---- Localizer --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbones():
    return {kind: wrap(build(), **given) for kind, (build, given) in KINDS.items()}


def localized(backbone, method="hires_cam", **options):
    names = backbone.classes[:2] or ("red crown", "blue crown")
    made: dict[str, Any] = {} if backbone.classes else {"templates": ["a {}"]}
    asked = {key: options.pop(key) for key in ("against", "strength", "weighting") if key in options}
    asked.setdefault("against", names[1])
    return Localizer(backbone, method=method, **{**made, **options})(IMAGE, names[0], **asked)


LOCALIZER = {"vocabulary", "templates", "method", "site", "form", "fit", "size", "on_device"}


def test_a_localizer_has_no_other_options():
    assert options_of(Localizer) == {"backbone", *LOCALIZER}
    assert options_of(Localizer.__call__) == {"image", "target", "against", "strength", "weighting"}
    assert options_of(Localizer.batch) == {"images", "target", "against", "strength", "weighting"}
    assert options_of(world.localizer) - {"device", "checkpoint"} == LOCALIZER - {"on_device"}


@pytest.mark.parametrize("kind", KINDS)
def test_templates_are_of_texts_alone(backbones, kind):
    backbone = backbones[kind]
    if backbone.classes:
        for templates in ("photo", ["{}"]):
            with pytest.raises(ConceptCamError, match="is a classifier, which reads no texts; leave the templates out"):
                Localizer(backbone, templates=templates)
        assert Localizer(backbone).templates == ("{}",)
    else:
        one, other = (localized(backbone, templates=[text], strength=0.0) for text in ("a {}", "the {} of a bird"))
        assert not torch.equal(one.map, other.map)
        assert one.provenance["templates"] == ["a {}"]


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
@pytest.mark.parametrize("kind", by_default(KINDS, "open_clip", "transformers, classifier", "own"))
def test_every_option_of_a_localizer_decides_something(backbones, kind):
    backbone = backbones[kind]
    names = backbone.classes[:3] or zoo.WORDS[:3]
    usual = localized(backbone)
    step = backbone.preprocess.stride
    larger = tuple(2 * side for side in backbone.preprocess.size)
    assert not torch.equal(localized(backbone, method=layer_cam).map, usual.map)
    assert localized(backbone, size=larger).provenance["input"]["size"] == list(larger)
    assert localized(backbone, fit="squash").provenance["input"]["fit"] == "squash"
    assert localized(backbone, form="dense").provenance["gradient"] == "dense"
    if len(backbone.sites) > 1:
        assert localized(backbone, site=backbone.sites[1].name).provenance["site"] == backbone.sites[1].name
    chosen = localized(backbone, vocabulary=names, against=None)
    assert set(chosen.comparison.references) == set(names) - {chosen.comparison.target}
    for options, message in (
        ({"site": "nowhere"}, "has no site 'nowhere'"),
        ({"method": "gradcam"}, "grad_cam"),
        ({"size": 0}, "size is 0"),
    ):
        with pytest.raises(ConceptCamError, match=message):
            localized(backbone, **options)
    assert step >= 1
    several = against(*names[1:3])
    weighed = localized(backbone, against=several, weighting=by_score(50.0))
    assert weighed.comparison.weights != localized(backbone, against=several).comparison.weights
    assert not torch.equal(localized(backbone, strength=1.0).map, usual.map)


def test_a_vocabulary_of_a_classifier_is_of_its_classes(backbones):
    with pytest.raises(ConceptCamError, match="has no class 'red crown'"):
        localized(backbones["own"], vocabulary=["ant", "red crown"], against=None)


def test_references_of_a_method_that_sees_no_score_are_refused(backbones):
    with pytest.raises(ConceptCamError, match="does not look at the score"):
        localized(backbones["open_clip"], method=rollout)


def test_options_of_an_evaluation_that_go_with_another_are_refused_alone(tmp_path):
    known = options_of(evaluate) - {"localizer", "dataset", "folder", "about", "command"}
    assert known == {
        *("methods", "references", "strengths", "deletion", "sanity", "mosaics", "cells", "seed", "among", "probe", "decay"),
        "centred",
    }
    for options in ({"decay": 0.1}, {"seed": 0}, {"cells": "half"}):
        (option,) = options
        with pytest.raises(ConceptCamError, match=f"{option} is .*, which is (of a probe|for mosaics)"):
            evaluate(world.localizer(), birds_dataset(2), tmp_path, **options)


def test_templates_without_what_they_are_for_are_refused(tmp_path):
    known = options_of(audit) - {"localizer", "dataset", "folder", "about", "command"}
    assert known == {"parts", "backgrounds", "part_templates", "scene_templates", "strength", "among"}
    for option in ("part_templates", "scene_templates"):
        with pytest.raises(ConceptCamError, match=f"{option} has no effect without"):
            audit(world.localizer(), birds_dataset(2), tmp_path, **{option: ("a {}",)})


# ---- the command line -------------------------------------------------------------------------------------------------

COMMANDS = {
    "localize": {
        *("images", "target", "against", "vocabulary", "nearest", "rivals", "strength", "method", "model", "pretrained"),
        *("classes", "site", "fit", "size", "templates", "device", "sweep", "by_reference", "seed"),
        *("batch_size", "workers", "processes", "engine", "table", "output", "overlays", "show", "json", "out"),
    },
    "evaluate": {
        *(
            "dataset",
            "layout",
            "root",
            "methods",
            "references",
            "strengths",
            "paper",
            "deletion",
            "sanity",
            "mosaics",
            "cells",
        ),
        *("probe", "decay", "pool", "centred", "among", "limit", "seed", "model", "pretrained", "classes", "site"),
        *("fit", "size", "templates", "device", "processes", "engine", "out"),
    },
    "audit": {
        *(
            "dataset",
            "layout",
            "root",
            "parts",
            "backgrounds",
            "among",
            "limit",
            "seed",
            "model",
            "pretrained",
            "classes",
        ),
        *("other_model", "other_pretrained", "method", "site", "fit", "size", "templates", "device"),
        *("fail_on", "processes", "engine", "out"),
    },
    "parts": {
        *("images", "parts", "strength", "method", "model", "pretrained", "classes", "site", "fit", "size", "templates"),
        *("device", "count", "batch_size", "workers", "processes", "engine", "table", "output", "overlays"),
        *("explore", "boxes", "json", "out"),
    },
    "fields": {
        *("images", "keep", "method", "model", "pretrained", "classes", "site", "fit", "size", "templates", "device"),
        *("batch_size", "workers", "processes", "engine", "out"),
    },
    "search": {
        *("store", "targets", "against", "vocabulary", "nearest", "strength", "top", "root"),
        *("model", "pretrained", "classes", "device", "json", "out"),
    },
    "explore": {
        *("images", "vocabulary", "method", "model", "pretrained", "classes", "site", "fit", "size", "templates", "device"),
        *("batch_size", "workers", "out"),
    },
    "demo": {
        *("vocabulary", "method", "model", "pretrained", "classes", "site", "fit", "size", "templates", "device"),
        *("host", "port", "max_pixels", "max_size"),
    },
    "report": {"folder", "other", "fail_on"},
    "check": {"model", "pretrained", "classes", "device", "json"},
    "world": {"folder", "plates", "seed", "size"},
    "models": {"json"},
    "methods": {"json"},
}


def test_no_command_has_other_options():
    import typer.main

    from concept_cam.cli import app

    found = {name: {p.name for p in one.params} - {"help"} for name, one in typer.main.get_command(app).commands.items()}
    assert found == COMMANDS


@pytest.fixture
def run(command_line, tmp_path, places):
    IMAGE.save(tmp_path / "photo.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for name in NAMES[:2]:
        (tmp_path / "set" / name).mkdir(parents=True)
        IMAGE.save(tmp_path / "set" / name / "1.png")
    return command_line


_ASK = ("localize", "photo.png", "--target")
_OWN = (*_ASK, "red crown", "--against", "blue crown")
_SINGLE = (*_ASK, "a", "--model", "{transformers, classifier}")
_TIMM = (*_ASK, "x", "--model", "{timm folder}")
DROPPED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "seed, with images": ((*_OWN, "--seed", "3"), "--seed 3 has no effect where images are given"),
    "seed 0, with images": ((*_OWN, "--seed", "0"), "--seed 0 has no effect where images are given"),
    "strength, of attention": (
        (*_ASK, "red crown", "--method", "rollout", "--strength", "0.6"),
        "--strength 0.6 has no effect with --method rollout",
    ),
    "weights of the embedded encoder": ((*_OWN, "--pretrained", "w.pt"), "--pretrained w.pt needs a --model"),
    "names of the embedded encoder": ((*_OWN, "--classes", "names.txt"), "--classes names.txt needs a --model"),
    "names of its sister": (
        (*_OWN, "--model", "world-shortcut", "--classes", "names.txt"),
        "--classes is not for the embedded encoder",
    ),
    "weights of transformers": ((*_SINGLE, "--pretrained", "nowhere.pt"), "leave out pretrained='nowhere.pt'"),
    "templates of transformers' classifier": ((*_SINGLE, "--templates", "photo"), "leave the templates out"),
    "templates of timm": ((*_TIMM, "--templates", "photo"), "leave the templates out"),
    "names of a dual encoder": (
        (*_OWN, "--model", "{transformers, dual}", "--classes", "names.txt"),
        "is no image classifier",
    ),
    "count, with images": (("parts", "photo.png", "--count", "2"), "--count 2 has no effect where images are given"),
    "table, beside a data set": (
        (*_OWN, "--as", "parquet", "--table", "all.csv"),
        "all.csv, which has no effect with parquet: the data set is the table",
    ),
    "objects of a data set": ((*_OWN, "--as", "parquet", "--json"), "--json has no effect with --as parquet"),
    "maps of a data set, shown": ((*_OWN, "--as", "parquet", "--show"), "--show has no effect with --as parquet"),
    "maps among objects": ((*_OWN, "--json", "--show"), "--show has no effect with --json"),
    "boxes of what is not drawn": (
        ("parts", "photo.png", "--no-overlays", "--boxes"),
        "--boxes has no effect where nothing is drawn; leave it out, or add --overlays",
    ),
    "decay, without a probe": (("evaluate", "--decay", "0.1"), "--decay 0.1 has no effect without --probe"),
    "pool, without a probe": (("evaluate", "--pool", "average"), "--pool average: expected average, with --probe"),
    "templates, with a probe": (
        ("evaluate", "--probe", "--templates", "photo"),
        "--templates photo has no effect with --probe",
    ),
    "among, with a probe": (("evaluate", "--probe", "--among", "model"), "--among model has no effect with --probe"),
    "among, of a dual encoder": (("evaluate", "--among", "model"), "has no classes but those of the data set; leave it out"),
    "among, of an audit of a dual encoder": (("audit", "--among", "dataset"), "has no classes but those of the data set"),
    "paper, of mosaics": (("evaluate", "--paper", "--mosaics", "nearest"), "leave it out, or leave out --mosaics"),
    "seed, of a set on disk": (("evaluate", "set", "--seed", "1"), "--seed 1 has no effect on set"),
    "layout, of a drawn set": (("evaluate", "--layout", "folders"), "world"),
    "seed, of an audit on disk": (("audit", "set", "--seed", "1"), "--seed 1 has no effect on set"),
    "names, of an audit of the embedded encoder": (("audit", "--classes", "names.txt"), "--classes names.txt needs a --model"),
    "other weights": (("audit", "--other-pretrained", "w.pt"), "--other-pretrained w.pt needs an --other-model"),
    "templates, of an audit": (
        ("audit", "set", "--model", "{timm folder}", "--classes", "names.txt", "--templates", "photo"),
        "leave the templates out",
    ),
    "words, of an audit of a classifier": (
        ("audit", "set", "--model", "{timm folder}", "--classes", "names.txt", "--backgrounds", "backgrounds"),
        "has no class",
    ),
    "parts of a classifier": (("parts", "photo.png", "--model", "{timm folder}", "--parts", "birds"), "has no class"),
    "strength, of a search for one text": (
        ("search", "nowhere", "red crown", "--strength", "1"),
        "--strength 1.0 has no effect without --against or --nearest",
    ),
    "vocabulary, of a search that chooses none": (
        ("search", "nowhere", "red crown", "--vocabulary", "names.txt"),
        "--vocabulary names.txt has no effect without --nearest",
    ),
    "method, of an explorer": (("explore", "photo.png", "--method", "rollout"), "rollout does not look at the score"),
    "explorer, of parts by a method that is not linear": (
        ("parts", "photo.png", "--parts", "world-parts", "--method", "legrad", "--explore"),
        "legrad is not linear",
    ),
    "templates, of an explorer of a classifier": (
        ("explore", "photo.png", "--model", "{timm folder}", "--templates", "photo"),
        "leave the templates out",
    ),
    "no vocabulary, of an explorer": (
        ("explore", "photo.png", "--model", "{open_clip folder}"),
        "has no vocabulary of its own; give one with --vocabulary",
    ),
    "names, of fields of the embedded model": (("fields", "photo.png", "--classes", "names.txt"), "--classes names.txt needs"),
    "weights, of a check": (("check", "{transformers, dual}", "--pretrained", "nowhere.pt"), "leave out pretrained="),
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_would_be_dropped_is_refused_in_one_line(run, places, case):
    arguments, message = DROPPED[case]
    code, _, err = run(*(places.get(argument.strip("{}"), argument) for argument in arguments))
    assert code == 2, err
    assert message in err.strip().splitlines()[-1]
    assert "Loading weights" not in err  # nobody looks on
    assert "Traceback" not in err


@pytest.mark.parametrize("command", by_default(["evaluate", "audit"], "audit"))
def test_a_data_set_is_judged_by_a_classifier_with_its_own_names(run, places, tmp_path, command):
    options = ("--methods", "grad_cam", "--references", "nearest:1", "--strengths", "1") if command == "evaluate" else ()
    code, out, err = run(
        command, "set", "--model", places["timm folder"], "--classes", "names.txt", *options, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "3 of the 3 classes" in out
    rows = (tmp_path / "out" / "rows.csv").read_text()
    assert "ant" in rows
    assert Path(tmp_path / "out" / "run.json").is_file()

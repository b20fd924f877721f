"""Checkpoints that bring code, in every place where a library would look, with ``yes`` on standard input: none of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from zoo import checkpoints
from zoo.checkpoints import changed

from concept_cam import world

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast
class EvilConfig(CLIPConfig): pass
class EvilModel(CLIPModel): pass
class EvilTokenizer(PreTrainedTokenizerFast): pass
class EvilProcessor(CLIPImageProcessor): pass
"""
_TOKENIZER = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}


class Touch:
    """A pickle that leaves a mark as it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _archive_with_code(path: Path, marker: Path) -> None:
    """TorchScript whose reading runs a pickle as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions deprecate it
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    inner = next(name for name in parts if name.endswith("constants.pkl"))
    parts[inner] = pickle.dumps(Touch(marker))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _pickled(path: Path, marker: Path) -> None:
    torch.save({"state_dict": Touch(marker)}, path)


def _pickled_before_zip(path: Path, marker: Path) -> None:
    torch.save({"state_dict": Touch(marker)}, path, _use_new_zipfile_serialization=False)


def _plain_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Touch(marker)))


def _wrong_arguments(path: Path, marker: Path) -> None:
    """A TypeError first: open_clip then asks torch.load again, without weights_only."""
    twice = io.BytesIO()
    twice.write(b"\x80\x02ccollections\nOrderedDict\n(I1\nI2\nI3\ntR.")
    path.write_bytes(twice.getvalue() + pickle.dumps(Touch(marker)))


def _arrays(path: Path, marker: Path) -> None:
    np.savez(path.with_suffix(".npz"), cls=np.array([Touch(marker)], dtype=object))


PICKLES = {
    "a pickle": _pickled,
    "a pickle of old": _pickled_before_zip,
    "a plain pickle": _plain_pickle,
    "a pickle that fails first": _wrong_arguments,
    "TorchScript": _archive_with_code,
}


class Folders:
    """Makes folders, each with code beside its settings."""

    def __init__(self, root: Path, hub: Path) -> None:
        self.root, self.hub, self.marker = root, hub, root / "marker"

    def of(self, layout: str) -> Path:
        folder = checkpoints.LAYOUTS[layout](self.root / str(len(list(self.root.iterdir()))))
        (folder / "evil.py").write_text(CODE.format(marker=str(self.marker)))
        return folder


def _open_clip(**changes):
    """Changes of each file, by its name without ending."""

    def build(folders: Folders) -> list[str]:
        folder = folders.of("open_clip")
        for file, values in changes.items():
            changed(folder / f"{file}.json", **values)
        return [f"local-dir:{folder}"]

    return build


def _open_clip_tower(folders: Folders) -> list[str]:
    """A text tower in another folder."""
    other = folders.of("dual encoder")
    changed(
        other / "config.json", auto_map={"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}, model_type="evil"
    )
    folder = folders.of("open_clip")
    changed(folder / "open_clip_config.json", **{"model_cfg.text_cfg.hf_model_name": str(other)})
    return [f"local-dir:{folder}"]


def _open_clip_trunk(folders: Folders) -> list[str]:
    other = folders.of("timm")
    (other / "model.safetensors").unlink()
    _pickled(other / "pytorch_model.bin", folders.marker)
    folder = folders.of("open_clip")
    trunk = {"model_cfg.vision_cfg.timm_model_name": f"local-dir:{other}", "model_cfg.vision_cfg.timm_model_pretrained": True}
    changed(folder / "open_clip_config.json", **trunk)
    return [f"local-dir:{folder}"]


def _of_transformers(layout: str, **changes):
    def build(folders: Folders) -> list[str]:
        folder = folders.of(layout)
        for file, values in changes.items():
            changed(folder / f"{file}.json", **values)
        return [f"transformers:{folder}"]

    return build


def _timm(**changes):
    def build(folders: Folders) -> list[str]:
        folder = folders.of("timm")
        changed(folder / "config.json", **changes)
        return [str(folder)]

    return build


def _timm_elsewhere(folders: Folders) -> list[str]:
    other, folder = folders.of("timm"), folders.of("timm")
    (other / "model.safetensors").unlink()
    _pickled(other / "pytorch_model.bin", folders.marker)
    changed(folder / "config.json", architecture=f"local-dir:{other}")
    return [str(folder)]


def _weights(layout: str, old: str, new: str, how):
    def build(folders: Folders) -> list[str]:
        folder = folders.of(layout)
        (folder / old).unlink()
        how(folder / new, folders.marker)
        return [str(folder)]

    return build


def _weights_file(model: str, ending: str, how):
    def build(folders: Folders) -> list[str]:
        file = folders.root / f"{len(list(folders.root.iterdir()))}{ending}"
        how(file, folders.marker)
        names = folders.root / "names.txt"
        names.write_text("\n".join(f"bird {row}" for row in range(1000)))
        return [model, "--pretrained", str(file), *(["--classes", str(names)] if model == "test_vit" else [])]

    return build


def _elsewhere_by_index(folders: Folders) -> list[str]:
    """Weights of another folder."""
    folder = folders.of("dual encoder")
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folders.root / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [str(folder)]


def _repository(layout: str, name: str, **changes):
    """In the cache of the hub, as if it had been downloaded."""

    def build(folders: Folders) -> list[str]:
        folder = folders.of(layout)
        for file, values in changes.items():
            changed(folder / f"{file}.json", **values)
        # For open_clip's own, the tokenizer of another repository.
        checkpoints.in_cache(folders.hub, name, folder)
        return [f"hf-hub:{name}" if layout == "open_clip" else f"transformers:{name}"]

    return build


_WORDS = "model_cfg.text_cfg.hf_tokenizer_name"

_MODEL = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoModelForImageClassification": "evil.EvilModel"}

CASES = {
    # open_clip: what it names is refused by key, wherever it stands.
    "open_clip, tokenizer, loader option": (
        _open_clip(
            open_clip_config={"model_cfg.text_cfg.tokenizer_kwargs": {"trust_remote_code": True}},
            tokenizer_config={"auto_map": _TOKENIZER, "tokenizer_class": "EvilTokenizer"},
        ),
        "trust_remote_code is the user's choice",
    ),
    "open_clip, tokenizer, any loader option": (
        _open_clip(open_clip_config={"model_cfg.text_cfg.tokenizer_kwargs": {"gguf_file": "evil.gguf"}}),
        "open_clip_config.json: tokenizer_kwargs holds 'gguf_file'",
    ),
    "open_clip, tokenizer": (
        _open_clip(tokenizer_config={"auto_map": _TOKENIZER, "tokenizer_class": "EvilTokenizer"}),
        "tokenizer_config.json: auto_map names code of its own",
    ),
    "open_clip, tokenizer, as of old": (
        _open_clip(tokenizer_config={"auto_map": ["evil.EvilTokenizer", None], "tokenizer_class": "EvilTokenizer"}),
        "tokenizer_config.json: auto_map names code of its own",
    ),
    "open_clip, configuration of the tokenizer": (
        _open_clip(config={"auto_map": _MODEL | _TOKENIZER, "model_type": "evil"}),
        "config.json: auto_map names code of its own",
    ),
    "open_clip, text tower in another folder": (_open_clip_tower, "hf_model_name is '.*'; expected a repository's name"),
    "open_clip, text tower by a path": (
        _open_clip(open_clip_config={"model_cfg.text_cfg.hf_model_name": "../1"}),
        "hf_model_name is '../1'; expected a repository's name",
    ),
    "open_clip, text tower by an address": (
        _open_clip(open_clip_config={"model_cfg.text_cfg.hf_model_name": "https://example.org/evil"}),
        "expected a repository's name",
    ),
    "open_clip, text tower of the hub": (
        _open_clip(open_clip_config={"model_cfg.text_cfg.hf_model_name": "nobody/nothing"}),
        "names a repository of the hub whose files are not here; a folder downloads nothing",
    ),
    "open_clip, trunk in another folder": (_open_clip_trunk, "timm_model_name is '.*'; expected an architecture of timm"),
    "open_clip, trunk of the hub": (
        _open_clip(open_clip_config={"model_cfg.vision_cfg.timm_model_name": "hf-hub:nobody/nothing"}),
        "timm_model_name is 'hf-hub:nobody/nothing'; expected an architecture of timm",
    ),
    "open_clip, a vocabulary elsewhere": (
        _open_clip(tokenizer_config={"tokenizer_file": "/etc/passwd"}),
        "tokenizer_file names '/etc/passwd', which is not in the checkpoint's folder",
    ),
    # transformers
    "transformers, configuration": (
        _of_transformers("dual encoder", config={"auto_map": _MODEL, "model_type": "evil"}),
        "config.json: auto_map names code of its own",
    ),
    "transformers, model": (
        _of_transformers("dual encoder", config={"auto_map": _MODEL}),
        "config.json: auto_map names code of its own",
    ),
    "transformers, code of a repository": (
        _of_transformers("dual encoder", config={"auto_map": {"AutoConfig": "nobody/evil--evil.EvilConfig"}}),
        "config.json: auto_map names code of its own",
    ),
    "transformers, within the text tower": (
        _of_transformers("dual encoder", config={"text_config.auto_map": {"AutoModel": "evil.EvilModel"}}),
        "config.json: auto_map names code of its own",
    ),
    "transformers, tokenizer": (
        _of_transformers("dual encoder", tokenizer_config={"auto_map": _TOKENIZER, "tokenizer_class": "EvilTokenizer"}),
        "tokenizer_config.json: auto_map names code of its own",
    ),
    "transformers, images": (
        _of_transformers("dual encoder", preprocessor_config={"auto_map": {"AutoImageProcessor": "evil.EvilProcessor"}}),
        "preprocessor_config.json: auto_map names code of its own",
    ),
    "transformers, processor": (
        _of_transformers("dual encoder", processor_config={"auto_map": {"AutoProcessor": "evil.EvilProcessor"}}),
        "processor_config.json: auto_map names code of its own",
    ),
    "transformers, classifier": (
        _of_transformers("classifier", config={"auto_map": _MODEL}),
        "config.json: auto_map names code of its own",
    ),
    "transformers, an adapter": (
        _of_transformers("dual encoder", adapter_config={"base_model_name_or_path": "/evil", "peft_type": "LORA"}),
        "adapter_config.json: base_model_name_or_path names another model",
    ),
    "transformers, kernels": (
        _of_transformers("dual encoder", config={"attn_implementation": "nobody/evil-kernels"}),
        "config.json: attn_implementation names code to download",
    ),
    "transformers, weights elsewhere": (_elsewhere_by_index, "weight_map names '../elsewhere.safetensors'"),
    "transformers, through timm": (
        _of_transformers("timm", config={"architecture": "hf-hub:nobody/evil", "model_type": "timm_wrapper"}),
        "architecture is 'hf-hub:nobody/evil'; expected an architecture of timm",
    ),
    # repositories of the hub
    "a repository, loader option": (
        _repository(
            "open_clip",
            "evil/option",
            open_clip_config={"model_cfg.text_cfg.tokenizer_kwargs": {"trust_remote_code": True}, _WORDS: "evil/option"},
            tokenizer_config={"auto_map": _TOKENIZER},
        ),
        "trust_remote_code is the user's choice",
    ),
    "a repository, tokenizer": (
        _repository(
            "open_clip", "evil/words", open_clip_config={_WORDS: "evil/words"}, tokenizer_config={"auto_map": _TOKENIZER}
        ),
        "tokenizer_config.json: auto_map names code of its own",
    ),
    "a repository, tokenizer of another": (
        _repository("open_clip", "evil/other", open_clip_config={_WORDS: "evil/words"}),
        "tokenizer_config.json: auto_map names code of its own",
    ),
    "a repository of transformers": (
        _repository("dual encoder", "evil/dual", config={"auto_map": _MODEL, "model_type": "evil"}),
        "config.json: auto_map names code of its own",
    ),
    "a repository of timm": (
        lambda folders: [
            f"timm:{_repository('timm', 'evil/timm', config={'architecture': 'hf-hub:evil/x'})(folders)[0]}".replace(
                "transformers:", "hf-hub:"
            )
        ],
        "architecture is 'hf-hub:evil/x'",
    ),
    # timm
    "timm, in another folder": (_timm_elsewhere, "architecture is '.*'; expected an architecture of timm"),
    "timm, of the hub": (_timm(architecture="hf-hub:nobody/evil"), "architecture is 'hf-hub:nobody/evil'"),
    "timm, loader option": (_timm(model_args={"checkpoint_path": "/evil.pth"}), "model_args holds 'checkpoint_path'"),
    **{
        f"open_clip, {name}": (
            _weights("open_clip", "open_clip_model.safetensors", f"open_clip_pytorch_model{ending}", how),
            "more than tensors|holds code|could not be loaded",
        )
        for (name, how), ending in zip(PICKLES.items(), (".bin", ".pth", ".bin", ".bin", ".pth"), strict=True)
    },
    **{
        f"transformers, {name}": (
            _weights("dual encoder", "model.safetensors", "pytorch_model.bin", how),
            "more than tensors|holds code|could not be loaded",
        )
        for name, how in PICKLES.items()
    },
    **{
        f"timm, {name}": (
            _weights("timm", "model.safetensors", "pytorch_model.bin", how),
            "more than tensors|holds code|could not be loaded",
        )
        for name, how in PICKLES.items()
    },
    **{
        f"a file for timm, {name} as {ending}": (
            _weights_file("test_vit", ending, how),
            "more than tensors|holds code|could not be loaded|these weights cannot be read",
        )
        for name, how in PICKLES.items()
        for ending in (".pt", ".bin", ".pth", ".ckpt", ".safetensors")[: 5 if how is _pickled else 1]
    },
    "a file for timm, arrays": (_weights_file("test_vit", ".npz", _arrays), "could not be loaded"),
}


def _tower_in_the_cache(folders: Folders) -> list[str]:
    """A folder whose text tower is named as a repository that was downloaded before."""
    own = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 200}
    tower = folders.root / "tower"
    transformers.BertConfig(**own).save_pretrained(tower)
    folder = folders.of("open_clip")
    settings = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    text = {"hf_model_name": str(tower), "hf_model_pretrained": False, "hf_proj_type": "linear", "hf_tokenizer_name": "any"}
    with torch.random.fork_rng():
        model = open_clip.CustomTextCLIP(settings["embed_dim"], settings["vision_cfg"], text)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    text["hf_model_name"] = checkpoints.in_cache(folders.hub, "good/tower", tower)
    changed(folder / "open_clip_config.json", **{"model_cfg.text_cfg": text | {"context_length": 40}})
    return [f"local-dir:{folder}"]


FINE = {
    "open_clip, text tower in the cache": _tower_in_the_cache,
    "open_clip": lambda folders: [f"local-dir:{folders.of('open_clip')}"],
    "a repository": _repository("open_clip", "good/words", open_clip_config={_WORDS: "good/words"}),
    "a repository, tokenizer of another": _repository("open_clip", "good/other", open_clip_config={_WORDS: "good/words"}),
    "a repository of transformers": _repository("dual encoder", "good/dual"),
    "a dual encoder": lambda folders: [str(folders.of("dual encoder"))],
}
"""What is beside those above without their settings, and loads."""

DRIVER = """
import contextlib, io, json, sys, warnings
from concept_cam.cli import main
cases = json.load(open(sys.argv[1]))
for name, arguments in cases.items():
    said = io.StringIO()
    sys.argv = ["concept-cam", *arguments]
    with contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code
    if isinstance(code, str):
        said.write(code + "\\n")
        code = 1
    print("RESULT " + json.dumps([name, code, said.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code, what was said, and whether code ran, of each case: one process, with ``yes`` on its standard input."""
    root = tmp_path_factory.mktemp("foreign")
    world.draw_species("ember finch").image.save(root / "bird.png")
    commands, markers = {}, {}
    builds = {name: build for name, (build, _) in CASES.items()} | {f"fine, {name}": build for name, build in FINE.items()}
    for number, (name, build) in enumerate(builds.items()):
        place = root / f"case {number}"
        place.mkdir()
        folders = Folders(place, root / "hub")
        model = build(folders)
        options = ["--target", "red", "--against", "blue", "--out", str(place / "out")]
        commands[name] = ["localize", str(root / "bird.png"), *options, "--model", *model]
        markers[name] = folders.marker
    (root / "cases.json").write_text(json.dumps(commands))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hub"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(root / "cases.json")],
        input="y\n" * 1000,
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == len(builds), done.stderr[-2000:]
    asked = "Do you wish" in done.stdout
    return {name: (code, said, markers[name].exists(), asked) for name, code, said in lines}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_code_of_a_checkpoint_is_not_run(outcomes, case):
    code, said, ran, asked = outcomes[case]
    assert not ran
    assert not asked
    assert code != 0
    lines = [line for line in said.splitlines() if not line.startswith("concept-cam: note:")]
    assert len(lines) == 1, said
    assert re.search(CASES[case][1], lines[0]), lines[0]
    assert "weights_only" not in said
    assert "trust_remote_code=True" not in said


@pytest.mark.slow
@pytest.mark.parametrize("case", FINE)
def test_without_such_settings_the_same_checkpoints_load(outcomes, case):
    """The cases above are refused for what was put into them; code that lies beside a checkpoint is no harm."""
    code, said, ran, _ = outcomes[f"fine, {case}"]
    assert code == 0, said
    assert not ran


def test_the_code_would_run(tmp_path):
    """The marks that the cases look for are left where somebody does run them."""
    for name, how in PICKLES.items():
        file, marker = tmp_path / f"{name}.bin", tmp_path / f"{name} ran"
        how(file, marker)
        content = file.read_bytes()
        if name == "TorchScript":
            with zipfile.ZipFile(file) as archive:
                content = next(archive.read(one) for one in archive.namelist() if one.endswith("constants.pkl"))
        elif content[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                content = next(archive.read(one) for one in archive.namelist() if one.endswith("data.pkl"))
        elif name == "a pickle of old":
            stream = io.BytesIO(content)
            for _ in range(3):
                pickle.load(stream)
            content = stream.read()
        elif name == "a pickle that fails first":
            content = content[content.index(b"tR.") + 3 :]
        pickle.loads(content)
        assert marker.exists(), name

"""Classifiers that end in a linear layer: its rows are the concepts, its input is the embedding, its output the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone, noise, share
from concept_cam.backbones.site import Tower
from concept_cam.backbones.snapshot import Snapshot, TextState
from concept_cam.backbones.towers import anything, timm as timm_towers, torchvision as torchvision_towers
from concept_cam.backbones.transforms import read_transform
from concept_cam.backbones.weights import check_device, load_failure
from concept_cam.errors import BackboneError, ConceptCamError, UnknownConcept, did_you_mean
from concept_cam.hooks import on_output
from concept_cam.images import Preprocess, Size

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's pictures, which nearly every classifier is fed with."""


def names() -> Sequence[str]:
    """All architectures of timm."""
    return timm_towers.names()


def load(
    name: str, weights: str | None = None, device: str | torch.device = "cpu", classes: Iterable[str] | None = None
) -> Classifier:
    """Load a classifier of timm by its name, its folder, or its name and a file of weights.

    Raises:
        BackboneError: no such model or file, weights that have to be downloaded and cannot be, or nobody knows its classes.
    """
    check_device(device)
    if weights is not None and not Path(weights).is_file():
        raise BackboneError(f"{weights!r} is no file; give a file of weights, or leave pretrained out for timm's own.")
    local = Path(name).is_dir()
    try:
        with torch.inference_mode(False):
            model = timm_towers.create(f"local-dir:{name}" if local else name, weights).to(device)
    except Exception as error:
        what = f"{name} ({weights})" if weights else name
        raise BackboneError(load_failure(what, error, local=local or weights is not None)) from error
    known = timm_towers.classes(model) if classes is None else tuple(classes)
    if not known:
        raise BackboneError(f"{name}: timm does not know the names of its classes; give them (classes=, or --classes FILE).")
    return Classifier(model.eval().requires_grad_(False), known, name=name)


@final
class Classifier(Backbone):
    """A classifier: any module whose last linear layer gives its output. The paper's first setting.

    Scores are raw logits: neither the embedding nor the rows are normalised. How alike two classes are is the cosine of their
    rows.

    Args:
        model: from timm, torchvision, or your own; a trunk and a linear probe in an ``nn.Sequential``.
        classes: a name for each row, in order.
        preprocess: how its pictures are prepared: its transform for evaluation, or a Preprocess. A model of timm knows; any
            other is fed as ImageNet's are, 224 x 224, if you do not say.
        name: how to call it in results.

    Raises:
        BackboneError: it does not end in a linear layer, its layers show no grid, or the names are not those of the rows.
    """

    def __init__(
        self, model: nn.Module, classes: Iterable[str] = (), preprocess: Any = None, name: str = "classifier"
    ) -> None:
        self.name, self.module = name, model
        known = timm_towers.preprocess(_trunk(model)[1]) or Preprocess((224, 224), *_IMAGENET, shortest=256)
        self.preprocess = read_transform(preprocess) if preprocess else known
        self.classes = tuple(classes)
        self.refresh()
        self.versions = {"torch": torch.__version__, **_library_version(model)}

    @property
    def dtype(self) -> torch.dtype:
        """That of the first layer with a kernel."""
        parameters = list(self.module.parameters())
        return next((parameter for parameter in parameters if parameter.ndim == 4), parameters[0]).dtype

    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "_ E"]:
        """What enters the last linear layer."""
        runs, _ = self._run(pixels, [self._linear])
        if len(runs) != 1 or runs[0].embedding.ndim != 2:
            raise BackboneError(f"{self.name}: its last linear layer ran {len(runs)} times; expected once, on (batch, width).")
        return runs[0].embedding

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """The rows of the classes.

        Raises:
            UnknownConcept: there is no such class.
        """
        return self._linear.weight.detach()[self._indices(sentences)]

    def embed_concepts(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "K E"]:
        """The rows of the classes, as they are: a class is no sentence."""
        rows = self.embed_texts(names)
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    def biases(self, names: Sequence[str]) -> Float[Tensor, " K"] | None:
        """Those of the last layer, if it has any."""
        if self._linear.bias is None:
            return None
        biases = self._linear.bias.detach()[self._indices(names)]
        return biases.to(torch.promote_types(biases.dtype, torch.float32))

    def normalize(self, embedding: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E"]:
        """As it is: a logit is no cosine."""
        return embedding

    def resized(self, size: Size) -> Classifier:
        """At another size, with positions as its library interpolates them; a CNN takes any that it can make cells of."""
        model = share(self.module)
        trunk = _trunk(model)[1]
        torchvision_towers.resize(trunk, size)
        timm_towers.resize(trunk, size)
        try:
            return Classifier(model, self.classes, self.preprocess.resized(size), self.name)
        except ConceptCamError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BackboneError(f"{self.name} does not take an input of {size[0]} x {size[1]} pixels: {reason}.") from error

    def _indices(self, names: Sequence[str]) -> list[int]:
        for name in names:
            if name not in self._rows:
                hint = did_you_mean(name, self.classes)
                raise UnknownConcept(f"{self.name} has no class {name!r} among its {len(self.classes)}.{hint}")
        return [self._rows[name] for name in names]

    def _run(self, pixels: Tensor, linears: list[nn.Linear]) -> tuple[list[_Run], Any]:
        """What enters and leaves those layers, and the model's output."""
        seen: list[_Run] = []
        with ExitStack() as stack:
            for linear in linears:
                stack.enter_context(on_output(linear, lambda own, inputs, output: seen.append(_Run(own, inputs[0], output))))
            output = self.module(pixels)
        return seen, output

    def _last_linear(self) -> nn.Linear:
        """The layer that gives the output; wherever the model lists it."""
        linears = [module for module in self.module.modules() if isinstance(module, nn.Linear)]
        if not linears:
            raise BackboneError(f"{self.name} has no linear layer; expected a classifier that ends in one, or a dual encoder.")
        runs, output = self._run(noise(self), linears)
        logits = _logits(output)
        for run in reversed(runs):
            if isinstance(logits, Tensor) and torch.equal(run.logits, logits):
                return run.linear
        raise BackboneError(
            f"{self.name}: the output is not that of its last linear layer; wrap the part of the model that ends in it."
        )

    def describe(self) -> Tower:
        """The last linear layer, its classes, and the tower below it."""
        self._linear = self._last_linear()
        _check_classes(self.classes, self._linear.out_features, self.name)
        self._rows = {concept: row for row, concept in enumerate(self.classes)}
        prefix, trunk, project = _trunk(self.module)
        pixels = noise(self)
        tower = (
            timm_towers.describe(trunk, prefix, project, self.embed_pixels, pixels, whole=False)
            or torchvision_towers.describe(trunk, prefix, project)
            or anything.describe(self.module, "", self.embed_pixels, pixels)
        )
        if tower is None:
            raise BackboneError(f"{self.name}: no layer puts out a map or patch tokens; give a model that keeps a grid.")
        return replace(tower, family=f"classifier: {tower.family}")

    def text_state(self) -> TextState:
        """The last layer's rows alone."""
        self.original.refresh()
        return TextState(Snapshot(self._linear, contents=True), (), False)


class _Run(NamedTuple):
    linear: nn.Linear
    embedding: Tensor
    logits: Tensor


def _logits(output: Any) -> Any:
    """The scores, bare or first among other things, as transformers and torchvision's training wrap them."""
    if isinstance(output, Mapping):
        return output.get("logits")
    return output[0] if isinstance(output, tuple) else output


def _trunk(model: nn.Module) -> tuple[str, nn.Module, Callable[[Tensor], Tensor]]:
    """The vision tower, the start of its layers' names, and what lies between it and the last linear layer."""
    if not isinstance(model, nn.Sequential):
        return "", model, lambda features: features
    first, *between, _ = model
    return "0.", first, nn.Sequential(*between) if between else lambda features: features


def _check_classes(classes: tuple[str, ...], rows: int, name: str) -> None:
    if len(classes) != rows:
        raise BackboneError(f"{name} has {rows} classes, given {len(classes)} names; give one for each, in order (classes=).")
    twice = sorted({concept for concept in classes if classes.count(concept) > 1}) if len(set(classes)) < rows else []
    if twice:
        raise BackboneError(f"{name}: names that come twice: {', '.join(twice[:5])}; tell them apart.")


def _library_version(model: nn.Module) -> dict[str, str]:
    library = type(model).__module__.partition(".")[0]
    return {library: version(library)} if library in ("timm", "torchvision", "transformers") else {}

"""Classifiers that end in a linear layer: its rows are the concepts, its input is the embedding, its output the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from inspect import signature
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones import rows
from concept_cam.backbones.backbone import Backbone, noise
from concept_cam.backbones.guard import guarded
from concept_cam.backbones.sizes import share
from concept_cam.backbones.snapshot import Snapshot, TextState
from concept_cam.backbones.stated import preprocess_of
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.towers import generic, timm as timm_towers, torchvision as torchvision_towers
from concept_cam.backbones.transforms import read_transform
from concept_cam.backbones.weights import ADVICE, first_run
from concept_cam.backbones.wrappers import called, hold, outermost
from concept_cam.errors import BackboneError, UnknownConcept, did_you_mean
from concept_cam.hooks import on_output
from concept_cam.images import Preprocess, Size

Call = Callable[[Any, Any], Any]
"""Runs a model: (model, pixels (B, 3, height, width)) -> what it puts out."""

_LIBRARIES = ("timm", "torchvision", "transformers")


@final
class Classifier(Backbone):
    """A classifier: any module whose last linear layer gives its output. The paper's first setting.

    Scores are raw logits: neither the embedding nor the rows are normalised. The similarity of two classes is the
    cosine of their rows.

    Args:
        model: from timm, torchvision, transformers, or your own; a trunk and a linear probe in an ``nn.Sequential``; or what
            holds one, such as ``DataParallel``.
        classes: a name for each row, in order.
        preprocess: how its images are prepared: its transform for evaluation, or a Preprocess. A model of timm knows, also
            within another that hands it the pixels; any other is fed as ImageNet's are, 224 x 224, with a warning.
        name: how to call it in results.
        head: the name of the linear layer whose rows are the classes. By default the one that gives the output. Of a
            named one the scores are taken before a softmax, or a mean with those of another layer.
        call: how the model is run, ``call(model, pixels)``, if not by ``model(pixels)``; it gives the scores, alone or among
            other tensors.

    Raises:
        BackboneError: it cannot be run, it does not end in one linear layer, its layers show no grid, or the names are not
            those of the rows.

    Warns:
        UserWarning: nobody says how its images are prepared.
    """

    _prefix: str = guarded()
    _called: nn.Module = guarded()
    _rows: rows.Rows = guarded()
    _indices: Mapping[str, int] = guarded()

    def __init__(
        self,
        model: nn.Module,
        classes: Iterable[str] = (),
        preprocess: Any = None,
        name: str = "classifier",
        head: str | None = None,
        call: Call | None = None,
    ) -> None:
        self.name, self.module, self.head, self.call = name, model, head, call
        self._prefix, self._called = called(model)
        self.classes = tuple(classes)
        with self.evaluating():
            self.preprocess = read_transform(preprocess) if preprocess is not None else self._said()
            with first_run(name, self.preprocess.size, f"{ADVICE}, or say how it is called with call="):
                self.refresh()
        libraries = {type(module).__module__.partition(".")[0] for module in model.modules()} & set(_LIBRARIES)
        self.versions = {"torch": torch.__version__, **{library: version(library) for library in sorted(libraries)}}

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the first layer with a kernel."""
        parameters = list(self.module.parameters())
        return next((parameter for parameter in parameters if parameter.ndim == 4), parameters[0]).dtype

    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "_ E"]:
        """The input of the last linear layer."""
        runs, _ = rows.watch([self._rows], lambda: self._run(pixels))
        if len(runs) != 1:
            raise BackboneError(f"{self.name}: its last linear layer ran {len(runs)} times; expected once.")
        runs[0].check(self.name)
        return runs[0].embedding

    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """The rows of the classes.

        Raises:
            UnknownConcept: there is no such class.
        """
        return self._rows.weight[self._numbers(sentences)]

    def embed_concepts(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "K E"]:
        """The rows of the classes; templates are not used."""
        found = self.embed_texts(names)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def biases(self, names: Sequence[str]) -> Float[Tensor, " K"] | None:
        """The biases of the last layer; None if it has none."""
        bias = self._rows.bias
        if bias is None:
            return None
        biases = bias[self._numbers(names)]
        return biases.to(torch.promote_types(biases.dtype, torch.float32))

    def normalize(self, embedding: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E"]:
        """The embedding unchanged: a logit is no cosine."""
        return embedding

    def resized(self, size: Size) -> Classifier:
        """This model for another input size; positions are interpolated as its library does it, a CNN takes any size."""
        model = share(self._called)
        for _, trunk in _trunks(model):
            torchvision_towers.resize(trunk, size)
            timm_towers.resize(trunk, size)
        preprocess = self.preprocess.resized(size)
        return Classifier(hold(self._prefix, model), self.classes, preprocess, self.name, self.head, self.call)

    def _numbers(self, names: Sequence[str]) -> list[int]:
        for name in names:
            if name not in self._indices:
                hint = did_you_mean(name, self.classes)
                raise UnknownConcept(f"{self.name} has no class {name!r} among its {len(self.classes)}.{hint}")
        return [self._indices[name] for name in names]

    def _run(self, pixels: Tensor) -> Any:
        if self.call is not None:
            return self.call(self._called, pixels)
        return self._called(pixels, **_options(self._called, (pixels.shape[2], pixels.shape[3])))

    def _said(self) -> Preprocess:
        def pixels(preprocess: Preprocess) -> Tensor:
            self.preprocess = preprocess
            return noise(self)

        return preprocess_of(self.module, self.name, self._run, pixels)

    def describe(self) -> Tower:
        """Find the last layer, check its classes, and return the tower below it."""
        self._prefix, self._called = called(self.module)
        pixels = noise(self)
        self._rows = rows.find(self.module, lambda: self._run(pixels), len(self.classes), self.head, self.name)
        _check(self.classes, self._rows.count, self.name)
        self._indices = {concept: row for row, concept in enumerate(self.classes)}
        tower = self._tower(pixels)
        if tower is None:
            raise BackboneError(f"{self.name}: no layer puts out a map or patch tokens; give a model that keeps a grid.")
        return replace(tower, family=f"classifier: {tower.family}")

    def text_state(self) -> TextState:
        """The state of the rows of the last layer, on which alone the embedding of a class depends."""
        with self.evaluating():
            self.original.refresh()
            return TextState(Snapshot(self._rows.module, contents=True), (self.original.guard.forgotten,), False)

    def _tower(self, pixels: Tensor) -> Tower | None:
        for prefix, trunk in _trunks(self.module):
            way = self._way_from(trunk, pixels)
            if way is not None:
                whole, project = way
                return (
                    timm_towers.describe(trunk, prefix, project, self.embed_pixels, pixels, whole=whole)
                    or torchvision_towers.describe(trunk, prefix, project)
                    or generic.describe(self._called, self._prefix, self.embed_pixels, pixels)
                )
        return generic.describe(self._called, self._prefix, self.embed_pixels, pixels)

    def _way_from(self, trunk: nn.Module, pixels: Tensor) -> tuple[bool, Callable[[Tensor], Tensor]] | None:
        """Whether the last layer of a trunk is on the way to the embedding, and what follows the trunk; None if not known."""
        seen: list[tuple[Any, Any]] = []
        with on_output(trunk, lambda _, inputs, output: seen.append((inputs[0], output))):
            embedding = self.embed_pixels(pixels)
        if len(seen) != 1 or not isinstance(seen[0][0], Tensor) or seen[0][0].shape != pixels.shape:
            return None
        if any(module is self._rows.module for module in trunk.modules()):
            known = self.head is None or self._rows.module is _last_layer(trunk)
            return (False, _hidden(trunk)) if known else None
        output = seen[0][1]
        if isinstance(output, Tensor) and output.shape == embedding.shape and torch.equal(output, embedding):
            return True, _same
        if isinstance(self._called, nn.Sequential) and self._called[0] is trunk and self._called[-1] is self._rows.module:
            return True, nn.Sequential(*list(self._called)[1:-1])
        return None


def _same(features: Tensor) -> Tensor:
    return features


def _trunks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The known vision towers within a model, each with the prefix of its layers' names."""
    return outermost(model, lambda module: hasattr(type(module), "forward_head") or torchvision_towers.is_vit(module))


def _last_layer(trunk: Any) -> Any:
    return trunk.get_classifier() if hasattr(trunk, "get_classifier") else trunk.heads[-1]


def _hidden(trunk: Any) -> Callable[[Tensor], Tensor]:
    """The layers of torchvision's head before its last one."""
    return nn.Sequential(*list(trunk.heads)[:-1]) if torchvision_towers.is_vit(trunk) else _same


def _options(model: nn.Module, size: Size) -> dict[str, bool]:
    """The options with which a model of transformers accepts another input size."""
    config: Any = getattr(model, "config", None)
    own = getattr(getattr(config, "vision_config", config), "image_size", None)
    if own is None or (tuple(own) if isinstance(own, list | tuple) else (own, own)) == size:
        return {}
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in signature(model.forward).parameters else {}


def _check(classes: tuple[str, ...], count: int, name: str) -> None:
    if len(classes) != count:
        raise BackboneError(f"{name} has {count} classes, given {len(classes)} names; give one for each, in order (classes=).")
    twice = sorted(concept for concept, times in Counter(classes).items() if times > 1)
    if twice:
        raise BackboneError(f"{name}: names that come twice: {', '.join(twice[:5])}; tell them apart.")

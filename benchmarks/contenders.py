"""The model and the images that all contenders are given, and the contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Contender
from concept_cam import ConceptField, grad_cam, trace, wrap
from concept_cam.backbones import Backbone
from concept_cam.gradients import Trace
from concept_cam.methods import AnyMethod, class_stream, depth_of, direct, explain, name_of

LAYER_ALONE = ", gradients of the layer alone"
AT_HAND = "1,000 texts on stored fields"

STREAM_AT_HAND = "1,000 texts on stored fields of class_stream"

EVERY_BLOCK: Mapping[str, AnyMethod] = {"class_stream": class_stream, "direct": direct}
"""Methods that read all blocks, not the last alone."""

FIELDS: tuple[AnyMethod, ...] = ("class_stream:4", class_stream, direct)

STRENGTH = 0.6

PER_GRAPH = 8
"""Concepts that the peers are timed for; times for more are extrapolated from these."""


@dataclass(frozen=True)
class Bench:
    """A model with random weights, images of noise and concepts of noise, each compared with the three that follow it.

    Attributes:
        backbone: wraps the model; its closed form has been tried.
        pixels: (B, 3, height, width).
        texts: (10,000, E), unit vectors.
    """

    backbone: Backbone
    pixels: Tensor
    texts: Tensor

    @classmethod
    def of(cls, name: str, batch: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Bench:
        """A model of open_clip by its name."""
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained=None).eval().requires_grad_(False).to(device, dtype)
        return cls.about(wrap(model, lambda texts: torch.zeros(len(texts), 77, dtype=torch.long), name=name), batch)

    @classmethod
    def about(cls, backbone: Backbone, batch: int) -> Bench:
        """Images and concepts for a model."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(batch, 3, *backbone.preprocess.size, generator=generator).to(backbone.device, backbone.dtype)
        width = trace(backbone, pixels[:1]).embedding.shape[-1]
        return cls(backbone, pixels, F.normalize(torch.randn(10_000, width, generator=generator), dim=-1).to(pixels))

    @cached_property
    def directions(self) -> Tensor:
        """(10,000, E), each target minus its references."""
        return self.texts - STRENGTH * torch.stack([self.texts.roll(-step, 0) for step in (1, 2, 3)]).mean(0)

    def own(self) -> Tensor:
        """Embed the images with the model alone, without a graph."""
        model: Any = self.backbone.module
        with torch.inference_mode():
            embedding: Tensor = model.encode_image(self.pixels, normalize=True)
        return embedding

    def one_by_one(self, count: int) -> Tensor:
        """Maps of a few concepts: one pass of the trunk, directions pulled back through the head."""
        return grad_cam(trace(self.backbone, self.pixels).gradient(self.directions[:count, None]))

    def alone(self, method: AnyMethod) -> Tensor:
        """Maps of one concept by a method, from a pass that keeps the blocks which it reads."""
        return explain(method, self._traced(method), self.directions[:1, None])

    def field(self, method: AnyMethod = grad_cam) -> tuple[ConceptField, ...]:
        """A field for each image."""
        return ConceptField.of(self._traced(method), method)

    @cached_property
    def fields(self) -> tuple[ConceptField, ...]:
        """Those that are at hand."""
        return self.field()

    @cached_property
    def streams(self) -> tuple[ConceptField, ...]:
        """Those of class_stream that are at hand."""
        return self.field(class_stream)

    def _traced(self, method: AnyMethod) -> Trace:
        return trace(self.backbone, self.pixels, depth=depth_of(method))

    def through_field(self, count: int) -> list[Tensor]:
        """Maps of many concepts: a field, and one product of matrices."""
        return [field(self.directions[:count]) for field in self.field()]


class ZeroShot(nn.Module):
    """The same model as the classifier that the peers need, over the first texts."""

    def __init__(self, model: nn.Module, texts: Tensor) -> None:
        super().__init__()
        self.model, self.texts = model, texts

    def forward(self, pixels: Tensor) -> Tensor:
        """Cosines."""
        model: Any = self.model
        return F.normalize(model.encode_image(pixels), dim=-1) @ self.texts.T


def ours(bench: Bench) -> Mapping[str, Contender]:
    """What this library does."""
    return {
        **{f"concept-cam, {count_of(count)}": partial(bench.one_by_one, count) for count in (1, 10, 100)},
        **{f"concept-cam, {count_of(count)}": partial(bench.through_field, count) for count in (1_000, 10_000)},
        "concept-cam, the field": bench.field,
        AT_HAND: lambda: [field(bench.directions[:1_000]) for field in bench.fields],
    }


def every_block(bench: Bench) -> Mapping[str, Contender]:
    """What the methods that read every block do."""
    return {
        **{f"{name}, {count_of(1)}": partial(bench.alone, method) for name, method in EVERY_BLOCK.items()},
        **{f"{name_of(method)}, the field": partial(bench.field, method) for method in FIELDS},
        STREAM_AT_HAND: lambda: [field(bench.directions[:1_000]) for field in bench.streams],
    }


def tried(bench: Bench) -> Mapping[str, Contender]:
    """Other ways to run the model, on its own forward pass; none is a mode of this library."""
    last: Any = deepcopy(bench.backbone.module).to(memory_format=torch.channels_last)
    pixels = bench.pixels.contiguous(memory_format=torch.channels_last)

    def channels_last() -> Tensor:
        with torch.inference_mode():
            embedding: Tensor = last.encode_image(pixels, normalize=True)
        return embedding

    def autocast() -> Tensor:
        with torch.autocast(bench.pixels.device.type, torch.bfloat16):
            return bench.own()

    def no_grad() -> Tensor:
        with torch.no_grad():
            model: Any = bench.backbone.module
            embedding: Tensor = model.encode_image(bench.pixels, normalize=True)
        return embedding

    return {
        "no_grad instead of inference mode": no_grad,
        "channels-last": channels_last,
        "torch.compile": torch.compile(no_grad),  # it does not take inference mode
        "autocast to bfloat16": autocast,
    }


def count_of(count: int) -> str:
    """In words."""
    return f"{count:,} concept{'s' if count > 1 else ''}"


def peers(bench: Bench, many: bool) -> Mapping[str, Contender]:
    """The two packages that offer Finer-CAM, on the same model, layer and images; those that are installed.

    Each as its own guide has it, with the parameters as a library loads them, and again with gradients asked for in the layer
    alone, which spares it the graph of all that comes before. Torch-cam keeps its graph between concepts.

    Args:
        bench: model and images.
        many: with several concepts too, from which to scale up.
    """
    ways = {**_where("torchcam", "torch-cam", _torch_cam), **_where("pytorch_grad_cam", "grad-cam", _grad_cam)}
    return {
        f"{package}{how}, {count_of(count)}": partial(_with_gradients, bench, everywhere, way, count)
        for package, way in ways.items()
        for how, everywhere in (("", True), (LAYER_ALONE, False))
        for count in ((1, PER_GRAPH) if many else (1,))
    }


def _where(module: str, package: str, way: Callable[[Bench, int], Any]) -> dict[str, Callable[[Bench, int], Any]]:
    return {package: way} if find_spec(module) else {}


def _with_gradients(bench: Bench, everywhere: bool, way: Callable[[Bench, int], Any], count: int) -> Any:
    model = bench.backbone.module
    model.requires_grad_(everywhere)
    bench.backbone.sites[0].module.requires_grad_(True)
    try:
        with torch.enable_grad():
            return way(bench, count)
    finally:
        model.requires_grad_(False)
        model.zero_grad()


def _classifier(bench: Bench) -> tuple[ZeroShot, nn.Module, Callable[[Tensor], Tensor]]:
    site = bench.backbone.sites[0]
    rows, cols = bench.fields[0].vectors.shape[:2]

    def on_grid(tokens: Tensor) -> Tensor:
        return tokens[:, -rows * cols :].transpose(1, 2).unflatten(2, (rows, cols))

    return ZeroShot(bench.backbone.module, bench.texts[: PER_GRAPH + 3]), site.module, on_grid


def _others(target: int) -> list[int]:
    return [target + step for step in (1, 2, 3)]


def _torch_cam(bench: Bench, count: int) -> list[Tensor]:
    """One pass forwards; its graph is kept and gone through once for each concept."""
    from torchcam.methods import FinerCAM

    classifier, layer, on_grid = _classifier(bench)
    shape = tuple(bench.pixels.shape[1:])
    maps = []
    with FinerCAM(classifier, layer, shape, gamma=STRENGTH, reshape_transform=on_grid) as cam:
        scores = classifier(bench.pixels)
        for target in range(count):
            maps += cam(target, scores, comparison_idx=_others(target), normalized=False, retain_graph=target + 1 < count)
    return maps


def _grad_cam(bench: Bench, count: int) -> list[Any]:
    """One pass forwards and one backwards for each concept: the package has no other way."""
    from pytorch_grad_cam import FinerCAM
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    classifier, layer, on_grid = _classifier(bench)
    with FinerCAM(classifier, [layer], reshape_transform=on_grid) as cam:
        return [
            cam(bench.pixels, targets=[FinerWeightedTarget(target, _others(target), STRENGTH)] * len(bench.pixels))
            for target in range(count)
        ]

"""The one class to extend: what the library asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from itertools import chain
from threading import RLock
from typing import TypeVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.heads import Block, Pooling
from concept_cam.backbones.places import place_sites
from concept_cam.backbones.site import Site, Tower
from concept_cam.errors import BackboneError
from concept_cam.images import WHOLE, Preprocess, Size

_LOCK = RLock()

_SIZES_KEPT = 16
"""Pictures at their native aspect come in many sizes; so many copies of a model's structure are kept."""


M = TypeVar("M", bound=nn.Module)


def share(module: M) -> M:
    """A copy of a model's structure with the very same parameters. Buffers are copied: libraries write into theirs.

    Raises:
        BackboneError: it holds something that cannot be copied.
    """
    memo: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    try:
        return deepcopy(module, memo)
    except (TypeError, RuntimeError) as error:
        raise BackboneError(
            f"The structure of {type(module).__name__} cannot be copied ({error}), so its input size cannot change."
        ) from error


class Backbone(ABC):
    """A model that embeds pictures and concepts. Adapters are final; they hold the user's model and change nothing in it.

    Attributes:
        name: how the user named the model.
        family: what kind of model it is, in a few words.
        module: the model itself.
        sites: where tokens can be read; the default comes first. Sites whose patches do not reach the embedding are left out.
        blocks, pooling: of a transformer whose attention can be laid open, for the methods that look at it.
        preprocess: how pictures become pixels.
        classes: the concepts that the model was made for; a dual encoder has none of its own.
        versions: names and versions of what made the embedding, kept with every result.
    """

    name: str
    family: str
    module: nn.Module
    sites: tuple[Site, ...]
    blocks: tuple[Block, ...] = ()
    pooling: Pooling | None = None
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    versions: Mapping[str, str]

    def take(self, tower: Tower) -> None:
        """Offer what a vision tower offers, where its cells lie.

        Raises:
            BackboneError: none of its sites lies anywhere.
        """
        self.family, self.blocks, self.pooling = tower.family, tower.blocks, tower.pooling
        self.preprocess = replace(self.preprocess, stride=tower.stride)
        self.sites = placed(self, tower)

    @abstractmethod
    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B E"]:
        """The model's own picture embedding, not normalised."""

    @abstractmethod
    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """The model's own text embedding, not normalised.

        Raises:
            UnknownConcept: the tokenizer has no token for a word, so that the text would mean something else.
        """

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that pixels must have; parameters may have several."""

    def resized(self, size: Size) -> Backbone:
        """This model for another input size, on the same weights; nothing in the model itself is written. See ``at_size``.

        Raises:
            BackboneError: it cannot take that size; unless an adapter says otherwise, it takes its own alone.
        """
        own = self.preprocess.size
        raise BackboneError(f"{self.name} takes pictures of {own[0]} x {own[1]} pixels alone, not {size[0]} x {size[1]}.")

    def averaged(self) -> Backbone:
        """This model with the mean of its patches in the place of its class token, for probes: no text knows that embedding.

        Raises:
            BackboneError: it has no class token that can be left out.
        """
        raise BackboneError(f"{self.name} ({self.family}) has no class token in whose place the mean of patches could stand.")

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.module.parameters()).device

    def normalize(self, embedding: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E"]:
        """What scores are made of: unit vectors, so that a score is a cosine. Linear classifiers leave it as it is."""
        return F.normalize(embedding, dim=-1)

    def embed_concepts(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "K E"]:
        """As open_clip's zero-shot classifier does: unit vectors of every template, averaged, normalised again."""
        texts = self.embed_texts([template.replace("{}", name) for name in names for template in templates])
        # Cosines decide which concepts are alike: half precision would blur them.
        single = texts.to(torch.promote_types(texts.dtype, torch.float32))
        return self.normalize(self.normalize(single).unflatten(0, (len(names), len(templates))).mean(1))

    def biases(self, names: Sequence[str]) -> Float[Tensor, " K"] | None:
        """What a classifier adds to the score of each concept."""
        return None

    @final
    def at_size(self, size: Size) -> Backbone:
        """This model for pixels of another (height, width): positions are interpolated, weights are shared.

        The user's model is not written to: where a family holds its positions in a parameter, a copy of the structure gets its
        own, and all other tensors are those of the model.

        Raises:
            BackboneError: the model cannot take that size.

        Example:
            >>> from concept_cam import fieldguide
            >>> fieldguide.localizer().backbone.at_size((96, 144)).sites[0].layout
            TokenLayout(prefix=1, rows=12, cols=18)
        """
        own = self.original
        if size == own.preprocess.size:
            return own
        with _LOCK, torch.inference_mode(False), torch.no_grad():
            state, held = own._at_sizes.pop(size, (None, own))
            if state != own.state():
                token = _RESIZED.set(own)
                try:
                    state, held = own.state(), own.resized(size)
                finally:
                    _RESIZED.reset(token)
                held._original = own
            own._at_sizes[size] = state, held
            if len(own._at_sizes) > _SIZES_KEPT:
                own._at_sizes.popitem(last=False)
        return held

    @property
    def original(self) -> Backbone:
        """The model at its own size: itself, unless it came from ``at_size``."""
        return self._original or self

    _original: Backbone | None = None

    @cached_property
    def _at_sizes(self) -> OrderedDict[Size, tuple[Hashable, Backbone]]:
        return OrderedDict()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Run the model out of the caller's inference mode, without a graph, in evaluation mode; all as before afterwards.

        One thread at a time: hooks and flags are on the module, which all threads share.
        """
        with _LOCK, ExitStack() as stack:
            training = [module for module in self.module.modules() if module.training]
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            for module in training:
                # The flag alone: ``train()`` would walk on to children whose own flag differs.
                stack.callback(setattr, module, "training", True)
                module.training = False
            yield

    def structure(self) -> Hashable:
        """Changes when a module is replaced, patched on the instance, or given a hook."""
        modules = self.module.modules()
        parts = tuple((id(m), len(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules)
        return parts, self.dtype, self.device

    def state(self) -> Hashable:
        """Changes when an embedding may: with the structure, with a parameter or buffer, with the caller's autocast."""
        kind = self.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        tensors = chain(self.module.parameters(), self.module.buffers())
        # A tensor of inference mode counts no versions.
        versions = tuple((id(tensor), None if tensor.is_inference() else tensor._version) for tensor in tensors)
        return self.structure(), versions, autocast

    def site(self, name: str | None = None) -> Site:
        """The site of that name, or the default one.

        Raises:
            BackboneError: there is no such site; the message lists those there are.
        """
        if name is None:
            return self.sites[0]
        for site in self.sites:
            if site.name == name:
                return site
        names = ", ".join(site.name for site in self.sites)
        raise BackboneError(f"{self.name} has no site {name!r}; its sites are {names}.")


def placed(backbone: Backbone, tower: Tower) -> tuple[Site, ...]:
    """The sites of a tower that lie somewhere on the input, and where: measured, see ``places``.

    Raises:
        BackboneError: there are none.
    """
    original = _RESIZED.get()
    if original is not None and tower.regular and all(site.layout.span == WHOLE for site in original.sites):
        return tower.sites
    reasons = []
    for sites in filter(None, (tower.sites, tower.spare)):
        # In the model's own precision: what the caller's autocast rounds off says nothing about places.
        with backbone.at_rest(), torch.autocast(backbone.device.type, enabled=False):
            found = place_sites(backbone.embed_pixels, sites, noise(backbone), backbone.module, regular=tower.regular)
        spans = [(site, found[site.name].span) for site in sites]
        if there := tuple(replace(site, layout=replace(site.layout, span=span)) for site, span in spans if span):
            return there
        reasons.append(f"{sites[0].name}: {found[sites[0].name].finding}")
    raise BackboneError(f"{backbone.name} has no site whose cells lie in order on the picture ({'; '.join(reasons)}).")


_RESIZED: ContextVar[Backbone | None] = ContextVar("resized", default=None)
"""The model of which a copy for another size is being made."""


def noise(backbone: Backbone) -> Float[Tensor, "1 3 height width"]:
    """A picture that no model has seen, the same each time."""
    pixels = torch.randn((1, 3, *backbone.preprocess.size), generator=torch.Generator().manual_seed(0))
    return pixels.to(backbone.device, backbone.dtype)

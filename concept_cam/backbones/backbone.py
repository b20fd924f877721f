"""The one class to extend: what the library asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.block import Block
from concept_cam.backbones.guard import Guard, guarded
from concept_cam.backbones.places import placed
from concept_cam.backbones.pooling import Pooling
from concept_cam.backbones.site import Site
from concept_cam.backbones.snapshot import Snapshot, TextState
from concept_cam.backbones.tower import Tower
from concept_cam.backbones.words import Reader
from concept_cam.backbones.wrappers import check_layers
from concept_cam.errors import BackboneError
from concept_cam.images import WHOLE
from concept_cam.preprocess import Preparation, Size

PROBE = "A photo of 3 Zebras, naïve."
"""A sentence that is tokenized to detect another tokenizer."""


class Backbone(ABC):
    """A model that embeds images and concepts. Adapters are final; they hold the user's model and change nothing in it.

    What is derived from the model (sites, closed forms, copies for other sizes, embedded texts) is kept by its ``guard`` and
    derived anew when the model has changed: ``refresh`` compares the structure before each pass (once in a block of
    ``evaluating``, within which nobody else changes the model), ``text_state`` also the numbers in the text encoder.

    Attributes:
        name: of the model in results.
        family: the kind of model, in a few words.
        module: the model itself.
        sites: where tokens can be read; the default comes first. The patches of every site reach the embedding.
        blocks: of a transformer, for methods that look at its attention; None for one that is not built as the formulas say.
        pooling: how tokens become the embedding; a closed form of the gradient follows from it. None if that is not known.
        preprocess: how images become pixels.
        classes: the concepts of a classifier; a dual encoder has none.
        versions: names and versions of the libraries that compute the embedding, kept with every result.
        guard: who runs the model, and what was derived from it. Nothing else of a backbone changes after it was made.
    """

    name: str
    family: str = guarded()
    module: nn.Module
    sites: tuple[Site, ...] = guarded()
    blocks: tuple[Block | None, ...] = guarded(())
    pooling: Pooling | None = guarded(None)
    preprocess: Preparation = guarded()
    classes: tuple[str, ...] = ()
    versions: Mapping[str, str]
    guard: Guard

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Give the backbone its guard before ``__init__`` runs."""
        backbone, original = super().__new__(cls), _RESIZED.get()
        backbone.guard = Guard(original if type(original) is cls else None)
        return backbone

    def describe(self) -> Tower | None:
        """The vision tower as it is now; None from an adapter that sets ``sites`` itself, which are then measured.

        Raises:
            BackboneError: the model is, or has become, one that this adapter does not know.
        """
        return None

    def image_parts(self) -> tuple[nn.Module, ...]:
        """The submodules that texts do not use, as they are now."""
        return ()

    def text_parts(self) -> tuple[nn.Module, ...]:
        """The submodules that images do not use, as they are now."""
        return ()

    def probe_tokens(self) -> tuple[Any, ...]:
        """The tokens of a fixed sentence, and the tokenizer itself."""
        return ()

    @final
    def refresh(self) -> None:
        """Describe the model again if a module, an attribute, a hook or a parameter was replaced since the last time.

        Raises:
            BackboneError: the model has become one that this adapter does not know, or the cells of no site lie in order.
        """
        with self.evaluating():
            if not self.guard.has_changed(self.module, self._structure):
                return
            # Gradients would go around a layer that was quantized since.
            check_layers(self.module, self.name)
            tower = self.describe()
            if tower is None:
                tower = Tower(self.family, self.sites, self.preprocess.stride, self.blocks, self.pooling)
            self.guard.describe(self._found(tower.with_closed_form()), self._structure)

    def _found(self, tower: Tower) -> dict[str, Any]:
        """The attributes that follow from the tower, its sites with their measured layouts."""
        original = self.guard.original
        measured = original.sites if original is not None else self.sites if self.guard.keeps_places else ()
        if tower.regular and measured and all(site.layout.span == WHOLE for site in measured):
            # A known family is measured at its own size, and again when a module has been replaced.
            sites = tower.sites
        else:
            # In the model's own precision: what the caller's autocast rounds off says nothing about places.
            with torch.autocast(self.device.type, enabled=False):
                sites = placed(self.embed_pixels, tower, noise(self), self.module, self.name)
        _, top, _, bottom = sites[0].layout.span
        share = bottom - top if isinstance(tower.stride, float) else 1
        preprocess = self.preprocess.strided(max(1, round(tower.stride * share)))
        about = {"family": tower.family, "blocks": tower.blocks, "pooling": tower.pooling}
        return {**about, "sites": sites, "preprocess": preprocess}

    @final
    def settle(self) -> None:
        """Note which attributes the first run since ``refresh`` has written itself: a cache or a counter is no setting."""
        self.guard.settle(self._structure)

    @final
    def current(self) -> Backbone:
        """This backbone, or a new one for its size if the model has changed."""
        return self.original.at_size(self.preprocess.size)

    @final
    def forget(self) -> None:
        """Derive everything again at the next use: for changes that cannot be detected, see ``backbones/snapshot.py``."""
        self.original.guard.forget()

    def _structure(self) -> Snapshot:
        return Snapshot(self.module, self.text_parts(), ignored=self.guard.rewritten)

    def __getstate__(self) -> dict[str, Any]:
        """Everything except what is derived from the module: a copy describes the module that it holds."""
        return {**vars(self), "guard": (self.guard.original, dict(self.guard.said))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        original, said = state.pop("guard")
        vars(self).update(state)
        self.guard.original, self.guard.said = original, said
        self.refresh()

    @abstractmethod
    def embed_pixels(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "_ E"]:
        """The model's own image embedding, not normalised; one row for each image.

        One row where a hook of ``gradients`` reduces the batch to its first image on the way.
        """

    @abstractmethod
    def embed_texts(self, sentences: Sequence[str]) -> Float[Tensor, "K E"]:
        """The model's own text embedding, not normalised.

        Raises:
            UnknownConcept: the tokenizer has no token for a word, so that the text would mean something else.
        """

    def reader(self) -> Reader | None:
        """How the model tokenizes texts; None if that is not known, or if it has none."""
        return None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that pixels must have; parameters may have others."""

    def resized(self, size: Size) -> Backbone:
        """This model for another input size, on the same weights; the model itself is not changed. See ``at_size``.

        Raises:
            BackboneError: it cannot take that size. By default a model takes only its own.
        """
        own = self.preprocess.size
        raise BackboneError(f"{self.name} takes images of {own[0]} x {own[1]} pixels alone, not {size[0]} x {size[1]}.")

    def averaged(self) -> Backbone:
        """This model with the mean of its patches instead of its class token, for probes: no text matches that embedding.

        Raises:
            BackboneError: it has no class token that can be replaced.
        """
        raise BackboneError(f"{self.name} ({self.family}) has no class token in whose place the mean of patches could stand.")

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.module.parameters()).device

    def normalize(self, embedding: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E"]:
        """Unit vectors, so that a score is a cosine. Linear classifiers return the embedding unchanged."""
        return F.normalize(embedding, dim=-1)

    def embed_concepts(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "K E"]:
        """Embed concepts as open_clip's zero-shot classifier does: unit vectors of all templates, averaged and normalised."""
        texts = self.embed_texts([template.replace("{}", name) for name in names for template in templates])
        # Cosines decide which concepts are similar: half precision would blur them.
        single = texts.to(torch.promote_types(texts.dtype, torch.float32))
        return self.normalize(self.normalize(single).unflatten(0, (len(names), len(templates))).mean(1))

    @property
    def scale(self) -> float:
        """The inverse temperature of the model: scores are multiplied by it before a softmax."""
        return 1.0

    def biases(self, names: Sequence[str]) -> Float[Tensor, " K"] | None:
        """The biases that a classifier adds to the scores of concepts; None if it has none."""
        return None

    @final
    def at_size(self, size: Size) -> Backbone:
        """This model for pixels of another (height, width): positions are interpolated, weights are shared.

        The user's model is not changed: where a family holds its positions in a parameter, a copy of the structure gets a
        parameter of its own, and shares all other tensors.

        Raises:
            BackboneError: the model cannot take that size.

        Example:
            >>> from concept_cam import world
            >>> layout = world.localizer().backbone.at_size((96, 144)).sites[0].layout
            >>> layout.rows, layout.cols
            (12, 18)
        """
        own = self.original
        with own.guard.holding(own.module):
            own.refresh()
            if size == own.preprocess.size:
                return own
            return own.guard.sizes.get(size, own.module, lambda: own._at(size))

    def _at(self, size: Size) -> Backbone:
        token = _RESIZED.set(self)
        try:
            held = self.resized(size)
            held.refresh()
        finally:
            _RESIZED.reset(token)
        if held is not self:
            held.guard.original = self
        return held

    @property
    def original(self) -> Backbone:
        """The backbone at the model's own size: this one, unless it came from ``at_size``."""
        return self.guard.original or self

    def evaluating(self) -> AbstractContextManager[None]:
        """Run the model in evaluation mode, without a graph and outside inference mode; everything is restored afterwards.

        One thread at a time; see ``Guard.evaluating``.
        """
        return self.guard.evaluating(self.module)

    def text_state(self) -> TextState:
        """Everything that the embedding of a text depends on: equal only if no number, setting or token has changed.

        It reads the whole text encoder: for ViT-B/16, 1.7 % of a pass of eight images (docs/performance.md).
        """
        kind = self.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        with self.evaluating():
            self.original.refresh()
            module = Snapshot(self.module, self.image_parts(), contents=True, ignored=self.guard.rewritten)
        return TextState(module, (self.original.guard.forgotten, *self.probe_tokens()), autocast)

    def site(self, name: str | None = None) -> Site:
        """The site of that name, or the default one.

        Raises:
            BackboneError: there is no such site; the message lists the sites.
        """
        self.original.refresh()
        if name is None:
            return self.sites[0]
        for site in self.sites:
            if site.name == name:
                return site
        names = ", ".join(site.name for site in self.sites)
        raise BackboneError(f"{self.name} has no site {name!r}; its sites are {names}.")


_RESIZED: ContextVar[Backbone | None] = ContextVar("resized", default=None)
"""The model of which a copy for another size is being made."""


def noise(backbone: Backbone, size: Size | None = None) -> Float[Tensor, "1 3 height width"]:
    """An image that no model has seen, the same each time; of the model's own size by default."""
    sides = backbone.preprocess.size if size is None else size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((1, 3, *sides), generator=generator, dtype=torch.float32, device="cpu")
    return pixels.to(backbone.device, backbone.dtype)

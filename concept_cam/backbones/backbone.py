"""The one class to extend: what the library asks of a dual encoder, and where tokens can be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.heads import Head
from concept_cam.errors import BackboneError
from concept_cam.images import Preprocess

_LOCK = RLock()


@dataclass(frozen=True)
class TokenLayout:
    """How the tokens of a site lie on the picture: first the prefix (class token, registers), then the grid row by row."""

    prefix: int
    rows: int
    cols: int

    @property
    def patches(self) -> int:
        """How many tokens lie on the grid."""
        return self.rows * self.cols


@dataclass(frozen=True)
class Site:
    """Where tokens are read.

    Attributes:
        name: the module's name within the model.
        module: its output holds the tokens, (B, prefix + patches, D).
        layout: how those tokens lie on the picture.
        head: all that comes after the site in closed form, if there is one; else gradients come from autograd.
    """

    name: str
    module: nn.Module
    layout: TokenLayout
    head: Head | None = None


class Backbone(ABC):
    """A dual encoder. Adapters are final; they hold the user's model and change nothing in it.

    Attributes:
        name: how the user named the model.
        module: the model itself.
        sites: where tokens can be read; the default comes first. Sites whose patches do not reach the embedding are left out.
        preprocess: how pictures become pixels.
        versions: names and versions of what made the embedding, kept with every result.
    """

    name: str
    module: nn.Module
    sites: tuple[Site, ...]
    preprocess: Preprocess
    versions: Mapping[str, str]

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
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.module.parameters()).device

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that pixels must have; parameters may have several."""

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
        """Changes when an embedding may: with the structure, with a parameter, with the caller's autocast."""
        kind = self.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        return self.structure(), tuple((id(p), p._version) for p in self.module.parameters()), autocast

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

"""What a method is, of three kinds, and how each is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.site import TokenLayout
from concept_cam.gradients import TokenGradient, Trace, WholeGradient

GradientMethod: TypeAlias = Callable[[TokenGradient], Float[Tensor, "K B rows cols"]]
"""A function of the gradient at the patch tokens: the simplest kind, and the one to write for yourself."""


@final
@dataclass(frozen=True)
class FieldMethod:
    """A method that has a vector in text space for each patch: maps are its products with directions, so it is linear.

    Attributes:
        vectors: (B, N, E) of a trace.
    """

    vectors: Callable[[Trace], Float[Tensor, "B N E"]]


@final
@dataclass(frozen=True)
class TraceMethod:
    """A method that asks the model for more than the gradient at one site.

    Attributes:
        maps: (K, B, N) of a trace and of directions (K, B, E).
        sees_score: whether the map depends on the direction; one that does not has no finer form.
    """

    maps: Callable[[Trace, Tensor], Float[Tensor, "K B N"]]
    sees_score: bool = True


Method: TypeAlias = GradientMethod | FieldMethod | TraceMethod


def explain(method: Method, trace: Trace, directions: Float[Tensor, "K _ E"]) -> Float[Tensor, "K B rows cols"]:
    """The signed maps of K scores of the pictures of a trace.

    Args:
        method: of any kind.
        trace: one forward pass.
        directions: each for all pictures, or one for each.

    Example:
        >>> import torch
        >>> from concept_cam import fieldguide, trace
        >>> from concept_cam.methods import explain, maskclip
        >>> seen = trace(fieldguide.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> explain(maskclip, seen, torch.ones(5, 1, 192)).shape
        torch.Size([5, 2, 12, 12])
    """
    directions = directions.to(trace.embedding).expand(-1, len(trace.embedding), -1)
    with _at_rest(trace):
        if isinstance(method, FieldMethod):
            maps = torch.einsum("bne,kbe->kbn", method.vectors(trace), directions)
        elif isinstance(method, TraceMethod):
            maps = method.maps(trace, directions)
        else:
            return method(trace.gradient(directions))
    return maps.reshape(*maps.shape[:2], trace.layout.rows, trace.layout.cols)


def field_vectors(method: Method, trace: Trace) -> Float[Tensor, "B N E"] | None:
    """F with map = F d, of a method that is linear in the direction; None of any other."""
    if not is_linear(method) or isinstance(method, TraceMethod):
        return None
    with _at_rest(trace):
        return method.vectors(trace) if isinstance(method, FieldMethod) else trace.matrix(method)


@contextmanager
def _at_rest(trace: Trace) -> Iterator[None]:
    """Pieces of the model run as the whole of it did: no dropout, none of the caller's modes."""
    with trace.backbone.at_rest(), torch.autocast(trace.backbone.device.type, enabled=False):
        yield


@cache
def is_linear(method: Method) -> bool:
    """Whether a method is linear in the direction; of a function of the gradient that is tried, on numbers of no meaning."""
    if isinstance(method, FieldMethod | TraceMethod):
        return isinstance(method, FieldMethod)
    generator = torch.Generator().manual_seed(0)
    tokens, first, second = (torch.randn(1, 1, 6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    one, other, both = (
        method(WholeGradient(tokens[0], TokenLayout(0, 2, 3), whole)) for whole in (first, second, first - 2 * second)
    )
    return torch.allclose(both, one - 2 * other, rtol=1e-9, atol=1e-12)


def sees_score(method: Method) -> bool:
    """Whether a map depends on what is asked for."""
    return not isinstance(method, TraceMethod) or method.sees_score


def name_of(method: Method) -> str:
    """What its function is called."""
    function = function_of(method)
    return str(getattr(function, "__name__", repr(function))).lstrip("_")


def function_of(method: Method) -> Callable[..., Tensor]:
    """Its function, whose docstring tells of it."""
    if isinstance(method, FieldMethod):
        return method.vectors
    return method.maps if isinstance(method, TraceMethod) else method

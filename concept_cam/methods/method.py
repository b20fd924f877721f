"""What a method is, of three kinds, how it is named, how each is asked, and whether its answer is a map."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.site import TokenLayout
from concept_cam.errors import OptionError, did_you_mean
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

if TYPE_CHECKING:
    AnyMethod: TypeAlias = Method | str
else:
    # Types are checked at run time in tests: there too, what is no method shall be refused by ``as_method``, in words.
    AnyMethod = Any

METHODS: dict[str, Method] = {}
"""All methods by name: those that ``concept_cam.methods`` lists."""


def method_named(name: str) -> Method:
    """A method by the name of its paper in snake case.

    Raises:
        OptionError: there is none; the message suggests the nearest spelling.
    """
    if name not in METHODS:
        spelt = name.lower().replace("++", "_plus_plus").replace("-", "_").replace(" ", "_")
        raise OptionError(f"No method {name!r}.{did_you_mean(spelt, METHODS)} There are {', '.join(METHODS)}.")
    return METHODS[name]


def as_method(wanted: AnyMethod) -> Method:
    """The method that is meant by a name of ``METHODS``, or by a method itself.

    Raises:
        OptionError: no method has that name, or it is no method: a class, a number, a function of several arguments.

    Example:
        >>> from concept_cam.methods import as_method, grad_cam
        >>> as_method("grad_cam") is grad_cam
        True
    """
    if isinstance(wanted, str):
        return method_named(wanted)
    if isinstance(wanted, FieldMethod | TraceMethod):
        return wanted
    if isinstance(wanted, type) or not callable(wanted):
        what = f"the class {wanted.__name__}" if isinstance(wanted, type) else f"{wanted!r:.60}"
        raise OptionError(
            f"{what} is no method; expected a name such as 'grad_cam', or a function of a TokenGradient (docs/methods.md)."
        )
    try:
        inspect.signature(wanted).bind(None)
    except TypeError as error:
        name = getattr(wanted, "__name__", f"{wanted!r:.60}")
        raise OptionError(f"{name} is no method ({error}); expected a function of one TokenGradient.") from None
    except ValueError:
        pass  # Nothing is known of the arguments of some built-in functions.
    return wanted


def explain(method: AnyMethod, trace: Trace, directions: Float[Tensor, "K _ E"]) -> Float[Tensor, "K B rows cols"]:
    """The signed maps of K scores of the images of a trace.

    Args:
        method: of any kind, or its name.
        trace: one forward pass.
        directions: each for all images, or one for each.

    Raises:
        OptionError: it is no method, or what it gives is no map for each direction and image.

    Example:
        >>> import torch
        >>> from concept_cam import world, trace
        >>> from concept_cam.methods import explain, maskclip
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> explain(maskclip, seen, torch.ones(5, 1, 192)).shape
        torch.Size([5, 2, 12, 12])
    """
    method = as_method(method)
    directions = directions.to(trace.embedding).expand(-1, len(trace.embedding), -1)
    count, grid = directions.shape[:2], (trace.layout.rows, trace.layout.cols)
    with trace.evaluating():
        if isinstance(method, FieldMethod):
            maps = torch.einsum("bne,kbe->kbn", _vectors(method, trace), directions)
        elif isinstance(method, TraceMethod):
            maps = _answer(method, method.maps(trace, directions), "K B N", (*count, trace.layout.patches))
        else:
            maps = _answer(method, method(trace.gradient(directions)), "K B rows cols", (*count, *grid))
    return maps.to(trace.embedding.device).reshape(*count, *grid)


def field_vectors(method: AnyMethod, trace: Trace) -> Float[Tensor, "B N E"] | None:
    """F with map = F d, of a method that is linear in the direction; None of any other.

    Raises:
        OptionError: it is no method, or what it gives is no map for each direction and image.
    """
    method = as_method(method)
    if not is_linear(method) or isinstance(method, TraceMethod):
        return None
    with trace.evaluating():
        if isinstance(method, FieldMethod):
            return _vectors(method, trace)
        shape = len(trace.tokens), trace.layout.rows, trace.layout.cols

        def checked(gradient: TokenGradient) -> Tensor:
            maps = method(gradient)
            # How many directions there are is known to those who ask: the embedding's width, or that of what is pooled.
            count = len(maps) if isinstance(maps, Tensor) and maps.ndim else 0
            return _answer(method, maps, "K B rows cols", (count, *shape))

        return trace.matrix(checked)


def _vectors(method: FieldMethod, trace: Trace) -> Float[Tensor, "B N E"]:
    return _answer(
        method, method.vectors(trace), "B N E", (len(trace.tokens), trace.layout.patches, trace.embedding.shape[-1])
    )


def _answer(method: Method, given: Any, axes: str, shape: tuple[int, ...]) -> Tensor:
    """What a method gave, without a graph, if it is what its kind of method gives: numbers of that shape.

    Raises:
        OptionError: it is anything else. A map that was reshaped to fit would be another map.
    """
    if isinstance(given, Tensor) and given.is_floating_point() and given.shape == shape:
        return given.detach()
    found = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    raise OptionError(
        f"The method {name_of(method)} gave {found}; expected a tensor of floating-point numbers of shape {shape}, ({axes})."
    )


def is_linear(method: AnyMethod) -> bool:
    """Whether a method is linear in the direction; of a function of the gradient that is tried, on numbers of no meaning.

    It is tried each time, which takes less than a millisecond: what a function does may change with what it refers to.

    Raises:
        OptionError: it is no method, or what it gives is no map for each direction and image.
    """
    method = as_method(method)
    if isinstance(method, FieldMethod | TraceMethod):
        return isinstance(method, FieldMethod)
    generator = torch.Generator().manual_seed(0)
    tokens, first, second = (torch.randn(1, 1, 6, 5, generator=generator, dtype=torch.float64, device="cpu") for _ in range(3))

    def maps(*gradients: Tensor) -> Tensor:
        gradient = WholeGradient(tokens[0], TokenLayout(0, 2, 3), torch.cat(gradients))
        return _answer(method, method(gradient), "K B rows cols", (len(gradients), 1, 2, 3))

    alone = [maps(gradient) for gradient in (first, second, first - 2 * second)]
    expected = torch.cat([*alone[:2], alone[0] - 2 * alone[1]])
    # Together as well: a map must not depend on the other directions that are asked for.
    return all(
        torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
        for found in (torch.cat(alone), maps(first, second, first - 2 * second))
    )


def sees_score(method: AnyMethod) -> bool:
    """Whether a map depends on what is asked for."""
    method = as_method(method)
    return not isinstance(method, TraceMethod) or method.sees_score


def name_of(method: AnyMethod) -> str:
    """What its function is called."""
    if isinstance(method, str):
        return method
    return _called(function_of(as_method(method))).lstrip("_")


def _called(function: Any) -> str:
    """Without an address: it is another in the next run, and a name stands in tables."""
    if isinstance(function, partial):
        given = [_short(value) for value in function.args]
        given += [f"{key}={_short(value)}" for key, value in function.keywords.items()]
        return f"{_called(function.func)}({', '.join(given)})"
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def _short(value: Any) -> str:
    if isinstance(value, bool | int | float | str | None):
        return f"{value!r:.30}"
    return _called(value) if callable(value) else type(value).__name__


def function_of(method: Method) -> Callable[..., Tensor]:
    """Its function, whose docstring tells of it."""
    if isinstance(method, FieldMethod):
        return method.vectors
    return method.maps if isinstance(method, TraceMethod) else method

"""The three kinds of methods, their names, and how each is called and its result checked."""

from __future__ import annotations

import inspect
import re
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
from concept_cam.gradients.base import for_each

GradientMethod: TypeAlias = Callable[[TokenGradient], Float[Tensor, "K B rows cols"]]
"""A function from the gradient at the patch tokens to maps: the simplest kind, and the one to write for yourself."""


@final
@dataclass(frozen=True)
class FieldMethod:
    """A method that gives a vector in embedding space for each patch; a map is the inner product of these with a direction.

    Such a method is linear in the direction, and so has a ``ConceptField``.

    Attributes:
        vectors: from a trace to the vectors (B, N, E).
        maps: from a trace and directions (K, B, E) to maps (K, B, N), where a few maps cost less than the vectors.
        depth: how many of the last blocks it reads, all if None; 0 if only what a trace has anyway.
        of_last: from a number of blocks to the method that reads the last ones alone; None if it cannot be told how many.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.methods import FieldMethod
        >>> @FieldMethod
        ... def tokens(trace):
        ...     return trace.tokens  # in the embedded encoder they happen to be as wide as the embedding
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer(method=tokens)(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """

    vectors: Callable[[Trace], Float[Tensor, "B N E"]]
    maps: Callable[[Trace, Tensor], Float[Tensor, "K B N"]] | None = None
    depth: int | None = 0
    of_last: Callable[[int], FieldMethod] | None = None


@final
@dataclass(frozen=True)
class TraceMethod:
    """A method that needs more of the model than the gradient at one site.

    Attributes:
        maps: from a trace and directions (K, B, E) to maps (K, B, N).
        sees_score: whether the map depends on the direction; without that it cannot be contrastive.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.methods import TraceMethod
        >>> method = TraceMethod(lambda trace, directions: trace.gradient(directions).dot_tokens().clamp(min=0))
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer(method=method)(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """

    maps: Callable[[Trace, Tensor], Float[Tensor, "K B N"]]
    sees_score: bool = True


Method: TypeAlias = GradientMethod | FieldMethod | TraceMethod

if TYPE_CHECKING:
    AnyMethod: TypeAlias = Method | str
else:
    # Tests check types at run time; there too ``as_method`` must be the one that refuses what is not a method.
    AnyMethod = Any

METHODS: dict[str, Method] = {}
"""All methods by name: those that ``concept_cam.methods`` lists."""


def method_named(name: str) -> Method:
    """The method of a name, which is that of its paper in snake case; with a number, it reads so many of the last blocks.

    Raises:
        OptionError: there is no such method; the message suggests the nearest spelling. Or it takes no such number.

    Example:
        >>> from concept_cam.methods import depth_of, grad_cam, method_named
        >>> method_named("grad_cam") is grad_cam, depth_of(method_named("class_stream:4"))
        (True, 4)
    """
    known, colon, number = name.partition(":")
    if known not in METHODS:
        spelt = known.lower().replace("++", "_plus_plus").replace("-", "_").replace(" ", "_")
        raise OptionError(f"No method {name!r}.{did_you_mean(spelt, METHODS)} There are {', '.join(METHODS)}.")
    method = METHODS[known]
    if not colon:
        return method
    if not isinstance(method, FieldMethod) or method.of_last is None:
        able = [other for other, one in METHODS.items() if isinstance(one, FieldMethod) and one.of_last is not None]
        raise OptionError(
            f"{known} cannot be told how many blocks to read; leave out {colon + number!r}, or use {' or '.join(able)}."
        )
    if not re.fullmatch("[1-9][0-9]{0,3}", number):
        raise OptionError(f"{name!r}: the number of blocks is a whole number from 1 to 9999, as in {known}:4.")
    return method.of_last(int(number))


def as_method(wanted: AnyMethod) -> Method:
    """The method itself, from a method or its name in ``METHODS``.

    Raises:
        OptionError: no method has that name, or the argument is not a method (a class, a number, a function of several
            arguments).

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
            f"{what} is not a method; expected a name such as 'grad_cam', or a function of a TokenGradient (docs/methods.md)."
        )
    try:
        inspect.signature(wanted).bind(None)
    except TypeError as error:
        name = getattr(wanted, "__name__", f"{wanted!r:.60}")
        raise OptionError(f"{name} is not a method ({error}); expected a function of one TokenGradient.") from None
    except ValueError:
        pass  # Some built-in functions do not state their arguments.
    return wanted


def explain(method: AnyMethod, trace: Trace, directions: Float[Tensor, "K _ E"]) -> Float[Tensor, "K B rows cols"]:
    """Signed maps of K directions for the images of a trace.

    Args:
        method: a method of any kind, or its name.
        trace: one forward pass of B images.
        directions: (K, 1, E), the same for all images, or (K, B, E), one for each image.

    Raises:
        OptionError: the argument is not a method, or its result is not one map for each direction and image.

    Example:
        >>> import torch
        >>> from concept_cam import world, trace
        >>> from concept_cam.methods import explain, maskclip
        >>> seen = trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))
        >>> explain(maskclip, seen, torch.ones(5, 1, 192)).shape
        torch.Size([5, 2, 12, 12])
    """
    method = as_method(method)
    directions = for_each(trace.embedding, directions)
    count, grid = directions.shape[:2], (trace.layout.rows, trace.layout.cols)
    with trace.evaluating():
        if not isinstance(method, FieldMethod | TraceMethod):
            maps = _answer(method, method(trace.gradient(directions)), "K B rows cols", (*count, *grid))
        elif method.maps is not None:
            maps = _answer(method, method.maps(trace, directions), "K B N", (*count, trace.layout.patches))
        else:
            maps = torch.einsum("bne,kbe->kbn", _vectors(method, trace), directions)
    return maps.to(trace.embedding.device).reshape(*count, *grid)


def field_vectors(method: AnyMethod, trace: Trace) -> Float[Tensor, "B N E"] | None:
    """The field F of a method that is linear in the direction d, with map = F d; None for any other method.

    Raises:
        OptionError: the argument is not a method, or its result is not one map for each direction and image.

    Example:
        >>> import torch
        >>> from concept_cam import trace, world
        >>> from concept_cam.methods import field_vectors
        >>> field_vectors("hires_cam", trace(world.localizer().backbone, torch.zeros(2, 3, 96, 96))).shape
        torch.Size([2, 144, 192])
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
            # Only the caller knows the number of directions: the width of the embedding, or that of what is pooled.
            count = len(maps) if isinstance(maps, Tensor) and maps.ndim else 0
            return _answer(method, maps, "K B rows cols", (count, *shape))

        return trace.matrix(checked)


def _vectors(method: FieldMethod, trace: Trace) -> Float[Tensor, "B N E"]:
    return _answer(
        method, method.vectors(trace), "B N E", (len(trace.tokens), trace.layout.patches, trace.embedding.shape[-1])
    )


def _answer(method: Method, given: Any, axes: str, shape: tuple[int, ...]) -> Tensor:
    """The result of a method, without a graph, after a check of its type and shape.

    Raises:
        OptionError: it is not a floating-point tensor of that shape. It is not reshaped: that would be another map.
    """
    if isinstance(given, Tensor) and given.is_floating_point() and given.shape == shape:
        return given.detach()
    found = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    raise OptionError(
        f"The method {name_of(method)} gave {found}; expected a tensor of floating-point numbers of shape {shape}, ({axes})."
    )


def is_linear(method: AnyMethod) -> bool:
    """Whether a method is linear in the direction. For a plain function, linearity is tested on random tensors.

    The test takes less than a millisecond. It is repeated in each call: a function may depend on variables that change.

    Raises:
        OptionError: the argument is not a method, or its result is not one map for each direction and image.

    Example:
        >>> from concept_cam.methods import is_linear
        >>> is_linear("grad_cam"), is_linear("layer_cam")
        (True, False)
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
    # Together as well: a map must not depend on the other directions of the call.
    together = maps(first, second, first - 2 * second)
    return all(torch.allclose(found, expected, rtol=1e-9, atol=1e-12) for found in (torch.cat(alone), together))


def sees_score(method: AnyMethod) -> bool:
    """Whether the map of a method depends on the direction; only then can it be contrastive.

    Example:
        >>> from concept_cam.methods import sees_score
        >>> sees_score("relevance"), sees_score("rollout")
        (True, False)
    """
    return not isinstance(found := as_method(method), TraceMethod) or found.sees_score


def depth_of(*methods: AnyMethod) -> int | None:
    """How many of the last blocks some methods read, all if None; 0 if none needs more than one site.

    Example:
        >>> from concept_cam.methods import depth_of, last_blocks
        >>> depth_of("hires_cam"), depth_of(last_blocks("class_stream", 4))
        (0, 4)
    """
    found = [method.depth if isinstance(method, FieldMethod) else 0 for method in map(as_method, methods)]
    return None if None in found else max((depth for depth in found if depth is not None), default=0)


def name_of(method: AnyMethod) -> str:
    """The name of a method: that of its function.

    Example:
        >>> from concept_cam.methods import hires_cam, name_of
        >>> name_of(hires_cam)
        'hires_cam'
    """
    if isinstance(method, str):
        return method
    return _called(function_of(as_method(method))).lstrip("_")


def _called(function: Any) -> str:
    """The name of a function, without its address, which would differ in the next run."""
    name = getattr(function, "__name__", None)
    if isinstance(name, str):
        return name
    if isinstance(function, partial):
        given = [_short(value) for value in function.args]
        given += [f"{key}={_short(value)}" for key, value in function.keywords.items()]
        return f"{_called(function.func)}({', '.join(given)})"
    return type(function).__name__


def _short(value: Any) -> str:
    if isinstance(value, bool | int | float | str | None):
        return f"{value!r:.30}"
    return _called(value) if callable(value) else type(value).__name__


def function_of(method: Method) -> Callable[..., Tensor]:
    """The function behind a method, whose docstring describes it.

    Example:
        >>> from concept_cam.methods import METHODS, function_of
        >>> function_of(METHODS["score_cam"]).__name__
        'score_cam'
    """
    if isinstance(method, FieldMethod):
        return method.vectors
    return method.maps if isinstance(method, TraceMethod) else method

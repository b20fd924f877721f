"""Products with the Jacobian of all that comes after pooling: a function of one vector per image, in many directions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.backbones.locks import PROCESS
from concept_cam.errors import ConceptCamError

Finish = Callable[[Tensor], Tensor]
"""From the pooled vectors (B, W) to the embeddings (B, E); an image does not see the others."""

_FEW = 2
"""So many directions, such as those of a base map and a contrastive map, take no longer one by one than as a batch."""


class NotForwards(Exception):
    """Torch has no formula to differentiate a layer forwards."""


def pull(
    finish: Finish, pooled: Float[Tensor, "B W"], directions: Float[Tensor, "K B E"], at_once: int
) -> Float[Tensor, "K B W"]:
    """J^T d: the gradient of <embedding, d> at the pooled vector, for each direction d.

    Args:
        finish: the function.
        pooled: where J is taken.
        directions: of the embedding.
        at_once: so many go backwards as one batch, which bounds memory. One pass goes forwards.
    """
    with torch.enable_grad():
        leaf = pooled.detach().clone().requires_grad_()
        embedding = finish(leaf)
    return pull_through(embedding, [leaf], directions, at_once)[0]


def pull_through(
    embedding: Float[Tensor, "B E"], at: Sequence[Float[Tensor, "B W"]], directions: Float[Tensor, "K B E"], at_once: int
) -> tuple[Float[Tensor, "K B W"], ...]:
    """J^T d at several vectors that an embedding was made of, back through the graph that made it.

    Args:
        embedding: with its graph, which is kept.
        at: vectors of that graph.
        directions: of the embedding.
        at_once: so many go backwards as one batch, which bounds memory.
    """
    if len(directions) <= _FEW:
        each = [pull_one(embedding, at, direction) for direction in directions]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    pulled = [
        torch.autograd.grad(embedding, at, part, retain_graph=True, is_grads_batched=True)
        for part in directions.split(at_once)
    ]
    return tuple(torch.cat(parts) for parts in zip(*pulled, strict=True))


def pull_one(
    embedding: Float[Tensor, "B E"], at: Sequence[Tensor], direction: Float[Tensor, "B E"], *, zeros: bool = False
) -> tuple[Tensor, ...]:
    """The gradient of <embedding, d> at what an embedding was made of, back through the graph that made it.

    Args:
        embedding: with its graph, which is kept.
        at: tensors of that graph.
        direction: d of each image.
        zeros: give zeros for a tensor that has no part in the embedding, instead of an error.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Of a scalar: to begin from the gradient of a vector, torch imports sympy, which takes longer than a map.
        return torch.autograd.grad((embedding * direction).sum(), at, retain_graph=True, materialize_grads=zeros)


def push(
    finish: Finish, pooled: Float[Tensor, "B W"], tangents: Float[Tensor, "B T W"], at_once: int
) -> Float[Tensor, "B T E"]:
    """J t: by how much each change t of the pooled vector changes the embedding, by forward differentiation.

    Args:
        finish: the function.
        pooled: where J is taken.
        tangents: changes of the pooled vector.
        at_once: so many go forwards as one batch, which bounds memory.

    Raises:
        NotForwards: torch cannot differentiate a layer forwards.
    """
    _load_forward_formulas()

    def moved(tangent: Float[Tensor, "B W"]) -> Float[Tensor, "B E"]:
        along: Tensor = torch.func.jvp(finish, (pooled,), (tangent,))[1]
        return along

    try:
        out: Tensor = torch.func.vmap(moved, in_dims=1, out_dims=1, chunk_size=at_once)(tangents)
    except (torch.cuda.OutOfMemoryError, ConceptCamError):
        raise
    except RuntimeError as error:
        # A layer that torch cannot differentiate forwards is one that a user wrote.
        raise NotForwards(str(error)) from error
    return out


def linear_part(affine: Finish, vectors: Float[Tensor, "B N W"]) -> Float[Tensor, "B N D"]:
    """What an affine map makes of vectors, without its constant.

    It goes forwards by differentiation: in half precision the difference to the constant would round off a small vector.

    Example:
        >>> from concept_cam.gradients import linear_part
        >>> linear_part(lambda x: 2 * x + 1, torch.tensor([[[3.0, 4.0]]]))
        tensor([[[6., 8.]]])
    """
    zero = torch.zeros_like(vectors[:, 0])
    try:
        return push(affine, zero, vectors, vectors.shape[1])
    except NotForwards:
        return affine(vectors) - affine(zero)[:, None]


def transposed(affine: Finish, width: int, directions: Float[Tensor, "K B D"]) -> Float[Tensor, "K B W"]:
    """The transpose of the linear part of an affine map, on some directions.

    Args:
        affine: from (..., W) to (..., D).
        width: W.
        directions: of what it gives.

    Example:
        >>> from concept_cam.gradients import transposed
        >>> matrix = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> transposed(lambda x: x @ matrix.T + 1, 2, torch.tensor([[[1.0, 1.0]]]))
        tensor([[[1., 5.]]])
    """
    with torch.enable_grad():
        leaf = directions.new_zeros(*directions.shape[:-1], width).requires_grad_()
        return torch.autograd.grad(affine(leaf), leaf, directions)[0]


@cache
def _load_forward_formulas() -> None:
    """Torch compiles some formulas at their first use and warns of a function of its own: the user need not know."""
    with PROCESS, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(
            torch.sin,
            (torch.zeros((), dtype=torch.float32, device="cpu"),),
            (torch.ones((), dtype=torch.float32, device="cpu"),),
        )

"""One attention with one query: the class token's row of the last block, or a learned latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.heads.head import Head, Reading, Rest

Rotation = Callable[[Tensor, int], Tensor]
"""Turns queries or keys (B, M, H, d) by the angles of their positions times a sign, 1 or -1."""


@dataclass(frozen=True)
class Projections:
    """The linear maps into an attention, weights (H d, D) and biases (H d,), and how many heads share them."""

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]
    heads: int

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> Projections:
        """Those of torch's attention, packed or apart.

        Raises:
            ValueError: it attends to more than the tokens.
        """
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError("an attention with extra keys")
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.detach().chunk(3)
        else:
            weights = tuple(getattr(attention, f"{name}_proj_weight").detach() for name in "qkv")
        return cls.packed(weights, attention.in_proj_bias, attention.num_heads)

    @classmethod
    def packed(cls, weights: Sequence[Tensor], biases: Tensor | None, heads: int) -> Projections:
        """Three weights, of query, key and value, and their biases in one piece, or none."""
        parts = [weight.new_zeros(len(weight)) for weight in weights] if biases is None else biases.detach().chunk(3)
        query, key, value = zip([weight.detach() for weight in weights], parts, strict=True)
        return cls(query, key, value, heads)

    @classmethod
    def of_linears(cls, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> Projections:
        """Those of three linear layers."""

        def parts(linear: nn.Linear) -> tuple[Tensor, Tensor]:
            weight = linear.weight.detach()
            return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()

        return cls(parts(query), parts(key), parts(value), heads)


@final
@dataclass(frozen=True)
class ClassAttention(Head):
    """The class token's row of the last block: one attention with one query, then that block's MLP and the projection.

    The site is the block's first norm. Only the query row of the block is computed.

    Attributes:
        projections: of the block's attention, asked for anew at each reading: parameters may be replaced.
        rest: from the attention's output and the residual, both (..., D), to the embedding (..., E).
        rotate: for rotary positions: turns vectors (B, M, H, d) by the angle of each token times a sign, 1 or -1.
    """

    projections: Callable[[], Projections]
    rest: Rest
    rotate: Rotation | None = None

    def read(self, entering: Float[Tensor, "B M D"], tokens: Float[Tensor, "B M D"], prefix: int) -> Reading:
        """The class token asks all tokens."""
        own = self.projections()
        entering, tokens = entering.to(own.query[0].dtype), tokens.to(own.query[0].dtype)
        query = F.linear(tokens[:, :1], *own.query)
        rest = partial(self.rest, residual=entering[:, 0])
        return attend(query, tokens, own, prefix, rest, self.rotate)


@final
@dataclass(frozen=True)
class LatentAttention(Head):
    """A pooling attention whose query is learned, whatever the picture.

    The site is what the attention takes its keys and values from.

    Attributes:
        projections: of the pooling attention.
        latent: the query before its projection, (D,).
        rest: from the attention's output (..., D) to the embedding (..., E).
        asks_prefix: whether the latent asks the prefix as well as the patches.
    """

    projections: Callable[[], Projections]
    latent: Callable[[], Tensor]
    rest: Rest
    asks_prefix: bool = True

    def read(self, entering: Tensor, tokens: Float[Tensor, "B M D"], prefix: int) -> Reading:
        """The latent asks all tokens, or all patches."""
        own = self.projections()
        if not self.asks_prefix:
            tokens, prefix = tokens[:, prefix:], 0
        tokens = tokens.to(own.key[0].dtype)
        query = F.linear(self.latent().detach().to(tokens), *own.query).expand(len(tokens), 1, -1)
        return attend(query, tokens, own, prefix, self.rest)


def attend(
    query: Float[Tensor, "B 1 W"],
    tokens: Float[Tensor, "B M D"],
    projections: Projections,
    prefix: int,
    rest: Rest,
    rotate: Rotation | None = None,
) -> AttentionReading:
    """One query asks all tokens; what it learns of the patches is kept."""
    heads = projections.heads
    query = query.unflatten(-1, (heads, -1))
    query = query * query.shape[-1] ** -0.5
    value = F.linear(tokens, *projections.value).unflatten(-1, (heads, -1))
    if rotate is None:
        # <q, W_k A_n> = <W_k^T q, A_n>: one vector a head instead of a key for each token. The bias of the keys moves all
        # logits of a head alike, so attention does not see it.
        asked = torch.einsum("bhd,hdc->bhc", query[:, 0], projections.key[0].unflatten(0, (heads, -1)))
        centred_key = logits = tokens @ asked.transpose(1, 2)
    else:
        key = F.linear(tokens, projections.key[0]).unflatten(-1, (heads, -1))
        # <R_0 q, R_n k> = <R_n^-1 R_0 q, k>: seen from the patches, the query turns and the keys stand still.
        query = rotate(rotate(query.expand_as(key), 1)[:, :1].expand_as(key), -1)
        centred_key = torch.einsum("bmhd,bmhd->bmh", query, key)
        logits = centred_key + torch.einsum("bmhd,hd->bmh", query, projections.key[1].unflatten(0, (heads, -1)))
    attention = logits.softmax(1).to(value.dtype)
    output = torch.einsum("bmh,bmhd->bhd", attention, value)
    return AttentionReading(
        tokens=tokens[:, prefix:],
        pooled=output.flatten(-2),
        attention=attention[:, prefix:],
        value=value[:, prefix:],
        query=query[:, prefix:] if rotate is not None else query,
        centred_value=value[:, prefix:] - projections.value[1].unflatten(0, (heads, -1)),
        centred_key=centred_key[:, prefix:],
        key_weight=projections.key[0],
        value_weight=projections.value[0],
        rest=rest,
    )


@final
@dataclass(frozen=True)
class AttentionReading(Reading):
    """One attention with one query, read; H heads of width d.

    Attributes:
        attention: a_hn, the query's weights on the patches; the rest of each sum to one is on the prefix.
        value: v_hn.
        query: q_h / sqrt(d_h), one for all patches, or one for each where positions are rotary.
        centred_value: v_hn - b_v,h.
        centred_key: q_h (k_hn - b_k,h) / sqrt(d_h).
        key_weight, value_weight: W_k and W_v.
    """

    tokens: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B W"]
    attention: Float[Tensor, "B N H"]
    value: Float[Tensor, "B N H d"]
    query: Float[Tensor, "B _ H d"]
    centred_value: Float[Tensor, "B N H d"]
    centred_key: Float[Tensor, "B N H"]
    key_weight: Float[Tensor, "W D"]
    value_weight: Float[Tensor, "W D"]
    rest: Rest

    def finish(self, pooled: Float[Tensor, "K B W"]) -> Float[Tensor, "K B E"]:
        """The output projection, the residual, the MLP, the norm and the projection."""
        return self.rest(pooled)

    def mean(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B D"]:
        """1/N sum_h [(sum_n a_hn) W_v,h^T gamma_h + W_k,h^T sum_n delta_hn q_hn / sqrt(d_h)]; no (N, D) object."""
        by_head = self._by_head(gamma)
        turns = torch.einsum("bnhd,bnhe->bhde", self.moved, self.query.expand_as(self.value))
        through_values = (by_head * self.attention.sum(1)[..., None]).flatten(-2) @ self.value_weight
        through_keys = torch.einsum("kbhd,bhde->kbhe", by_head, turns).flatten(-2) @ self.key_weight
        return (through_values + through_keys) / self.tokens.shape[1]

    def each(self) -> Float[Tensor, "B N W"]:
        """L_hn = a_hn (v_hn - b_v,h) + kappa_hn a_hn (v_hn - o_h)."""
        through_values = self.attention[..., None] * self.centred_value
        return (through_values + self.centred_key[..., None] * self.moved).flatten(-2)

    def averaged(self) -> Float[Tensor, "B N W"]:
        """L_hn = 1/N [(sum_m a_hm) (v_hn - b_v,h) + sum_m a_hm (v_hm - o_h) q_hm (k_hn - b_k,h) / sqrt(d_h)]."""
        if self.query.shape[1] == 1:
            return self.averaged_over(self.centred_value, self.centred_key)
        key = self._by_head(F.linear(self.tokens, self.key_weight))
        turns = torch.einsum("bnhd,bnhe->bhde", self.moved, self.query)
        through_keys = torch.einsum("bhde,bnhe->bnhd", turns, key)
        through_values = self.attention.sum(1)[:, None, :, None] * self.centred_value
        return (through_values + through_keys).flatten(-2) / self.tokens.shape[1]

    def averaged_over(self, value: Float[Tensor, "B M H d"], key: Float[Tensor, "B M H"]) -> Float[Tensor, "B M W"]:
        """L with <mean of G, x_m> = gamma . L_m for other tokens x, by W_v x and q W_k x / sqrt(d_h); with one query."""
        through_values = self.attention.sum(1)[:, None, :, None] * value
        through_keys = key[..., None] * self.moved.sum(1)[:, None]
        return (through_values + through_keys).flatten(-2) / self.tokens.shape[1]

    def dense(self, gamma: Float[Tensor, "K B W"]) -> Iterator[Float[Tensor, "B N D"]]:
        """G_n = sum_h [a_hn W_v,h^T gamma_h + delta_hn W_k,h^T q_hn / sqrt(d_h)]: of rank 2H, unless queries turn."""
        key_weight, value_weight = (w.unflatten(0, self.value.shape[-2:]) for w in (self.key_weight, self.value_weight))
        one_query = self.query.shape[1] == 1
        key_pull = torch.einsum("bhd,hdc->bhc", self.query[:, 0], key_weight) if one_query else None
        for by_head in self._by_head(gamma):
            value_pull = torch.einsum("bhd,hdc->bhc", by_head, value_weight)
            delta = torch.einsum("bhd,bnhd->bnh", by_head, self.moved)
            if key_pull is None:
                yield self.attention @ value_pull + (delta[..., None] * self.query).flatten(-2) @ self.key_weight
            else:
                yield torch.cat([self.attention, delta], 2) @ torch.cat([value_pull, key_pull], 1)

    @property
    def moved(self) -> Float[Tensor, "B N H d"]:
        """a_hn (v_hn - o_h): how the output answers to a logit."""
        return self.attention[..., None] * (self.value - self._by_head(self.pooled)[:, None])

    def _by_head(self, vectors: Tensor) -> Tensor:
        return vectors.reshape(*vectors.shape[:-1], *self.value.shape[-2:])

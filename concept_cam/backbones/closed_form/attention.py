"""One attention with one query: the class token's row of the last block, or a learned latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from concept_cam.backbones.block import Block, Projections, Rotation
from concept_cam.backbones.closed_form.end import End
from concept_cam.backbones.closed_form.head import Head
from concept_cam.backbones.closed_form.state import HeadState, Rest, dot


@final
@dataclass(frozen=True)
class ClassAttention(Head):
    """The class token's row of the last block: one attention with one query, then that block's MLP and the projection.

    The site is the block's first norm. Only the query row of the block is computed.

    Attributes:
        block: the last one.
        rest: from the class token that leaves it (..., D) to the embedding (..., E).
        last: the last norm and the projection, where the rest is nothing else; see ``ClassToken``.
    """

    block: Block
    rest: Rest
    last: Callable[[], tuple[Any, Any] | None] = lambda: None

    has_single_query: ClassVar[bool] = True

    @property
    def around(self) -> nn.Module:
        """The block."""
        return self.block.module

    @property
    def by_row(self) -> nn.Module:
        """Its second norm."""
        return self.block.second_norm

    def end(self) -> End | None:
        """All that comes after the attention, where block and rest are built plainly; read anew each time."""
        layers, last = self.block.layers(), self.last()
        return None if layers is None or last is None else End.of(*layers, *last)

    def read(self, entering: Float[Tensor, "B M D"], tokens: Float[Tensor, "B M D"], prefix: int) -> HeadState:
        """Attend from the class token to all tokens."""
        own = self.block.projections()
        residual, tokens = entering[:, 0].to(own.query[0].dtype), tokens.to(own.query[0].dtype)
        query = F.linear(tokens[:, :1], *own.query)

        def rest(output: Tensor) -> Tensor:
            return self.rest(self.block.finish(output, residual))

        state, end = attend(query, tokens, own, prefix, rest, self.block.rotate), self.end()
        return replace(state, project=self.block.project, end=None if end is None else (end, residual))


@final
@dataclass(frozen=True)
class LatentAttention(Head):
    """A pooling attention with a learned query, the same for every image.

    The site is what the attention takes its keys and values from.

    Attributes:
        projections: of the pooling attention.
        latent: the query before its projection, (D,).
        rest: from the attention's output (..., D) to the embedding (..., E).
        reads_prefix: the latent attends to the prefix as well as to the patches.
    """

    projections: Callable[[], Projections]
    latent: Callable[[], Tensor]
    rest: Rest
    reads_prefix: bool = True

    has_single_query: ClassVar[bool] = True

    def read(self, entering: Tensor, tokens: Float[Tensor, "B M D"], prefix: int) -> HeadState:
        """Attend from the latent to all tokens, or to the patches alone."""
        own = self.projections()
        if not self.reads_prefix:
            tokens, prefix = tokens[:, prefix:], 0
        tokens = tokens.to(own.key[0].dtype)
        query = F.linear(self.latent().detach().to(tokens), *own.query).expand(len(tokens), 1, -1)
        return attend(query, tokens, own, prefix, self.rest)


def attend(
    query: Float[Tensor, "B 1 W"],
    entered: Float[Tensor, "B M D"],
    projections: Projections,
    prefix: int,
    rest: Rest,
    rotate: Rotation | None = None,
) -> AttentionState:
    """Attention with a single query. Keys and values are folded into one vector per head and never made.

    Args:
        query: after its projection.
        entered: the tokens from which keys and values are computed, the prefix first.
        projections: of the attention.
        prefix: how many tokens are no patches.
        rest: from the attention's output to the embedding.
        rotate: for rotary positions.
    """
    heads = projections.heads
    query = query.unflatten(-1, (heads, -1))
    query = query * query.shape[-1] ** -0.5
    key_weight, value_weight = (weight.unflatten(0, (heads, -1)) for weight, _ in (projections.key, projections.value))
    if rotate is None:
        # <q, W_k x_n> = <W_k^T q, x_n>. The bias of the keys moves all logits of a head alike, so attention does not see it.
        centred_key = logits = entered @ torch.einsum("bhd,hdc->bch", query[:, 0], key_weight)
    else:
        key = F.linear(entered, projections.key[0]).unflatten(-1, (heads, -1))
        # <R_0 q, R_n k> = <R_n^-1 R_0 q, k>: seen from the patches, the query turns and the keys stand still.
        query = rotate(rotate(query.expand_as(key), 1)[:, :1].expand_as(key), -1)
        centred_key = torch.einsum("bmhd,bmhd->bmh", query, key)
        logits = centred_key + torch.einsum("bmhd,hd->bmh", query, projections.key[1].unflatten(0, (heads, -1)))
    attention = logits.softmax(1).to(entered.dtype)
    # The mean of the values is the value of the mean.
    means = attention.transpose(1, 2) @ entered
    pooled = torch.einsum("bhc,hdc->bhd", means, value_weight).flatten(-2) + projections.value[1]
    patches = entered[:, prefix:]
    return AttentionState(
        tokens=patches,
        entered=patches,
        pooled=pooled,
        attention=attention[:, prefix:],
        query=query[:, prefix:] if rotate is not None else query,
        centred_key=centred_key[:, prefix:],
        projections=projections,
        rest=rest,
    )


@final
@dataclass(frozen=True)
class AttentionState(HeadState):
    """What a head has read of an attention with a single query; H heads of width d.

    Attributes:
        entered: x, from which keys and values are computed: the tokens, or the tokens plus their positions.
        attention: a_hn, the weights of the patches; they sum to one together with those of the prefix.
        query: q_h / sqrt(d_h), one for all patches, or one for each where positions are rotary.
        centred_key: kappa_hn = q_h W_k,h A_n / sqrt(d_h).
        projections: of the attention.
        project: the output projection of a block's attention, up to what is added to the residual; None of a pooling's.
    """

    tokens: Float[Tensor, "B N D"]
    entered: Float[Tensor, "B N D"]
    pooled: Float[Tensor, "B W"]
    attention: Float[Tensor, "B N H"]
    query: Float[Tensor, "B _ H d"]
    centred_key: Float[Tensor, "B N H"]
    projections: Projections
    rest: Rest
    project: Callable[[Tensor], Tensor] | None = None
    end: tuple[End, Float[Tensor, "B D"]] | None = None

    def finish(self, pooled: Float[Tensor, "K B W"]) -> Float[Tensor, "K B E"]:
        """The output projection, the residual, the MLP, the norm and the projection."""
        return self.rest(pooled)

    def mean(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B D"]:
        """1/N sum_h [(sum_n a_hn) W_v,h^T gamma_h + W_k,h^T sum_n delta_hn q_hn / sqrt(d_h)]; no (N, D) object."""
        value_pull, delta = self._value_pull(gamma), self._delta(gamma)
        through_keys = torch.einsum("kbnh,bnhd->kbhd", delta, self.query.expand(-1, delta.shape[2], -1, -1))
        through_values = torch.einsum("bh,kbhc->kbc", self.attention.sum(1), value_pull)
        return (through_values + through_keys.flatten(-2) @ self.projections.key[0]) / self.tokens.shape[1]

    def dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """Sum_h [a_hn gamma_h W_v,h A_n + delta_hn kappa_hn]."""
        if self._many(gamma):
            return dot(gamma, self.dot_tokens_matrix())
        value_score = self._value_score(gamma, self.tokens)
        return (self.attention * value_score + self._delta(gamma, value_score) * self.centred_key).sum(-1)

    def mean_dot_tokens(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B N"]:
        """1/N sum_h [(sum_m a_hm) gamma_h W_v,h A_n + kappa_hn sum_m delta_hm], unless queries turn."""
        if self._many(gamma) or self.query.shape[1] > 1:
            return dot(gamma, self.mean_dot_tokens_matrix())
        value_score = self._value_score(gamma, self.tokens)
        through_keys = self._delta(gamma, value_score).sum(2, keepdim=True) * self.centred_key
        return (self.attention.sum(1, keepdim=True) * value_score + through_keys).sum(-1) / self.tokens.shape[1]

    def dot_tokens_matrix(self) -> Float[Tensor, "B N W"]:
        """L_hn = a_hn W_v,h A_n + kappa_hn a_hn (v_hn - o_h)."""
        value, value_shift = self._value_and_shift()
        return (self.attention[..., None] * value + self.centred_key[..., None] * value_shift).flatten(-2)

    def mean_dot_tokens_matrix(self) -> Float[Tensor, "B N W"]:
        """L_hn = 1/N [(sum_m a_hm) W_v,h A_n + sum_m a_hm (v_hm - o_h) q_hm W_k,h A_n / sqrt(d_h)]."""
        value, value_shift = self._value_and_shift()
        if self.query.shape[1] == 1:
            through_keys = self.centred_key[..., None] * value_shift.sum(1)[:, None]
        else:
            key = self._by_head(F.linear(self.tokens, self.projections.key[0]))
            through_keys = torch.einsum("bmhd,bmhe,bnhe->bnhd", value_shift, self.query, key)
        through_values = self.attention.sum(1)[:, None, :, None] * value
        return (through_values + through_keys).flatten(-2) / self.tokens.shape[1]

    def mean_matrix_over(self, value: Float[Tensor, "B M H d"], key: Float[Tensor, "B M H"]) -> Float[Tensor, "B M W"]:
        """L with <mean of G, y_m> = gamma . L_m for other tokens y; with one query.

        Args:
            value: W_v y.
            key: q W_k y / sqrt(d_h).
        """
        through_values = self.attention.sum(1)[:, None, :, None] * value
        through_keys = key[..., None] * self.value_shift.sum(1)[:, None]
        return (through_values + through_keys).flatten(-2) / self.tokens.shape[1]

    def dense(self, gamma: Float[Tensor, "K B W"]) -> Iterator[Float[Tensor, "B N D"]]:
        """G_n = sum_h [a_hn W_v,h^T gamma_h + delta_hn W_k,h^T q_hn / sqrt(d_h)]: of rank 2H, unless queries turn."""
        key_weight = self.projections.key[0]
        one_query = self.query.shape[1] == 1
        key_pull = torch.einsum("bhd,hdc->bhc", self.query[:, 0], key_weight.unflatten(0, self.query.shape[2:]))
        for one in gamma.split(1):
            value_pull, delta = self._value_pull(one)[0], self._delta(one)[0]
            if one_query:
                yield torch.cat([self.attention, delta], 2) @ torch.cat([value_pull, key_pull], 1)
            else:
                yield self.attention @ value_pull + (delta[..., None] * self.query).flatten(-2) @ key_weight

    @property
    def value_shift(self) -> Float[Tensor, "B N H d"]:
        """a_hn (v_hn - o_h): the derivative of the output with respect to a logit."""
        return self._value_and_shift()[1]

    def _value_and_shift(self) -> tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]]:
        """W_v,h A_n and a_hn (v_hn - o_h)."""
        value = entered = self.values(self.tokens)
        if self.entered is not self.tokens:
            entered = self.values(self.entered)
        # The value's bias is in the output too.
        centred_output = self._by_head(self.pooled - self.projections.value[1])
        return value, self.attention[..., None] * (entered - centred_output[:, None])

    def _many(self, gamma: Tensor) -> bool:
        """Whether values for all tokens cost less than one vector per head for each direction."""
        return len(gamma) * self.projections.heads > self.pooled.shape[-1]

    def _value_pull(self, gamma: Float[Tensor, "K B W"]) -> Float[Tensor, "K B H D"]:
        """W_v,h^T gamma_h."""
        by_head = self._by_head(gamma)
        return torch.einsum("kbhd,hdc->kbhc", by_head, self.projections.value[0].unflatten(0, by_head.shape[-2:]))

    def _value_score(self, gamma: Float[Tensor, "K B W"], tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "K B N H"]:
        """gamma_h W_v,h of tokens."""
        return torch.einsum("kbhc,bnc->kbnh", self._value_pull(gamma), tokens)

    def _delta(self, gamma: Float[Tensor, "K B W"], value_score: Tensor | None = None) -> Float[Tensor, "K B N H"]:
        """a_hn gamma_h (v_hn - o_h)."""
        if value_score is None or self.entered is not self.tokens:
            value_score = self._value_score(gamma, self.entered)
        of_output = (self._by_head(gamma) * self._by_head(self.pooled - self.projections.value[1])).sum(-1)
        return self.attention * (value_score - of_output[:, :, None])

    def values(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H d"]:
        """W_v of tokens."""
        return self._by_head(F.linear(tokens, self.projections.value[0]))

    def biased_values(self) -> Float[Tensor, "B N H d"]:
        """v_hn, with the bias."""
        values: Tensor = self.values(self.entered)
        return values + self.projections.value[1].view(values.shape[-2:])

    def _by_head(self, vectors: Tensor) -> Tensor:
        heads = self.projections.heads
        return vectors.reshape(*vectors.shape[:-1], heads, vectors.shape[-1] // heads)

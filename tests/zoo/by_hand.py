"""open_clip's ViT once more, one image and one head at a time, from its parameters: what oracles look into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Step:
    """One block: its input, the projections and attention of each head, the attention's output, its own output."""

    block: Any
    entered: Tensor
    normed: Tensor
    query: list[Tensor] = field(default_factory=list)
    key: list[Tensor] = field(default_factory=list)
    value: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    output: Tensor | None = None
    left: Tensor | None = None

    def look(self) -> None:
        """Fill in the projections and the attention of each head, and the attention's output."""
        width, heads = self.normed.shape[1], self.block.attn.num_heads
        size = width // heads
        for head in range(heads):
            for part, kept in enumerate((self.query, self.key, self.value)):
                rows = slice(part * width + head * size, part * width + (head + 1) * size)
                kept.append(self.normed @ self.block.attn.in_proj_weight[rows].T + self.block.attn.in_proj_bias[rows])
            logits = self.query[-1] @ self.key[-1].T / size**0.5
            self.attention.append(logits.softmax(1))
        self.output = torch.cat([a @ v for a, v in zip(self.attention, self.value, strict=True)], 1)

    def taken(self) -> Tensor:
        """What each token gives the class token: its value times its attention, of all heads, (M, D)."""
        return torch.cat([a[0][:, None] * v for a, v in zip(self.attention, self.value, strict=True)], 1)

    def project(self, tokens: Tensor) -> Tensor:
        """The output projection of the attention."""
        return tokens @ self.block.attn.out_proj.weight.T + self.block.attn.out_proj.bias

    def attend(self, weights: list[Tensor]) -> Tensor:
        """The output projection of other weights on the same values."""
        return self.project(torch.cat([w @ v for w, v in zip(weights, self.value, strict=True)], 1))

    def mlp(self, x: Tensor) -> Tensor:
        """The second half of the block."""
        return x + self.block.mlp(self.block.ln_2(x))


def embed(model: Any, x: Tensor) -> Tensor:
    """The last norm, the projection, unit length."""
    return F.normalize(model.visual.ln_post(x) @ model.visual.proj, dim=-1)


def run(model: Any, pixels: Tensor) -> tuple[list[Step], Tensor]:
    """All blocks of one image (3, height, width), with a graph through them, and the embedding."""
    visual = model.visual
    patches = visual.conv1(pixels[None])[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    x = visual.ln_pre(x).detach().requires_grad_()
    steps = []
    for block in visual.transformer.resblocks:
        step = Step(block, x, block.ln_1(x))
        step.look()
        x = step.left = step.mlp(x + step.project(step.output))
        steps.append(step)
    return steps, embed(model, x[0])


def slopes(model: Any, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """dS/dx at the last class state x (D,), and the same with mean and variance of the last norm, and the length, held fixed.

    Args:
        model: the model.
        x: the last class state.
        direction: of the score, (E,).
    """
    leaf, visual = x.detach().requires_grad_(), model.visual
    (moving,) = torch.autograd.grad(embed(model, leaf) @ direction, leaf)
    with torch.no_grad():
        scale = visual.ln_post.weight / (x.var(correction=0) + visual.ln_post.eps).sqrt()
        still = scale * (visual.proj @ direction) / (visual.ln_post(x) @ visual.proj).norm()
        return moving, still - still.mean()

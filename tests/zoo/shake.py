"""Random weights that leave nothing at zero or one: a formula that forgets a bias, a norm or a key must not pass."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

_TOKENS = ("cls_token", "reg_token", "class_token", "latent", "probe", "pos_embed", "pos_embedding")


_ADDS = (
    r"(blocks|layers|stages|layer\d|body|final_conv)\..*"
    r"((?<![qkv]_)(?<!downsample\.)proj|fc2|bn2|bn3|linear_2|mlp\.3|expand)\."
)
"""Last layers of what blocks add."""


def shaken(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a model under its own random state, move every parameter from where it starts, and make it exact and quiet."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
        for name, parameter in model.named_parameters():
            leaf = name.rpartition(".")[2]
            if "logit" in name or "temperature" in name:
                continue
            if parameter.ndim < 2 or leaf in _TOKENS or "position" in name or parameter[0].numel() == 1:
                parameter.data += 0.3 * torch.randn_like(parameter)
            else:
                # Libraries start near zero, where attention is uniform and a wrong key would not be seen.
                parameter.data = torch.randn_like(parameter) * (1.5 / parameter[0].numel()) ** 0.5
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.data += 0.2 * torch.randn_like(buffer)
            elif name.endswith("running_var"):
                buffer.data *= 0.5 + torch.rand_like(buffer)
    return model.double().eval()


def quiet(model: nn.Module) -> nn.Module:
    """Blocks that add next to nothing, kernels that see their own cell: what a patch ends with is what it began with."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != module.stride:
            # ALIGN pads beforehand, more on the right: its kernels lie one further on.
            before = 1 if module.padding == "valid" and module.stride[0] > 1 else 0
            rows, cols = (max(0, (side - 1) // 2 - before) for side in module.kernel_size)
            centre = module.weight.data[:, :, rows, cols] * max(module.kernel_size)
            if hasattr(module, "gain") and centre.shape[1] > 1:
                # A kernel that is standardised has its mean taken off everywhere.
                centre = centre - centre.mean(1, keepdim=True)
            module.weight.data.zero_()[:, :, rows, cols] = centre
    # What a block without a skip adds is all there is.
    alone = tuple(f"{name}." for name, module in model.named_modules() if getattr(module, "has_skip", True) is False)
    for name, parameter in model.named_parameters():
        if name.startswith(alone):
            continue
        if re.search(_ADDS, name):
            parameter.data *= 0.01
        elif re.search(r"(in_proj_weight|qkv\.weight)$", name):
            # Attention that looks everywhere alike.
            parameter.data[: 2 * len(parameter) // 3] *= 0.1
        elif re.search(r"[qk]_proj\.weight$|\.q\.weight$", name):
            parameter.data *= 0.1
    return model

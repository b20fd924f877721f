"""Layers that were put into a model afterwards and compute something else: adapters, parametrizations, quantization."""

from __future__ import annotations

from concept_cam.backbones.backbone import Backbone

_ALTERATIONS = (
    ("peft.", "adapters of peft", "merge them (model = model.merge_and_unload()) and wrap the model again"),
    ("torch.nn.utils.parametrize", "parametrizations", "remove them (torch.nn.utils.parametrize) and wrap the model again"),
    ("torch.ao.", "quantized layers", "use the model as it was before"),
    ("torchao.", "quantized layers", "use the model as it was before"),
)


def alterations(backbone: Backbone) -> str:
    """A sentence that names such layers of a model and what to do about them; empty if there are none."""
    found: dict[tuple[str, str], set[str]] = {}
    for module in backbone.module.modules():
        for start, what, cure in _ALTERATIONS:
            if type(module).__module__.startswith(start):
                found.setdefault((what, cure), set()).add(type(module).__name__)
    return "".join(f" It holds {what} ({', '.join(sorted(kinds))}): {cure}." for (what, cure), kinds in found.items())

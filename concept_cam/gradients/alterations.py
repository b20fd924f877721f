"""Layers that were put into a model afterwards and compute something else: adapters, parametrizations, quantization."""

from __future__ import annotations

from collections.abc import Iterable

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.block import Block
from concept_cam.errors import BackboneError

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


def check_projections(backbone: Backbone, blocks: Iterable[Block], otherwise: str) -> None:
    """Refuse blocks whose query, key or value is no plain layer any more.

    Args:
        backbone: the model.
        blocks: of it.
        otherwise: what to do, if the model holds no alteration that has a cure of its own.

    Raises:
        BackboneError: one is not.
    """
    try:
        for block in blocks:
            block.projections()
    except ValueError as error:
        raise BackboneError(
            f"A block of {backbone.name} cannot be read: {error}.{alterations(backbone) or otherwise}"
        ) from error

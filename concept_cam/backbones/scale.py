"""The inverse temperature that a dual encoder was trained with."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def learnt_scale(model: Any) -> float:
    """What cosines are multiplied with before the softmax; 1 if a model has no such parameter.

    Args:
        model: the dual encoder itself, not what holds it.

    Example:
        >>> from concept_cam import world
        >>> backbone = world.localizer().backbone
        >>> learnt_scale(backbone.module) == backbone.scale > 1
        True
    """
    scale, temperature = (getattr(model, name, None) for name in ("logit_scale", "temperature"))
    if isinstance(scale, Tensor) and scale.numel() == 1:
        # AIMv2 bounds it in its own forward pass.
        most = getattr(model, "max_log_logit_scale", None)
        return float((scale.detach() if most is None else scale.detach().clamp(0.0, most)).exp())
    # ALIGN divides.
    if isinstance(temperature, Tensor) and temperature.numel() == 1:
        return 1 / float(temperature.detach())
    return 1.0

"""timm's trunks."""

from __future__ import annotations

from typing import Any

from torch import nn

from concept_cam.backbones.backbone import Tower
from concept_cam.images import Size


def describe(trunk: nn.Module, prefix: str, project: Any) -> Tower | None:
    """What a trunk of timm offers."""
    return None


def resize(trunk: nn.Module, size: Size) -> None:
    """Fit a copy of a trunk to another input size."""

"""Classifiers, tiny: timm's, torchvision's, and a user's own."""

from __future__ import annotations

from typing import Any

import timm
import torchvision
from timm.models import convnext, eva, resnet, swin_transformer, vision_transformer
from torch import Tensor, nn

from zoo.shake import shaken

CLASSES = ("finch", "jay", "owl", "heron", "swift", "wren", "gull")
_VIT = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}


def timm_vit(**kwargs: Any) -> nn.Module:
    """Class token, unless told otherwise."""
    return shaken(lambda: vision_transformer.vit_base_patch16_224(**{**_VIT, **kwargs}))


def timm_dinov3(**kwargs: Any) -> nn.Module:
    """Rotary positions, four registers; averaged, unless told otherwise."""
    return shaken(lambda: eva.vit_small_patch16_dinov3(**{**_VIT, **kwargs}))


def timm_resnet() -> nn.Module:
    """Two residual units are enough."""
    return shaken(lambda: resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), num_classes=7, channels=(8, 16, 24, 32)))


def timm_convnext() -> nn.Module:
    """A norm after the mean."""
    return shaken(lambda: convnext.convnext_tiny(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=7))


def timm_swin() -> nn.Module:
    """Windows, and channels last."""
    tiny = {"img_size": (32, 48), "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    return shaken(lambda: swin_transformer.swin_base_patch4_window7_224(**tiny, num_classes=7))


def linear_probe(registers: bool = False) -> nn.Module:
    """The paper's first setting: a DINOv2 trunk without a classifier, and a linear layer."""
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    trunk = {key: value for key, value in _VIT.items() if key != "num_classes"}
    return shaken(lambda: nn.Sequential(timm.create_model(name, num_classes=0, **trunk), nn.Linear(32, 7)))


def torchvision_resnet() -> nn.Module:
    """Its widths are fixed."""
    return shaken(lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7))


def torchvision_vit() -> nn.Module:
    """Square, as it insists."""
    size = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
    return shaken(lambda: torchvision.models.VisionTransformer(**size, num_classes=7))


class Own(nn.Module):
    """A user's own network: in place where it can be, pooled by no mean, with a hidden layer before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(inplace=True))
        self.hidden = nn.Linear(16, 12)
        self.classes = nn.Linear(12, 7)

    def forward(self, pixels: Tensor) -> Tensor:
        """Sum of squares over the map: no mean."""
        cells = self.body(self.stem(pixels))
        return self.classes(self.hidden(cells.square().sum((2, 3)).add(1).log()).tanh())


def own() -> nn.Module:
    """Not to be known by any library."""
    return shaken(Own)

"""A user's own preprocessing, read without running it: a Frame has the pixels that it would have made."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision import models, transforms

from concept_cam.backbones.transforms import read_transform
from concept_cam.errors import BackboneError
from concept_cam.images import Frame, Preprocess

PICTURES = [(300, 260), (260, 301), (640, 300), (96, 97)]


def noise(shape):
    width, height = shape
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


def timms(name):
    return timm.data.create_transform(**timm.data.resolve_data_config({}, model=timm.create_model(name)))


def open_clips(mode, size=224):
    return image_transform(size, is_train=False, resize_mode=mode, fill_color=0)


TRANSFORMS = {
    "open_clip, shortest": lambda: open_clips("shortest"),
    "open_clip, longest": lambda: open_clips("longest"),
    "open_clip, squash": lambda: open_clips("squash"),
    "open_clip, not square": lambda: open_clips("shortest", (160, 224)),
    "timm, resnet18": lambda: timms("resnet18"),
    "timm, SigLIP": lambda: timms("vit_base_patch16_siglip_224"),
    "timm, efficientnet": lambda: timms("efficientnet_b0"),
    "torchvision, ResNet": models.ResNet50_Weights.IMAGENET1K_V2.transforms,
    "torchvision, ViT": models.ViT_B_16_Weights.IMAGENET1K_V1.transforms,
    "torchvision, Swin": models.Swin_T_Weights.IMAGENET1K_V1.transforms,
    "by hand": lambda: transforms.Compose(
        [
            transforms.Resize((96, 128)),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        ]
    ),
}


@pytest.mark.parametrize("shape", PICTURES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixels_are_those_of_the_transform(name, shape):
    transform = TRANSFORMS[name]()
    ours = Frame.of(noise(shape), read_transform(transform)).pixels
    torch.testing.assert_close(ours, transform(noise(shape)), rtol=0, atol=1e-5)


def test_a_preprocess_is_taken_as_it_is():
    given = Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3)
    assert read_transform(given) is given


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (transforms.Compose([transforms.Resize(96), transforms.RandomCrop(90)]), "a step RandomCrop that is not known"),
        (transforms.Compose([transforms.Resize(96), transforms.CenterCrop(90)]), "does not say its mean, std"),
        (transforms.Compose([transforms.Normalize((0.5,) * 3, (0.5,) * 3)]), "does not say its size"),
        (lambda picture: picture, "function is no preprocessing that is known"),
    ],
)
def test_what_cannot_be_read_is_refused(transform, message):
    with pytest.raises(BackboneError, match=message) as error:
        read_transform(transform)
    assert "\n" not in str(error.value)

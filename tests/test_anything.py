"""Modules of no family that is known: which of their layers are read."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from concept_cam import wrap
from concept_cam.backbones import FeatureMap, TokenLayout
from concept_cam.errors import BackboneError
from concept_cam.images import Preprocess

CLASSES = ["ant", "bee", "wasp"]
PREPROCESS = Preprocess((32, 48), (0.5,) * 3, (0.5,) * 3)


def _wrapped(model):
    return wrap(model.eval(), preprocess=PREPROCESS, classes=CLASSES)


class _Dense(nn.Module):
    """As DenseNet: what a layer norms is not all that the block hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x)
        x = self.last(torch.cat([x, self.conv(self.norm1(x))], 1))
        return self.head(x.mean((2, 3)))


def test_a_cnns_norms_are_no_blocks():
    backbone = _wrapped(_Dense())
    assert backbone.sites[0].name == "last"
    assert backbone.sites[0].head is not None


def test_a_pooling_to_a_fixed_grid_is_no_site():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 3))
    assert [site.name for site in _wrapped(model).sites] == ["0"]


class _ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.mix(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_a_map_with_its_channels_last():
    (site,) = _wrapped(_ChannelsLast()).sites
    assert (site.name, site.layout) == ("mix", FeatureMap(channels_last=True))
    assert site.head is not None


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 16)

    def forward(self, x):
        return x + self.mix(self.norm1(x)).relu()


class _Tokens(nn.Module):
    """Blocks on tokens in some order, after blocks on tokens in the order of the image."""

    def __init__(self, order: torch.Tensor) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.first, self.second = _Block(), _Block()
        self.register_buffer("order", order)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.first(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.second(x[:, self.order]).mean(1))


def _windows(rows: int, cols: int, side: int) -> torch.Tensor:
    grid = torch.arange(rows * cols).reshape(rows // side, side, cols // side, side)
    return grid.transpose(1, 2).flatten()


def test_tokens_in_the_order_of_the_image_are_read():
    sites = _wrapped(_Tokens(torch.arange(96))).sites
    assert [site.name for site in sites] == ["second.norm1", "first.norm1"]
    assert {site.layout for site in sites} == {TokenLayout(0, 8, 12)}


@pytest.mark.parametrize(
    "order",
    [_windows(8, 12, 2), _windows(8, 12, 4), torch.arange(96).flip(0), torch.arange(96).reshape(8, 12).T.flatten()],
    ids=["windows of 2", "windows of 4", "backwards", "columns first"],
)
def test_tokens_in_another_order_are_left_out(order):
    assert [site.name for site in _wrapped(_Tokens(order)).sites] == ["first.norm1"]


class _Heads(nn.Module):
    """The head is listed first and an auxiliary one last; scores come out as the caller asks."""

    def __init__(self, form) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.trunk = nn.Conv2d(3, 16, 8, stride=8)
        self.auxiliary = nn.Linear(16, 3)
        self.form = form

    def forward(self, x):
        pooled = self.trunk(x).mean((2, 3))
        return self.form(self.head(pooled), self.auxiliary(pooled))


FORMS = {
    "bare": lambda scores, _: scores,
    "tuple": lambda scores, auxiliary: (scores, auxiliary[:, :2]),
    "dict": lambda scores, auxiliary: {"auxiliary": auxiliary, "logits": scores},
    "transformers": lambda scores, _: ImageClassifierOutput(logits=scores),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_last_linear_layer_is_the_one_that_gives_the_scores(form):
    model = _Heads(FORMS[form])
    torch.testing.assert_close(_wrapped(model).embed_texts(["bee"])[0], model.head.weight[1])


@pytest.mark.parametrize("form", [lambda scores, other: scores + other, lambda scores, _: scores.softmax(-1)])
def test_scores_of_no_single_linear_layer_are_refused(form):
    with pytest.raises(BackboneError, match="the output is not that of its last linear layer"):
        _wrapped(_Heads(form))


def test_a_model_that_keeps_no_grid_is_refused():
    with pytest.raises(BackboneError, match="no layer puts out a map or patch tokens"):
        _wrapped(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 8), nn.ReLU(), nn.Linear(8, 3)))

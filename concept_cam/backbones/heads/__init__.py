"""Pooling heads in closed form: how patch tokens reach the embedding, and the gradient that follows from it.

A head reads the tokens at a site once. What it has read answers three questions for any number of directions, given
gamma = dS/do, the gradient of the score at the pooled vector o (one vector-Jacobian product through ``finish``). The formulas
are those of *Three questions to a gradient* in docs/definition.md.
"""

from __future__ import annotations

from concept_cam.backbones.heads.attention import ClassAttention, LatentAttention
from concept_cam.backbones.heads.block import Block, Projections, Rotation, is_of
from concept_cam.backbones.heads.end import End
from concept_cam.backbones.heads.head import Head, HeadState, Rest
from concept_cam.backbones.heads.mean import MeanPooling
from concept_cam.backbones.heads.mean_query import MeanQueryAttention
from concept_cam.backbones.heads.pooling import ClassToken, LatentPooling, PatchMean, Pooling

__all__ = [
    "Block",
    "ClassAttention",
    "ClassToken",
    "End",
    "Head",
    "HeadState",
    "LatentAttention",
    "LatentPooling",
    "MeanPooling",
    "MeanQueryAttention",
    "PatchMean",
    "Pooling",
    "Projections",
    "Rest",
    "Rotation",
    "is_of",
]

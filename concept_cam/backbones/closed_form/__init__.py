"""Closed forms: how patch tokens reach the embedding, and the gradient that follows from it.

A ``Head`` reads the tokens at a site once. The ``HeadState`` that it gives answers four questions for any number of
directions, given gamma = dS/do, the gradient of the score at the pooled vector o (one vector-Jacobian product through
``finish``). The formulas are those of *Four questions to a gradient* in docs/definition.md. Which head belongs to a tower
follows from its pooling and its last block: see ``Pooling.closed_form``.
"""

from __future__ import annotations

from concept_cam.backbones.closed_form.attention import AttentionState, ClassAttention, LatentAttention
from concept_cam.backbones.closed_form.end import End
from concept_cam.backbones.closed_form.head import Head
from concept_cam.backbones.closed_form.mean import Mean
from concept_cam.backbones.closed_form.mean_query import MeanQueryAttention
from concept_cam.backbones.closed_form.state import HeadState, Rest

__all__ = [
    "AttentionState",
    "ClassAttention",
    "End",
    "Head",
    "HeadState",
    "LatentAttention",
    "Mean",
    "MeanQueryAttention",
    "Rest",
]

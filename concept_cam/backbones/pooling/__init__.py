"""How tokens become an embedding: one file for each way. A tower says its pooling, and the closed form follows from that."""

from __future__ import annotations

from concept_cam.backbones.closed_form import Rest
from concept_cam.backbones.pooling.class_token import ClassToken
from concept_cam.backbones.pooling.latent import LatentPooling
from concept_cam.backbones.pooling.mean_query import MeanQuery
from concept_cam.backbones.pooling.patch_mean import PatchMean
from concept_cam.backbones.pooling.pooling import Pooling

__all__ = ["ClassToken", "LatentPooling", "MeanQuery", "PatchMean", "Pooling", "Rest"]

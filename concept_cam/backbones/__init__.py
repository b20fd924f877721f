"""The only code that knows a model library: an adapter for each, and the vision towers in which tokens can be read."""

from __future__ import annotations

from concept_cam.backbones.backbone import Backbone
from concept_cam.backbones.site import FeatureMap, Site, TokenLayout

__all__ = ["Backbone", "FeatureMap", "Site", "TokenLayout"]

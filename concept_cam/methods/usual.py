"""The method that is taken where none is named."""

from __future__ import annotations

from concept_cam.backbones.backbone import Backbone
from concept_cam.gradients import has_stream
from concept_cam.methods.every_block import class_stream
from concept_cam.methods.gradient import hires_cam
from concept_cam.methods.method import Method


def usual_method(backbone: Backbone, every_block: bool = True) -> Method:
    """The default method of a model: ``class_stream`` if ``has_stream`` is true of it, else ``hires_cam``.

    Args:
        backbone: the model.
        every_block: False if the caller set another site, or a form of the gradient; ``class_stream`` takes neither.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.methods import name_of, usual_method
        >>> backbone = world.localizer().backbone
        >>> name_of(usual_method(backbone)), name_of(usual_method(backbone, every_block=False))
        ('class_stream', 'hires_cam')
    """
    return class_stream if every_block and has_stream(backbone) else hires_cam

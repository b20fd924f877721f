"""PRESETS: a model by one string, with the templates, vocabulary, parts and backgrounds that suit it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from concept_cam.errors import OptionError

if TYPE_CHECKING:
    from concept_cam.backbones import Backbone


@final
@dataclass(frozen=True)
class Preset:
    """A model by name, and the texts that suit it. Each text is the name of a file in ``prompts/``, or None.

    Attributes:
        name: of the model, as ``load`` takes it, or one of ``PRESETS``.
        templates: sentences around a name.
        part_templates: sentences around a part with its attribute.
        scene_templates: sentences around a background.
        vocabulary: concepts to choose references from.
        parts: parts with their attributes.
        backgrounds: texts that should not change a decision.
        draws: whether images can be drawn that this model was trained for.
    """

    name: str
    templates: str | None = "photo"
    part_templates: str | None = "parts"
    scene_templates: str | None = "scenes"
    vocabulary: str | None = None
    parts: str | None = None
    backgrounds: str | None = "backgrounds"
    draws: bool = False

    def load(self, pretrained: str | None = None, device: str = "cpu", classes: str | None = None) -> Backbone:
        """Load the model.

        Args:
            pretrained: a tag or a file of weights; not of the embedded encoders.
            device: where it runs.
            classes: names for the rows of a classifier; not of the embedded encoders.

        Raises:
            OptionError: weights or classes are given for an embedded encoder.
            BackboneError: see ``load``.
        """
        from concept_cam import loading, world  # noqa: PLC0415  (torch is imported only when a model is loaded)

        if not self.draws:
            return loading.load(self.name, pretrained, device, classes=classes)
        if pretrained is not None or classes is not None:
            raise OptionError(f"{self.name} has weights and classes of its own; leave out pretrained and classes.")
        return world.localizer(device=device, checkpoint=world.MODELS[self.name]).backbone

    def suiting(self, backbone: Backbone) -> Preset:
        """This preset once the model is loaded: without texts for a classifier, which reads none."""
        if not backbone.classes:
            return self
        return replace(self, templates=None, part_templates=None, scene_templates=None, backgrounds=None)


_WORLD = Preset("world", "world", "world", "world", "world-species", "world-parts", "world-habitats", draws=True)

PRESETS = {name: replace(_WORLD, name=name) for name in ("world", "world-shortcut", "world-last-block")}
"""The embedded encoders. Any other model gets the texts for photographs."""


def preset_of(name: str | None = None) -> Preset:
    """The preset of a model; by default that of the embedded encoder.

    Example:
        >>> preset_of("world").parts, preset_of("ViT-B-16/laion400m_e32").templates
        ('world-parts', 'photo')
    """
    return PRESETS.get(name or "world") or Preset(name or "world")

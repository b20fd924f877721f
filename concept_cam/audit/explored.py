"""The explorer beside the report of an audit: the images that the report shows, to be asked further."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from PIL import Image

from concept_cam.audit.findings import Audit
from concept_cam.concepts import ConceptBank, embed
from concept_cam.datasets import Dataset, Example
from concept_cam.explorer import Beside, has_field
from concept_cam.explorer.beside import CONCEPTS
from concept_cam.field import ConceptField
from concept_cam.localizer import Localizer
from concept_cam.methods import CARDS, name_of

PAGE = "explore.html"
"""The file beside the report."""


@final
@dataclass(frozen=True, eq=False)
class Explored:
    """The explorer of an audit, and the model that its maps are made with.

    Attributes:
        beside: the page; None if the method is not linear.
        localizer: None if the page was written with the audit, and the model is not at hand.
        examples: the images of the audit.
        method: its name, if it is not linear.
    """

    beside: Beside | None
    localizer: Localizer | None = None
    examples: Sequence[Example] = ()
    method: str = ""

    @classmethod
    def of(
        cls,
        audit: Audit,
        localizer: Localizer,
        dataset: Dataset,
        scene_templates: tuple[str, ...] | None = None,
    ) -> Explored:
        """The explorer that an audit can have: of its classes, those first that the model predicts, and of its backgrounds.

        Args:
            audit: that was run.
            localizer: with which.
            dataset: of which.
            scene_templates: sentences around backgrounds; the localizer's by default.
        """
        if not has_field(localizer.method):
            return cls(None, method=name_of(localizer.method))
        predicted = Counter(name for row in audit.good for name in (row.predicted, row.runner_up))
        classes = dict.fromkeys([*(name for name, _ in predicted.most_common()), *audit.setup.competing])
        bank = localizer.bank(list(classes)[:CONCEPTS])
        if others := [text for text in audit.setup.backgrounds if text not in bank]:
            scenes = embed(localizer.backbone, others, scene_templates or localizer.templates)
            bank = ConceptBank((*bank.names, *scenes.names), torch.cat([bank.vectors, scenes.vectors]), bank.biases)
        return cls(_beside(audit, bank), localizer, dataset.examples)

    @classmethod
    def kept(cls, audit: Audit) -> Explored:
        """The explorer that was written with an audit, if there is one."""
        methods = audit.made.method if audit.made else ()
        if method := next((name for name in methods if name in CARDS and not has_field(name)), ""):
            return cls(None, method=method)
        return cls(_beside(audit, None))

    def link(
        self, number: int, name: str, image: Image.Image | None, asked: tuple[str, Sequence[str]], strength: float
    ) -> str | None:
        """The link from an image of the report.

        Args:
            number: of its row in the audit.
            name: of the image.
            image: as the model saw it; None if the report has a copy alone.
            asked: target and references.
            strength: of the references.
        """
        if self.beside is None:
            return None
        localizer, (target, references) = self.localizer, asked

        def look() -> tuple[Image.Image, ConceptField]:
            assert localizer is not None
            seen = self.examples[number].read() if image is None else image
            return seen, localizer.fields([seen])[0]

        return self.beside.link(name, None if localizer is None else look, target, references, strength, number)

    def told(self) -> str:
        """Write the page, and say in the report whether there is one."""
        if self.beside is None:
            return f"There is no explorer, because {self.method} is not linear: a page could not make its contrastive maps."
        if not self.beside.write():
            if self.localizer is None:
                return "There is no explorer: none was written with this audit, or it cannot be read."
            return "There is no explorer: no image of this page could be read again."
        return (
            f"{PAGE} holds the maps of the images of this page for the classes and the backgrounds: explore below an image "
            "opens it there, to choose another target, other references or another strength."
        )


def _beside(audit: Audit, bank: ConceptBank | None) -> Beside:
    """The page, with names of images that depend on the rows alone: not on which of them are shown, or are still there."""
    beside = Beside(audit.folder / PAGE, bank)
    for number, row in enumerate(audit.rows):
        beside.name(row.image, number)
    return beside

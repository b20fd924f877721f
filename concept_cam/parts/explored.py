"""The explorer beside a part sheet: the maps of all phrases of the vocabulary on the images that the sheet shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from PIL import Image

from concept_cam.errors import ConceptCamError, Unreachable
from concept_cam.explorer import Beside
from concept_cam.explorer.beside import CONCEPTS
from concept_cam.localizer import Localizer
from concept_cam.part_vocabulary import PartVocabulary
from concept_cam.parts.finding import look_at
from concept_cam.parts.part import PartFinding
from concept_cam.probabilities import own_scale


@final
class Explored:
    """The explorer of one sheet; each image that it holds costs one more pass.

    Args:
        localizer: model, templates, input and a linear method, as parts were found.
        vocabulary: the parts.
        page: the file, in the folder of the sheet.
    """

    def __init__(self, localizer: Localizer, vocabulary: PartVocabulary, page: Path) -> None:
        self.page, self._localizer, self._vocabulary = page, localizer, vocabulary
        self._bank = localizer.bank(vocabulary.texts())
        self._beside = Beside(page, self._bank.select(vocabulary.texts()[:CONCEPTS]))

    def links(self, name: str, image: Image.Image, finding: PartFinding) -> dict[str, str | None]:
        """The link from each visible part of an image, and from the parent, by their names: to the map of the finding.

        There is none, and no pass, if the page has no room for the image.

        Args:
            name: of the image.
            image: that was searched.
            finding: its parts.
        """
        if not self._beside.has_room():
            return {}
        try:
            (field,) = self._localizer.fields([image])
        except Unreachable:
            raise
        except ConceptCamError:
            return {}
        scores, scale = self._bank.scores(field.embedding[None])[0], own_scale(self._localizer.backbone)
        phrases = {part.name: look_at(part, self._bank, scores, scale).phrase for part in self._vocabulary.parts}
        strength = float(finding.provenance["strength"])

        def link(target: str, others: Sequence[str] = (), strength: float = 0.0) -> str | None:
            return self._beside.link(name, lambda: (image, field), target, others, strength)

        found = {finding.parent: link(finding.parent)}
        for part in finding.parts:
            if part.visible:
                siblings = (phrase for other, phrase in phrases.items() if other != part.name)
                found[part.name] = link(phrases[part.name], [finding.parent, *siblings], strength)
        return found

    def write(self) -> bool:
        """Write the page, if an image links to it; returns whether."""
        return self._beside.write()

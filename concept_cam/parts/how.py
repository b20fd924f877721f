"""How sheets and tables of parts are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from concept_cam.datasets import Dataset, Example
from concept_cam.localizer import Localizer
from concept_cam.part_vocabulary import PartVocabulary
from concept_cam.provenance import Provenance
from concept_cam.runs import identity_of
from concept_cam.runs.how import how_it_is_made

_NAMED = 3


def how_parts_are_made(
    localizer: Localizer,
    vocabulary: PartVocabulary,
    species: Mapping[Path, str],
    given: Sequence[Path],
    strength: float,
    command: str | None = None,
) -> Provenance:
    """The provenance of sheets and tables; the images are read once, for their digest.

    Args:
        localizer: model, method and templates.
        vocabulary: the parts.
        species: what each image shows.
        given: the images and folders as they were named; the data is called by their names.
        strength: of the comparison.
        command: the command line, if there is one.
    """
    name = ", ".join(path.name or str(path) for path in given[:_NAMED]) + (", ..." if len(given) > _NAMED else "")
    examples = [Example(str(path), path, shown) for path, shown in species.items()]
    identity = identity_of(localizer, Dataset(name, tuple(dict.fromkeys(species.values())), examples))
    return how_it_is_made(
        "parts",
        localizer,
        (name, len(examples)),
        identity,
        strengths=(strength,),
        more={"parts": vocabulary.title},
        command=command,
    )

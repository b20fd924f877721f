"""The vocabulary and the templates of a localizer, from names, files or defaults."""

from __future__ import annotations

from collections.abc import Sequence

from concept_cam.backbones.backbone import Backbone
from concept_cam.errors import OptionError, UnknownConcept, did_you_mean
from concept_cam.prompts import read_templates, read_vocabulary
from concept_cam.targets import Names, named


def vocabulary_of(given: Names, backbone: Backbone) -> tuple[str, ...]:
    """The names of a vocabulary, each once; by default the classes of the model.

    Args:
        given: names, numbers of classes, or the name of a vocabulary or file.
        backbone: the model.

    Raises:
        PromptError: there is no such file.
        OptionError: an entry is neither a name nor a number in range.
        UnknownConcept: the classifier has no such class.
    """
    wanted = read_vocabulary(given).names if isinstance(given, str) else given
    names = tuple(dict.fromkeys(named(one, backbone.classes, "one of the vocabulary") for one in wanted))
    known = set(backbone.classes)
    unknown = [name for name in names if known and name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        more = f", nor {len(unknown) - 1} more of the vocabulary" if len(unknown) > 1 else ""
        raise UnknownConcept(f"{backbone.name} has no class {unknown[0]!r} among its {len(known)}{more}.{hint}")
    return names or backbone.classes


def templates_of(given: str | Sequence[str] | None, backbone: Backbone) -> tuple[str, ...]:
    """The templates for names; a classifier has none.

    Args:
        given: sentences, or the name of a file of them; by default those for photographs.
        backbone: the model.

    Raises:
        OptionError: the model is a classifier, which reads no texts.
        PromptError: there is no such file.
    """
    if backbone.classes and type(backbone).embed_concepts is not Backbone.embed_concepts:
        if given is not None:
            raise OptionError(f"{backbone.name} is a classifier, which reads no texts; leave the templates out.")
        return ("{}",)
    chosen = "photo" if given is None else given
    return read_templates(chosen) if isinstance(chosen, str) else tuple(chosen)

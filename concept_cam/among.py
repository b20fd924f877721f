"""Among which classes a model is judged: all of its own, or those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from concept_cam.backbones.backbone import Backbone
from concept_cam.errors import OptionError, UnknownConcept, did_you_mean

if TYPE_CHECKING:
    Among: TypeAlias = Literal["model", "dataset"]
else:
    # Types are checked at run time in tests: there too, what is neither shall be refused here, in words.
    Among = Any


def as_among(text: Any) -> Among:
    """``model`` or ``dataset``.

    Raises:
        OptionError: it is neither.
    """
    if text not in ("model", "dataset"):
        raise OptionError(
            f"among is {text!r}; expected model (all classes of a classifier) or dataset (those of the data set)."
        )
    return "model" if text == "model" else "dataset"


def chosen_among(among: Any, backbone: Backbone, probe: bool = False) -> Among:
    """The classes that compete as the user chose them; ``model`` by default.

    Args:
        among: the user's choice; None if there is none.
        backbone: the model.
        probe: whether a linear probe takes the place of texts or of a last layer.

    Raises:
        OptionError: it is neither model nor dataset; or it is given where it has no effect, of a dual encoder or a probe.
    """
    if among is None:
        return "model"
    chosen = as_among(among)
    if probe:
        raise OptionError(f"among is {among!r}, but a probe knows the classes that it was trained on alone; leave it out.")
    if not backbone.classes:
        raise OptionError(f"among is {among!r}, but {backbone.name} has no classes but those of the data set; leave it out.")
    return chosen


def figures_among(backbone: Backbone, classes: Sequence[str]) -> dict[str, int]:
    """The figures of ``told_among``: how many classes compete, of how many."""
    return {"classes": len(classes), "of": len(backbone.classes) or len(classes)}


def classes_among(backbone: Backbone, classes: Sequence[str], among: Among = "model") -> tuple[str, ...]:
    """The classes that compete: for predictions, confidences, rivals and runners-up alike.

    A dual encoder has no classes of its own, so that those of the data set are all there are.

    Args:
        backbone: a classifier, or a dual encoder.
        classes: of the data set; a classifier may lack some, whose images are then problems.
        among: ``model``: all classes of a classifier; ``dataset``: those of them that the data set has.

    Raises:
        OptionError: it is neither.
        UnknownConcept: a classifier has none of the classes.

    Example:
        >>> from concept_cam import world
        >>> classes_among(world.localizer().backbone, ["ember finch", "royal jay"])
        ('ember finch', 'royal jay')
    """
    among = as_among(among)
    own, wanted = backbone.classes, tuple(dict.fromkeys(classes))
    if not own:
        return wanted
    known = set(own)
    shared = tuple(name for name in wanted if name in known)
    if wanted and not shared:
        hint = did_you_mean(wanted[0], own)
        raise UnknownConcept(
            f"{backbone.name} has none of the {len(wanted)} classes of the data set, such as {wanted[0]!r}.{hint} "
            "Labels must be names of its classes."
        )
    return own if among == "model" else shared


def told_among(backbone: Backbone, classes: Sequence[str]) -> str:
    """Among how many of how many classes a model is judged, for a report.

    Example:
        >>> from concept_cam import world
        >>> told_among(world.localizer().backbone, ["ember finch", "royal jay"])
        '2 of the 2 classes of the data set'
    """
    count, own = len(classes), len(backbone.classes)
    return f"{count:,} of the {own or count:,} classes of the {'model' if own else 'data set'}"

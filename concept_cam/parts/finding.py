"""Find the parts of an image: each part's phrase against its parent and its sibling parts, one forward pass for all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concept_cam.comparison import check_strength
from concept_cam.concepts import ConceptBank
from concept_cam.errors import ConceptCamError, OptionError
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Frame
from concept_cam.localizer import Localizer
from concept_cam.methods import sees_score
from concept_cam.part_vocabulary import PartConcept, PartVocabulary
from concept_cam.parts.part import AttributeReading, Part, PartFinding
from concept_cam.passes import Pass, each_frame
from concept_cam.prefetch import one_by_one, tell
from concept_cam.probabilities import own_scale
from concept_cam.regions import Box, bounding_boxes
from concept_cam.tensors import Given

S = TypeVar("S", bound=Given)

STANDS_OUT = 0.5
"""How far a part must stand out, as a share of how far those of its image do, to be visible."""

_MASK = 0.5
"""How far a pixel's evidence must rise from the median of the map, or from zero if that is less, to its peak."""


def find_parts(localizer: Localizer, image: Given, vocabulary: PartVocabulary, *, strength: float = 1.0) -> PartFinding:
    """The parts of one image: where each is, what it looks like, or that it is not to be seen.

    Of each attribute the value is read whose phrase ("red crown") scores highest. A part *stands out* as far as its best
    phrase scores above the mean of its attribute's values: a crest that is there is red rather than blue, one that is not is
    nothing in particular. It is visible if it stands out at least half as far as the parts of this image do in the median.
    The map is that of its best phrase against the parent and the siblings' best phrases, at ``strength``.

    A part without attributes has no such contrast: how far it stands out is the peak of its map, and it is compared with the
    peaks of all parts; those with attributes are compared with each other. So the rule compares the parts of one image: of a
    single part, or of an image that shows nothing of the parent, it says nothing.

    Args:
        localizer: model, templates, method and input size. In the embedded world ``class_stream`` places parts best
            (docs/parts.md).
        image: a path or a PIL image.
        vocabulary: from ``read_parts``.
        strength: of the comparison, 0 or more; 0 leaves it out.

    Raises:
        OptionError: the localizer's method does not look at the score, or the vocabulary has no parts.
        NoSpatialGradient, BackboneError: the maps of all parts are blank, or one is not finite.
        ImageError: the image cannot be read.
        UnknownConcept: the text encoder has never seen a word.
        ComparisonError: the strength is negative or not finite.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.parts import find_parts, read_parts
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> found = find_parts(world.localizer(), plate.image, read_parts("world-parts"))
        >>> crown, crest = found["crown"], found["crest"]
        >>> crown.attributes["colour"].value, crest.visible
        ('red', False)
    """
    _check(localizer, vocabulary, strength)
    (found,) = _find(localizer, [localizer.frame(image)], vocabulary, strength)
    if isinstance(found, ConceptCamError):
        raise found
    return found


def stream_parts(
    localizer: Localizer,
    images: Iterable[S],
    vocabulary: PartVocabulary,
    *,
    strength: float = 1.0,
    batch_size: int = 8,
    workers: int = 2,
    on_error: Callable[[S, ConceptCamError], None] | None = None,
) -> Generator[tuple[S, PartFinding], None, None]:
    """The parts of many images, each with its finding, in the order given; as ``Localizer.stream`` reads them.

    Args:
        localizer: as in ``find_parts``, and so are vocabulary and strength.
        images: paths or PIL images; a generator will do.
        vocabulary: from ``read_parts``.
        strength: of the comparison, 0 or more.
        batch_size: how many go through the model at once; a finding holds a mask for each part at the size of its image.
        workers: threads that read and prepare images.
        on_error: called with an image that cannot be read or all of whose maps are blank, and why; it is skipped. Without it
            the error is raised.

    Raises:
        OptionError: the batch size or the number of workers is below one, or see ``find_parts``.
        ImageError, NoSpatialGradient, BackboneError: an image fails, and nobody listens; see ``find_parts``.
        UnknownConcept, ComparisonError: see ``find_parts``.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.parts import read_parts, stream_parts
        >>> plates = (world.draw_species("royal jay", seed).image for seed in range(3))
        >>> found = stream_parts(world.localizer(), plates, read_parts("world-parts"))
        >>> [parts["crest"].attributes["colour"].value for _, parts in found]
        ['blue', 'blue', 'blue']
    """
    _check(localizer, vocabulary, strength)

    def look(batch: Sequence[tuple[S, Frame]]) -> list[PartFinding | ConceptCamError]:
        return _find(localizer, [frame for _, frame in batch], vocabulary, strength)

    fail = lambda image, error: tell(image, error, on_error)  # noqa: E731
    with closing(one_by_one(images, localizer.frame, look, batch_size, workers, fail)) as found:
        yield from found


class _Look(NamedTuple):
    """What one part looks like on one image."""

    phrase: str
    stands_out: float | None
    attributes: Mapping[str, AttributeReading]


def _check(localizer: Localizer, vocabulary: PartVocabulary, strength: float) -> None:
    """Raise what is wrong whatever the image."""
    if not sees_score(localizer.method):
        raise OptionError("The localizer's method does not look at the score, so all parts would have one map; take another.")
    if not vocabulary.parts:
        raise OptionError(f"The vocabulary {vocabulary.title!r} has no parts; expected one or more.")
    check_strength(strength)
    localizer.bank(vocabulary.texts())


def _find(
    localizer: Localizer, frames: Sequence[Frame], vocabulary: PartVocabulary, strength: float
) -> list[PartFinding | ConceptCamError]:
    """What is found on each image, or what is wrong with its maps."""
    bank, scale = localizer.bank(vocabulary.texts()), own_scale(localizer.backbone)

    def of_pass(seen: Pass) -> list[PartFinding | ConceptCamError]:
        looks = [[look_at(part, bank, row, scale) for part in vocabulary.parts] for row in seen.scores(bank)]
        directions = [_directions(bank, vocabulary.parent, of_one, strength) for of_one in looks]
        maps = seen.maps(localizer.method, torch.stack(directions, 1)).single()
        about = localizer.provenance(seen) | {"vocabulary": vocabulary.title, "strength": strength}
        found: list[PartFinding | ConceptCamError] = []
        for image, of_one in enumerate(looks):
            # A part may have no evidence at all, and is not visible then; an image has evidence of one at least.
            if error := maps.error(image, some=True):
                found.append(error)
                continue
            parts = _parts(vocabulary, of_one, [maps.of(number, image) for number in range(len(of_one))])
            found.append(PartFinding(vocabulary.parent, parts, seen.placements[image], about))
        return found

    return each_frame(localizer.passes(frames), of_pass)


def look_at(part: PartConcept, bank: ConceptBank, scores: Float[Tensor, " K"], scale: float) -> _Look:
    """Read each attribute; the phrase that stands out most stands for the part.

    Args:
        part: that is looked at.
        bank: holds its phrases.
        scores: of the bank on the image.
        scale: the inverse temperature of confidences.
    """
    best, phrase = None, part.name
    readings = {}
    for attribute, values in part.attributes.items():
        of_values = scores[[bank.index(part.phrase(value)) for value in values]].float()
        chosen = int(of_values.argmax())
        readings[attribute] = AttributeReading(values[chosen], float((scale * of_values).softmax(0)[chosen]))
        stands_out = float(of_values[chosen] - of_values.mean())
        if best is None or stands_out > best:
            best, phrase = stands_out, part.phrase(values[chosen])
    return _Look(phrase, best, readings)


def _directions(bank: ConceptBank, parent: str, looks: Sequence[_Look], strength: float) -> Float[Tensor, "P E"]:
    """Each part's phrase against the parent and the phrases of its siblings, all alike in weight."""
    vectors, above = bank.vectors_of([look.phrase for look in looks]), bank.vectors_of([parent])
    others = (vectors.sum(0) - vectors + above) / len(looks)
    return vectors - strength * others


def _parts(vocabulary: PartVocabulary, looks: Sequence[_Look], maps: Sequence[EvidenceMap]) -> tuple[Part, ...]:
    peaks = [evidence.strongest for evidence in maps]
    by_words = [look.stands_out for look in looks if look.stands_out is not None]
    usual = {True: statistics.median(by_words) if by_words else 0.0, False: statistics.median(peaks)}
    parts = []
    for part, look, evidence, peak in zip(vocabulary.parts, looks, maps, peaks, strict=True):
        ours = peak if look.stands_out is None else look.stands_out
        typical = usual[look.stands_out is not None]
        share = max(ours, 0.0) / typical if typical > 0 else 0.0
        confidence = share / (share + STANDS_OUT)
        if share >= STANDS_OUT and peak > 0:
            parts.append(Part(part.name, True, confidence, *_where(evidence), look.attributes, evidence.grid))
        else:
            parts.append(Part(part.name, False, min(confidence, 0.5), None, None, None, {}, evidence.grid))
    return tuple(parts)


def _where(evidence: EvidenceMap) -> tuple[tuple[float, float], Box, Bool[Tensor, "height width"]]:
    """Keypoint, box and mask: the peak, and the region that it lies in."""
    grid, shown = evidence.grid, evidence.shown
    # Some methods are never negative: what they say of half of the patches says nothing of the part.
    middle = float(grid[shown].median())
    floor = middle if 0 < middle < evidence.strongest else 0.0
    heatmap, mask = evidence.heatmap().nan_to_num_(nan=-torch.inf), evidence.mask(_MASK, floor)
    if not mask.any():
        # An image with fewer pixels than patches may show no positive evidence: the strongest pixel has to do.
        mask = heatmap >= heatmap.max()
    box = bounding_boxes(mask, heatmap)[0]
    inside = torch.zeros_like(mask)
    inside[box[1] : box[3], box[0] : box[2]] = True
    return evidence.peak(floor), box, mask & inside

"""Parts are found where they are, read as they look, and missed where they are not; held against masks of the world."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from slow import cases

from concept_cam import grad_cam, world
from concept_cam.errors import (
    ComparisonError,
    ImageError,
    NoSpatialGradient,
    OptionError,
    PromptError,
    UnknownConcept,
    UnknownWord,
)
from concept_cam.evidence import EvidenceMap
from concept_cam.images import Placement
from concept_cam.localizer import Localizer
from concept_cam.methods import TraceMethod, rollout
from concept_cam.metrics import pointing_hit
from concept_cam.parts import PartConcept, PartVocabulary, find_parts, read_parts, stream_parts
from concept_cam.parts.finding import _where
from concept_cam.world.heldout import nameless_plates, twin_plates

LOW = (0, 30, 192, 160)
"""A plate without much of its sky and ground: wider than it is high."""

_CARDS = {"colour": "{}", "shape": "{} shape", "pattern": "{} pattern"}


@pytest.fixture(scope="module")
def backbone():
    return world.localizer().backbone


@pytest.fixture(scope="module")
def localizer(backbone):
    return Localizer(backbone, templates="world")


@pytest.fixture(scope="module")
def birds():
    return read_parts("world-parts")


@pytest.fixture(scope="module")
def plates():
    """Half of them of species, half of birds of none."""
    return [item.plate for item in twin_plates(20, seed=7)] + list(nameless_plates(20, seed=7))


@pytest.fixture(scope="module")
def finch():
    return world.draw_species("ember finch", seed=3, size=192)


def bare(*names):
    return PartVocabulary("bare", "bird", tuple(PartConcept(name, {}) for name in names))


# ---- what is there ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit", "size", "crop", "near"),
    [
        (None, None, None, 0.98),
        ("pad", None, LOW, 0.98),
        ("crop", None, LOW, 0.95),
        ("native", None, LOW, 0.95),
        ("pad", (96, 128), LOW, 0.95),
        (None, 192, None, 0.95),
    ],
    ids=str,
)
def test_parts_are_found_where_they_are(backbone, birds, plates, fit, size, crop, near):
    """A keypoint is near if a pixel of the part is within one patch of it."""
    localizer = Localizer(backbone, templates="world", fit=fit, size=size)
    images = [plate.image.crop(crop) if crop else plate.image for plate in plates]
    hits, swapped, colours, crests, on_mask, in_box = [], [], [], [], [], []
    for plate, (image, found) in zip(plates, stream_parts(localizer, images, birds), strict=True):
        left, top, right, bottom = found.placement.window
        for part in found.parts:
            whole = torch.from_numpy(plate.mask(part.name))
            truth = whole[LOW[1] : LOW[3], LOW[0] : LOW[2]] if crop else whole
            if part.name == "crest" and not whole.any():
                crests.append(part.visible)
            if truth.sum() < 20 or not part.visible:
                continue
            rows, columns = part.map.shape
            patch = max((right - left) / columns, (bottom - top) / rows)
            point = torch.tensor(part.keypoint)
            hits.append(pointing_hit(point, truth, patch))
            swapped.append(pointing_hit(point.flip(0), truth, patch))
            colours.append(part.attributes["colour"].value == plate.bird.card[part.name])
            on_mask.append(bool((part.mask & truth).any()))
            x0, y0, x1, y1 = part.box
            assert part.mask.shape == (image.height, image.width)
            assert part.mask[y0:y1, x0:x1].sum() == part.mask.sum()
            assert part.mask[y0:y1, x0:x1].any(0).all(), "columns of the box without a pixel"
            assert part.mask[y0:y1, x0:x1].any(1).all(), "rows of the box without a pixel"
            in_box.append(x0 <= part.keypoint[0] <= x1 and y0 <= part.keypoint[1] <= y1)
    assert len(hits) > 430
    assert np.mean(hits) > near > np.mean(swapped) + 0.35
    assert np.mean(on_mask) > 0.65
    assert np.mean(in_box) > 0.97
    whole_bird = fit in (None, "pad") and size is None
    assert np.mean(colours) > (0.99 if whole_bird else 0.95)
    assert len(crests) == 23
    assert np.mean(crests) <= (0.05 if whole_bird else 0.3)


@pytest.mark.slow
def test_every_attribute_is_read(localizer, birds, plates):
    right = {attribute: [] for attribute in _CARDS}
    for plate, (_, found) in zip(plates, stream_parts(localizer, [p.image for p in plates], birds), strict=True):
        for part in found.parts:
            for attribute, reading in part.attributes.items():
                assert 0 < reading.confidence <= 1
                if plate.mask(part.name).sum() >= 20:
                    right[attribute].append(reading.value == plate.bird.card[_CARDS[attribute].format(part.name)])
    assert {attribute: len(of) > 30 for attribute, of in right.items()} == dict.fromkeys(_CARDS, True)
    assert np.mean(right["colour"]) > 0.99
    assert np.mean(right["pattern"]) > 0.9
    assert np.mean(right["shape"]) > 0.9


def test_what_is_not_there_says_so_and_nothing_else(localizer, birds, finch):
    found = find_parts(localizer, finch.image, birds)
    assert [part.name for part in found.parts] == [part.name for part in birds.parts]
    assert (found.parent, found.placement.image_size) == ("bird", (192, 192))
    crest = found["crest"]
    assert (crest.visible, crest.keypoint, crest.box, crest.mask, crest.attributes) == (False, None, None, None, {})
    assert 0 <= crest.confidence <= 0.5
    assert crest.map.shape == (12, 12)
    for part in found.parts[1:]:
        assert part.visible
        assert 0.5 <= part.confidence <= 1
    assert set(found["beak"].attributes) == {"colour", "shape"}
    assert (found["beak"].attributes["shape"].value, found["breast"].attributes["pattern"].value) == ("short", "plain")
    about = found.provenance
    assert (about["model"], about["method"], about["vocabulary"], about["strength"]) == (
        "world",
        "class_stream",
        birds.title,
        1.0,
    )
    with pytest.raises(UnknownConcept, match=r"No part 'crwn'\. Did you mean 'crown'"):
        found["crwn"]


def test_a_crest_that_is_there_is_found(localizer, birds):
    for name, colour in (("royal jay", "blue"), ("sunset jay", "orange"), ("misty heron", "black")):
        crest = find_parts(localizer, world.draw_species(name, seed=1).image, birds)["crest"]
        assert crest.visible, name
        assert crest.attributes["colour"].value == colour


# ---- what the map is of -----------------------------------------------------------------------------------------------


def same_map(part, expected):
    assert torch.allclose(part.map, expected.map, rtol=1e-4, atol=1e-5 * float(expected.map.abs().max()))


@pytest.mark.parametrize("strength", [0.4, 1.0, 2.0])
def test_a_part_is_compared_with_its_parent_and_its_siblings(localizer, birds, finch, strength):
    """Each with the phrase that was read of it, all alike in weight: a Localizer told the same gives the same map."""
    colours = birds.parts[1].attributes["colour"]
    attributes = {"crown": {}, "beak": {"shape": ("short", "long", "hooked")}, "breast": {"pattern": ("plain", "streaked")}}
    attributes["crown"]["colour"] = attributes["beak"]["colour"] = colours
    attributes["breast"] = {"colour": colours, **attributes["breast"]}
    chosen = PartVocabulary("three", "bird", tuple(PartConcept(name, of) for name, of in attributes.items()))
    found = find_parts(localizer, finch.image, chosen, strength=strength)
    scores = localizer(finch.image, "bird", chosen.texts()[1:], strength=0.5).scores
    phrases = {}
    for part in chosen.parts:
        # Of several attributes, the one whose best value is further above the mean of all its values.
        of = {a: [scores[part.phrase(value)] for value in values] for a, values in part.attributes.items()}
        furthest = max(of, key=lambda a: max(of[a]) - np.mean(of[a]))
        phrases[part.name] = part.phrase(part.attributes[furthest][int(np.argmax(of[furthest]))])
    assert phrases == {"crown": "red crown", "beak": "yellow beak", "breast": "orange breast"}
    for part in found.parts:
        others = ["bird", *(phrase for name, phrase in phrases.items() if name != part.name)]
        same_map(part, localizer(finch.image, phrases[part.name], others, strength=strength))


def test_strength_zero_is_the_map_of_the_phrase_alone(localizer, birds, finch):
    found = find_parts(localizer, finch.image, birds, strength=0.0)
    assert found.provenance["strength"] == 0
    for name, phrase in (("crown", "red crown"), ("throat", "white throat"), ("tail", "black tail")):
        alone = localizer(finch.image, phrase, strength=0.0)
        assert not alone.comparison.references
        same_map(found[name], alone)


@pytest.mark.parametrize("part", [PartConcept("crown", {}), PartConcept("crown", {"colour": ("red", "blue")})])
def test_a_part_without_siblings_is_compared_with_its_parent(localizer, finch, part):
    found = find_parts(localizer, finch.image, PartVocabulary("one", "bird", (part,)))
    (crown,) = found.parts
    same_map(crown, localizer(finch.image, "red crown" if part.attributes else "crown", "bird", strength=1.0))
    assert crown.visible
    assert crown.confidence == pytest.approx(2 / 3)  # it stands out as far as the median of itself


def test_parts_without_attributes(localizer, finch):
    found = find_parts(localizer, finch.image, bare("crown", "tail", "legs"))
    same_map(found["tail"], localizer(finch.image, "tail", ["bird", "crown", "legs"], strength=1.0))
    assert all(part.attributes == {} for part in found.parts)


def test_parts_without_attributes_stand_out_as_their_peaks_do(backbone, finch):
    """Peaks of 0.5, 2, 4, 8 and -1: the median is 2, half of which has to be reached; a share s is s / (s + 1/2) confident."""
    peaks = torch.tensor([0.5, 2.0, 4.0, 8.0, -1.0])
    ramp = torch.arange(144.0) / 143

    def maps(seen, directions):
        return torch.stack([peak * (ramp if peak > 0 else 2 - ramp) for peak in peaks])[:, None]

    peaked = Localizer(backbone, templates="world", method=TraceMethod(maps))
    found = find_parts(peaked, finch.image, bare("crown", "tail", "legs", "wing", "beak"))
    assert [part.visible for part in found.parts] == [False, True, True, True, False]
    assert [part.confidence for part in found.parts] == pytest.approx([1 / 3, 2 / 3, 4 / 5, 8 / 9, 0])


@pytest.mark.slow
def test_the_method_is_the_localizers(backbone, birds, finch):
    found = find_parts(Localizer(backbone, templates="world", method=grad_cam), finch.image, birds)
    assert found.provenance["method"] == "grad_cam"
    same_map(
        find_parts(Localizer(backbone, templates="world", method=grad_cam), finch.image, bare("tail"))["tail"],
        Localizer(backbone, templates="world", method=grad_cam)(finch.image, "tail", "bird", strength=1.0),
    )


# ---- many images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def passes(backbone, monkeypatch):
    """How many images went through the model, pass by pass."""
    seen, kind = [], type(backbone)
    embed = kind.embed_pixels
    monkeypatch.setattr(kind, "embed_pixels", lambda self, pixels: (seen.append(len(pixels)), embed(self, pixels))[1])
    return seen


def test_one_pass_a_batch_whatever_the_number_of_parts(localizer, birds, finch, passes):
    images = [finch.image] * 5
    find_parts(localizer, finch.image, birds)  # texts and the way to the embedding are looked at once
    passes.clear()
    for vocabulary in (birds, bare("crown")):
        assert len(list(stream_parts(localizer, images, vocabulary, batch_size=2))) == 5
        assert passes == [2, 2, 1]
        passes.clear()


@pytest.mark.slow
def test_a_batch_is_its_images_one_by_one_in_order(backbone, birds, plates):
    """At native aspect a batch goes through the model in groups of one size; the order is that of the images."""
    localizer = Localizer(backbone, templates="world", fit="native")
    crops = (None, LOW, (40, 0, 150, 192), LOW, None)
    images = [plates[k].image.crop(crops[k % 5]) if crops[k % 5] else plates[k].image for k in range(9)]
    stream = list(stream_parts(localizer, images, birds, batch_size=7, workers=3))
    assert [image for image, _ in stream] == images
    for image, found in stream:
        alone = find_parts(localizer, image, birds)
        assert found.placement == alone.placement
        assert found.provenance == alone.provenance
        for one, other in zip(found.parts, alone.parts, strict=True):
            assert (one.name, one.visible) == (other.name, other.visible)
            assert torch.allclose(one.map, other.map, rtol=1e-5, atol=1e-5 * float(other.map.abs().max()))
            assert one.confidence == pytest.approx(other.confidence, rel=1e-4)
            if one.visible:
                assert one.keypoint == pytest.approx(other.keypoint, abs=1e-2)
                assert {a: r.value for a, r in one.attributes.items()} == {a: r.value for a, r in other.attributes.items()}


@pytest.mark.slow
def test_a_broken_image_is_told_of_and_left_out(localizer, birds, plates, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for path, plate in zip(paths, plates, strict=False):
        plate.image.save(path)
    paths[1].write_bytes(b"no image")
    paths[5].unlink()
    told = []
    stream = stream_parts(localizer, paths, birds, batch_size=2, on_error=lambda path, error: told.append((path, type(error))))
    found = list(stream)
    assert [path for path, _ in found] == [paths[0], paths[2], paths[3], paths[4]]
    assert told == [(paths[1], ImageError), (paths[5], ImageError)]
    for path, finding in found:
        expected = find_parts(localizer, path, birds)
        assert torch.allclose(finding["tail"].map, expected["tail"].map, atol=1e-4 * float(expected["tail"].map.abs().max()))
    stream = stream_parts(localizer, paths, birds, batch_size=1)
    next(stream)
    with pytest.raises(ImageError, match=r"1\.png"):
        next(stream)


def test_a_generator_is_read_no_further_than_two_batches_ahead(localizer, finch):
    asked = []
    images = (asked.append(k) or finch.image for k in range(100))
    stream = stream_parts(localizer, images, bare("crown", "tail"), batch_size=2)
    assert len(list(islice(stream, 3))) == 3
    stream.close()
    assert len(asked) <= 3 + 2 + 2 * 2


@pytest.mark.parametrize(
    ("size", "fit"),
    cases(
        [
            (size, fit)
            for size in ((1, 1), (1, 5), (2, 300), (300, 2), (4, 3), (60, 40))
            for fit in ("crop", "pad", "squash", "native")
        ],
        ((1, 1), "crop"),
        ((2, 300), "pad"),
        ((4, 3), "native"),
    ),
    ids=str,
)
def test_images_smaller_than_a_patch(backbone, birds, finch, size, fit):
    localizer = Localizer(backbone, templates="world", fit=fit)
    width, height = size
    for resample in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC):
        found = find_parts(localizer, finch.image.resize(size, resample), birds)
        assert any(part.visible for part in found.parts)
        for part in found.parts:
            if part.visible:
                x, y = part.keypoint
                left, top, right, bottom = part.box
                assert 0 <= x <= width
                assert 0 <= y <= height
                assert 0 <= left < right <= width
                assert 0 <= top < bottom <= height
                assert part.mask.any()


# ---- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_method_that_does_not_look_at_the_score_is_refused(backbone, birds, finch):
    with pytest.raises(OptionError, match="does not look at the score"):
        find_parts(Localizer(backbone, templates="world", method=rollout), finch.image, birds)


@pytest.mark.parametrize(
    "vocabulary",
    [bare("crown", "carburettor"), PartVocabulary("x", "bird", (PartConcept("crown", {"colour": ("red", "mauve")}),))],
)
def test_words_that_the_encoder_has_never_seen(localizer, finch, vocabulary):
    with pytest.raises(UnknownWord, match=r"carburettor|mauve"):
        find_parts(localizer, finch.image, vocabulary)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strengths_that_mean_nothing(localizer, birds, finch, strength):
    with pytest.raises(ComparisonError, match="strength is"):
        find_parts(localizer, finch.image, birds, strength=strength)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}], ids=str)
def test_no_batch_and_no_worker(localizer, birds, finch, options):
    with pytest.raises(OptionError, match="expected at least 1 of each"):
        next(stream_parts(localizer, [finch.image], birds, **options))


# ---- vocabularies -----------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_read(tmp_path, localizer, finch):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: Mine\nparent: bird\nconcepts:\n  - tail\n  - name: crown\n    attributes:\n      colour: [red, blue]\n"
        "      length: [long, short]\n"
    )
    mine = read_parts(file)
    assert (mine.title, mine.parent, [part.name for part in mine.parts]) == ("Mine", "bird", ["tail", "crown"])
    assert (mine.parts[0].attributes, mine.parts[1].attributes) == (
        {},
        {"colour": ("red", "blue"), "length": ("long", "short")},
    )
    assert mine.texts() == ("bird", "tail", "crown", "red crown", "blue crown", "long crown", "short crown")
    found = find_parts(localizer, finch.image, mine)
    assert found["crown"].attributes["colour"].value == "red"
    assert set(found["crown"].attributes) == {"colour", "length"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concepts: [crown]", "expected a line such as `parent: bird`"),
        (
            "parent: bird\nconcepts:\n  - name: crown\n    attributes: [red, blue]",
            r"attributes of 'crown' are \['red', 'blue'\]",
        ),
        ("parent: bird\nconcepts:\n  - name: crown\n    attributes: red", "attributes of 'crown' are 'red'"),
        ("parent: bird\nconcepts:\n  - name: crown\n    attributes: {colour: red}", "colour of crown is 'red'"),
        ("parent: bird\nconcepts:\n  - name: crown\n    attributes: {colour: [red]}", r"colour of 'crown' is \['red'\]"),
        ("parent: bird\nconcepts:\n  - name: crown\n    attributes: {barred: [yes, no]}", "quote those that YAML reads as"),
        ("parent: bird\nconcepts:\n  - name: crown\n    attributes: {colour: [red, ' ']}", "a list of two words or more"),
    ],
)
def test_what_is_no_vocabulary_of_parts_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(PromptError, match=message) as caught:
        read_parts(file)
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_species_are_no_parts():
    with pytest.raises(PromptError, match=r"world-species: .*`parent: bird`"):
        read_parts("world-species")


def test_a_floor_under_a_map_changes_nothing():
    """A method that is never negative says something everywhere; a part is what rises from that."""
    placement = Placement((0.0, 0.0, 90.0, 60.0), (60, 90))
    bump = torch.zeros(4, 6)
    bump[1, 3], bump[1, 4], bump[2, 3] = 1.0, 0.7, 0.3
    keypoint, box, mask = _where(EvidenceMap(bump, placement))
    again, box_again, mask_again = _where(EvidenceMap(bump + 5, placement))
    assert again == pytest.approx(keypoint, abs=1e-4)
    assert (box, mask.tolist()) == (box_again, mask_again.tolist())
    assert box[2] - box[0] < 45


@pytest.mark.slow
def test_a_part_with_a_blank_map_is_not_visible_and_a_blind_site_is_refused(backbone, birds, finch):
    def only(parts):
        def maps(seen, directions):
            found = torch.rand(len(directions), len(seen.embedding), 144, generator=torch.Generator().manual_seed(0))
            found[parts:] = 0
            return found

        return find_parts(Localizer(backbone, templates="world", method=TraceMethod(maps)), finch.image, birds)

    found = only(3).parts
    assert not any(part.visible for part in found[3:])
    assert any(part.visible for part in found[:3])
    with pytest.raises(NoSpatialGradient, match="the map is blank"):
        only(0)

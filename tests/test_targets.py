"""What may be asked for: a name, a number, nothing; once for all images or once for each. What is none of these is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from zoo import classifiers

from concept_cam import Localizer, nearest, rivals, wrap
from concept_cam.errors import ImageError, OptionError, UnknownConcept
from concept_cam.methods import grad_cam, rollout

CLASSES = classifiers.CLASSES

# The embeddings of models that have learnt nothing are not alike.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no more like:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not say how its images are prepared:UserWarning"),
]


def noise(seed: int, height: int = 24, width: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


IMAGES = [noise(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def encoder():
    return Localizer(zoo.backbone("class token"), vocabulary=zoo.WORDS, templates=["a {}"])


@pytest.fixture(scope="module")
def classifier():
    model = classifiers.timm_vit().double()
    return Localizer(wrap(model, classes=CLASSES), method=grad_cam)


def same(one, other):
    torch.testing.assert_close(one.map, other.map, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(one.base_map, other.base_map, rtol=1e-5, atol=1e-8)
    assert one.comparison.references == other.comparison.references
    assert one.comparison.target == other.comparison.target
    assert one.comparison.weights == pytest.approx(other.comparison.weights)


# ---- the predicted class ----------------------------------------------------------------------------------------------


def test_without_a_target_it_is_the_class_that_a_classifier_predicts(classifier):
    model = classifier.backbone.module
    for image in IMAGES:
        with torch.no_grad():
            logits = model(classifier.frame(image).pixels[None].double())[0]
        result = classifier(image)
        predicted = CLASSES[int(logits.argmax())]
        assert result.comparison.target == predicted
        assert result.scores[predicted] == pytest.approx(float(logits.max()), rel=1e-6)
        same(result, classifier(image, predicted))


def test_it_predicts_among_all_classes_though_references_are_chosen_from_some(classifier):
    few = Localizer(classifier.backbone, vocabulary=CLASSES[:3], method=grad_cam)
    targets = [result.comparison.target for result in few.batch(IMAGES)]
    assert targets == [result.comparison.target for result in classifier.batch(IMAGES)]
    for result in few.batch(IMAGES):
        assert set(result.comparison.references) <= set(CLASSES[:3])


def test_a_dual_encoder_predicts_among_its_vocabulary(encoder):
    bank = encoder.bank(zoo.WORDS)
    for image, result in zip(IMAGES, encoder.batch(IMAGES), strict=True):
        pixels = encoder.frame(image).pixels[None].double()
        scores = bank.scores(encoder.backbone.normalize(encoder.backbone.embed_pixels(pixels)))[0]
        assert result.comparison.target == zoo.WORDS[int(scores.argmax())]


def test_without_a_vocabulary_there_is_nothing_to_predict():
    bare = Localizer(zoo.backbone("class token"), templates=["a {}"])
    for call in (bare, bare.sweep, bare.against_each):
        with pytest.raises(OptionError, match="No target, and no vocabulary to predict it from; give a target"):
            call(IMAGES[0])
    with pytest.raises(OptionError, match="No target"):
        next(bare.stream(IMAGES))
    with pytest.raises(OptionError, match="no vocabulary to count in"):
        bare(IMAGES[0], 0)


@pytest.mark.slow
def test_the_rest_takes_no_target_either(classifier):
    own = classifier(IMAGES[0], strength=1.0)
    same(classifier.sweep(IMAGES[0], strengths=(0.0, 1.0))[1], own)
    each = classifier.against_each(IMAGES[0])
    assert [result.comparison.references for result in each] == [(name,) for name in own.comparison.references]
    for (image, result), expected in zip(classifier.stream(IMAGES, batch_size=2), IMAGES, strict=True):
        assert image is expected
        same(result, classifier(image))


# ---- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        3,
        np.uint8(3),
        *(
            pytest.param(three, marks=pytest.mark.slow)
            for three in (np.int64(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int32))
        ),
    ],
    ids=repr,
)
def test_a_number_is_that_class_whatever_counts(classifier, number):
    same(classifier(IMAGES[0], number), classifier(IMAGES[0], CLASSES[3]))
    same(classifier(IMAGES[0], "owl", number), classifier(IMAGES[0], "owl", CLASSES[3]))


def test_a_number_counts_in_the_vocabulary_of_a_dual_encoder_and_in_the_classes_of_a_classifier(encoder, classifier):
    same(encoder(IMAGES[0], 1), encoder(IMAGES[0], zoo.WORDS[1]))
    few = Localizer(classifier.backbone, vocabulary=("gull", "wren", "owl", "jay"), method=grad_cam)
    assert few(IMAGES[0], 0).comparison.target == "finch"


@pytest.mark.slow
def test_several_numbers_to_compare_with(classifier):
    expected = classifier(IMAGES[0], "owl", ["finch", "wren"])
    for against in ([0, 5], ["finch", 5], (np.int64(0), "wren"), torch.tensor([0, 5]), np.array([0, 5]), iter([0, 5])):
        same(classifier(IMAGES[0], 2, against), expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (True, r"target is True \(bool\); expected a name"),
        (np.bool_(True), "expected a name, or the number of a class"),
        (torch.tensor(True), "expected a name, or the number of a class"),
        (7, "target is 7; expected a name, or a number from 0 to 6"),
        (-1, "a number from 0 to 6"),
        (torch.tensor(7), "a number from 0 to 6"),
        (2.0, r"target is 2\.0 \(float\)"),
        (torch.tensor(2.0), r"torch\.float32"),
        (b"owl", r"b'owl' \(bytes\)"),
        (object(), "object"),
        ({"owl": 1}, "which has no order"),
        ({"owl"}, "which has no order"),
        (["owl", "jay"], "2 targets for 1 image; expected one for all of them, or one for each"),
        ([], "0 targets for 1 image"),
        ([["owl"]], r"\['owl'\] \(list\)"),
        ([True], r"True \(bool\)"),
        (np.eye(7)[2], r"float64, shape \(\)"),
        (torch.eye(7)[2:3], r"shape \(7,\)"),
    ],
)
def test_what_is_no_target_is_refused(classifier, target, message):
    for call in (classifier, classifier.sweep):
        with pytest.raises(OptionError, match=message):
            call(IMAGES[0], target)


def test_a_name_that_is_no_class_is_refused_with_a_suggestion(classifier):
    with pytest.raises(UnknownConcept, match="Did you mean 'heron'"):
        classifier(IMAGES[0], "hern")


@pytest.mark.parametrize(
    ("against", "message"),
    [
        (True, "against is True"),
        ([True], "one of against is True"),
        (9, "against is 9; expected a name, or a number from 0 to 6"),
        (1.5, "against is 1.5"),
        ([], "against is empty"),
        ((), "against is empty"),
        ([["jay"]], "one of against is"),
        (nearest, "nearest is no selector"),
        (rivals, "rivals is no selector"),
        (len, "is no selector"),
    ],
)
def test_what_are_no_references_is_refused(classifier, against, message):
    with pytest.raises(OptionError, match=message):
        classifier(IMAGES[0], "owl", against)


def test_a_vocabulary_of_a_classifier_is_of_its_classes(classifier):
    few = Localizer(classifier.backbone, vocabulary=[5, "jay", np.int64(0)], method=grad_cam)
    assert few.vocabulary == ("wren", "jay", "finch")
    assert Localizer(classifier.backbone).vocabulary == CLASSES
    with pytest.raises(UnknownConcept, match=r"has no class 'hern' among its 7, nor 1 more .* Did you mean 'heron'"):
        Localizer(classifier.backbone, vocabulary=["owl", "hern", "dodo"])
    with pytest.raises(OptionError, match="one of the vocabulary is 7; expected a name, or a number from 0 to 6"):
        Localizer(classifier.backbone, vocabulary=[7])
    with pytest.raises(OptionError, match="one of the vocabulary is True"):
        Localizer(classifier.backbone, vocabulary=[True])
    with pytest.raises(OptionError, match="no vocabulary to count in"):
        Localizer(zoo.backbone("class token"), vocabulary=[1, 2])


# ---- one for each -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        ["owl", "jay", "owl"],
        ("owl", 1, None),
        [2, 1, 0],
        *(
            pytest.param(targets, marks=pytest.mark.slow)
            for targets in (np.array([2, 1, 0]), torch.tensor([2, 1, 0]), np.array(["owl", "jay", "finch"]), range(3))
        ),
        [None, None, "gull"],
    ],
    ids=repr,
)
def test_a_batch_with_a_target_for_each_is_its_images_one_by_one(classifier, targets):
    singles = [classifier(image, target) for image, target in zip(IMAGES, targets, strict=True)]
    for one, alone in zip(classifier.batch(IMAGES, targets), singles, strict=True):
        same(one, alone)
    streamed = classifier.stream(iter(IMAGES), iter(targets), batch_size=2)
    for (_, one), alone in zip(streamed, singles, strict=True):
        same(one, alone)


def test_the_target_of_one_image_is_no_reference_of_another(encoder):
    """Targets outside of the vocabulary, nearer to each other than to any of it."""
    targets = ["blue wing", "blue wing beak", "green crown"]
    for one, image, target in zip(encoder.batch(IMAGES, targets, nearest(2)), IMAGES, targets, strict=True):
        assert set(one.comparison.references) <= set(zoo.WORDS)
        same(one, encoder(image, target, nearest(2)))
    bare = Localizer(encoder.backbone, templates=["a {}"])
    for one, image, target in zip(bare.batch(IMAGES, targets, "bird"), IMAGES, targets, strict=True):
        same(one, bare(image, target, "bird"))


def test_rivals_are_of_each_image_and_each_target(classifier):
    for one, image, target in zip(classifier.batch(IMAGES, [0, 4, None], rivals(2)), IMAGES, [0, 4, None], strict=True):
        same(one, classifier(image, target, rivals(2)))


@pytest.mark.parametrize(("targets", "count"), [(["owl"], 1), (["owl"] * 4, 4), ([], 0)])
def test_as_many_targets_as_images(classifier, targets, count):
    with pytest.raises(OptionError, match=f"{count} targets for 3 images"):
        classifier.batch(IMAGES, targets)
    with pytest.raises(OptionError, match="targets"):
        list(classifier.stream(IMAGES, targets, batch_size=2))


def test_a_stream_keeps_images_and_targets_together_when_one_is_left_out(classifier, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    given = [IMAGES[0], tmp_path / "broken.png", IMAGES[2]]
    left_out = []
    found = list(classifier.stream(given, ["owl", "jay", "gull"], on_error=lambda *pair: left_out.append(pair)))
    assert [result.comparison.target for _, result in found] == ["owl", "gull"]
    ((path, error),) = left_out
    assert path == given[1]
    assert isinstance(error, ImageError)
    same(found[1][1], classifier(IMAGES[2], "gull"))


def test_names_to_compare_with_are_read_once_for_a_stream(classifier):
    found = list(classifier.stream(IMAGES, "owl", (name for name in ("jay", "wren")), batch_size=1))
    assert [result.comparison.references for _, result in found] == [("jay", "wren")] * 3


def test_a_method_that_does_not_see_the_score_takes_any_target(classifier):
    blind = Localizer(classifier.backbone, method=rollout)
    result = blind(IMAGES[0])
    assert result.comparison.references == ()
    assert result.comparison.target == classifier(IMAGES[0]).comparison.target


def test_a_batch_is_several_images(classifier):
    for one in (IMAGES[0], "photo.jpg"):
        with pytest.raises(ImageError, match="put this one into a list"):
            classifier.batch(one, "owl")
    with pytest.raises(ImageError, match="A int is no batch"):
        classifier.batch(3, "owl")


def test_a_field_takes_numbers_and_predicts(classifier):
    (field,) = classifier.fields(IMAGES[:1])
    bank = classifier.bank(CLASSES)
    same(field.localize(bank, 2, [1, "wren"]), classifier(IMAGES[0], "owl", ["jay", "wren"]))
    same(field.localize(bank, against="wren"), classifier(IMAGES[0], None, "wren"))
    with pytest.raises(OptionError, match="a number from 0 to 6"):
        field.localize(bank, 7, "wren")

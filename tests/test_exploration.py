"""An exploration is a result, a sweep and each reference alone, from one decode and one forward pass."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from concept_cam import passes, tensors, world
from concept_cam.errors import ComparisonError, ImageError, NoSpatialGradient, OptionError
from concept_cam.methods import rollout

PAIR = ("ember finch", ("frost finch", "royal jay"))


@pytest.fixture(scope="module")
def guide():
    return world.localizer()


@pytest.fixture(scope="module")
def image():
    return world.draw_species("ember finch", seed=3).image


def assert_same(ours, theirs):
    assert ours.comparison == theirs.comparison
    assert ours.scores == pytest.approx(theirs.scores, rel=1e-5)
    torch.testing.assert_close(ours.map, theirs.map, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.base_map, theirs.base_map, rtol=1e-4, atol=1e-6)


@pytest.fixture
def counted(monkeypatch):
    """How many images were decoded, and how many went through the model at once."""
    decoded, traced = [], []
    read, trace = tensors.read_image, passes.trace
    monkeypatch.setattr(tensors, "read_image", lambda given: decoded.append(given) or read(given))
    monkeypatch.setattr(passes, "trace", lambda at, pixels, *how: traced.append(len(pixels)) or trace(at, pixels, *how))
    return decoded, traced


def test_everything_from_one_decode_and_one_pass(guide, image, counted, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for k, path in enumerate(paths):
        image.rotate(5 * k).save(path)
    found = dict(guide.explore(paths, *PAIR, strength=0.4, strengths=(0.0, 1.0, 2.0), each=0.8))
    decoded, traced = counted
    assert sorted(decoded) == paths
    assert traced == [3]
    for path in paths:
        one = found[path]
        assert one.image is not None
        assert one.image.tobytes() == Image.open(path).convert("RGB").tobytes()
        assert_same(one.result, guide(path, *PAIR, strength=0.4))
        for ours, theirs in zip(one.sweep, guide.sweep(path, *PAIR, strengths=(0.0, 1.0, 2.0)), strict=True):
            assert_same(ours, theirs)
        for ours, theirs in zip(one.by_reference, guide.against_each(path, *PAIR, strength=0.8), strict=True):
            assert_same(ours, theirs)


def test_what_is_left_out_is_not_there(guide, image):
    ((_, found),) = guide.explore([image], *PAIR, strengths=(), each=None)
    assert (found.sweep, found.by_reference) == ((), ())
    assert_same(found.result, guide(image, *PAIR))
    ((_, found),) = guide.explore([image], "ember finch", strength=0.0, strengths=(1.0,), each=None)
    assert found.result.comparison.references == ()
    assert len(found.sweep[0].comparison.references) == 3
    assert torch.equal(found.result.map, found.result.base_map)
    rolled = world.localizer(method=rollout)
    assert [one.sweep for _, one in rolled.explore([image], "ember finch", strengths=(), each=None)] == [()]
    with pytest.raises(OptionError, match="does not look at the score"):
        next(rolled.explore([image], "ember finch"))


def test_images_may_have_as_many_references_as_they_like(guide, image):
    """A selector of the user's own gives one reference for one image, and two for the other."""
    images = [image, world.draw_species("royal jay").image]
    names = iter([("frost finch",), ("frost finch", "willow finch")])
    found = [one for _, one in guide.explore(images, "ember finch", lambda *_: next(names), strengths=())]
    assert [len(one.by_reference) for one in found] == [1, 2]
    for picture, one in zip(images, found, strict=True):
        alone = guide.against_each(picture, "ember finch", one.result.comparison.references)
        for ours, theirs in zip(one.by_reference, alone, strict=True):
            assert_same(ours, theirs)


def test_a_tensor_has_no_image_and_a_bad_image_is_skipped(guide, image, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"none")
    pixels = guide.frame(image).pixels
    told = []
    found = list(guide.explore([pixels, tmp_path / "broken.png"], *PAIR, on_error=lambda *given: told.append(given)))
    assert [one.image for _, one in found] == [None]
    assert [type(error) for _, error in told] == [ImageError]
    with pytest.raises(ComparisonError, match="strength is -1"):
        list(guide.explore([image], *PAIR, strengths=(0.5, -1.0), on_error=pytest.fail))


def test_a_blank_map_is_the_problem_of_its_own_image_without_another_pass(guide, image, counted, monkeypatch):
    real = passes.explain

    def second_is_blank(method, seen, directions):
        maps = real(method, seen, directions)
        if maps.shape[1] > 1:
            maps[:, 1] = 0
        return maps

    monkeypatch.setattr(passes, "explain", second_is_blank)
    told = []
    found = list(guide.explore([image] * 3, *PAIR, on_error=lambda *given: told.append(given[1])))
    assert len(found) == 2
    assert [type(error) for error in told] == [NoSpatialGradient]
    assert counted[1] == [3]
    with pytest.raises(NoSpatialGradient, match=r"^image 2 of 3: No patch at .* the map is blank"):
        guide.batch([image] * 3, *PAIR)
    assert counted[1] == [3, 3]

"""A localizer, and all that it is called with, goes to other processes."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch

from concept_cam import against, by_score, by_similarity, nearest, rivals, uniform, world


@pytest.mark.parametrize("thing", [nearest(2), rivals(2), against("bird", "finch"), by_score(10.0), by_similarity(), uniform])
def test_selectors_and_weightings_pickle(thing):
    assert pickle.loads(pickle.dumps(thing)) == thing


@pytest.fixture(scope="module")
def image():
    return world.draw_species("ember finch", seed=3).image


@pytest.mark.parametrize(
    "selector",
    [nearest(2), *(pytest.param(one, marks=pytest.mark.slow) for one in (rivals(2), "frost finch"))],
    ids=["nearest", "rivals", "named"],
)
def test_a_localizer_pickles_with_its_templates_and_transform_and_without_its_texts(image, selector):
    localizer = world.localizer(method="grad_cam")
    expected = localizer(image, "ember finch", selector, weighting=by_score())
    copy = pickle.loads(pickle.dumps(localizer))
    assert (copy.vocabulary, copy.templates, copy.preprocess) == (
        localizer.vocabulary,
        localizer.templates,
        localizer.preprocess,
    )
    assert not copy.kept._banks
    got = copy(image, "ember finch", selector, weighting=by_score())
    assert got.comparison == expected.comparison
    torch.testing.assert_close(got.map, expected.map, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_a_spawned_worker_localizes(image):
    localizer = world.localizer(method="grad_cam")
    expected = localizer(image, "ember finch", nearest(2))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.apply(localizer, (image, "ember finch", nearest(2)))
    assert got.comparison.references == expected.comparison.references
    torch.testing.assert_close(got.map, expected.map, rtol=1e-5, atol=1e-8)

"""docs/from-other-packages.md: theirs and ours give the same numbers where the page says so, and others where it says that."""

from __future__ import annotations

import pytest
import torch
from test_code_blocks import ROOT, blocks

PAGE = ROOT / "docs" / "from-other-packages.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the code of the page leaves behind."""
    pytest.importorskip("torchcam")
    found = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(tmp_path_factory.mktemp("page"))
        torch.manual_seed(0)
        for block in filter(lambda block: block.runs, blocks(PAGE)):
            exec(compile(block.code, PAGE.name, "exec", dont_inherit=True), found)
    return found


def off(ours, theirs) -> float:
    """The largest difference, as a share of the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.slow
def test_grad_cam_is_the_same_after_what_the_package_does_to_it(names):
    assert names["ours"].base_map.min() < 0  # signed here
    assert off(names["as_grad_cam_shows"](names["ours"].base_map), torch.from_numpy(names["theirs"])) < 1e-4


@pytest.mark.slow
def test_the_finer_cam_of_grad_cam_differs_as_the_page_says(names):
    assert off(names["as_grad_cam_shows"](names["ours_finer"].map), torch.from_numpy(names["theirs_finer"])) > 0.01


@pytest.mark.slow
def test_the_finer_cam_of_torchcam_is_the_same(names):
    assert off(names["ours_torch"].map.clamp(min=0), names["theirs_torch"][0].detach()) < 1e-4
    assert off(names["ours_torch"].base_map.clamp(min=0), names["theirs_torch"][0].detach()) > 0.01


@pytest.mark.slow
def test_the_grad_cam_of_captum_is_the_same(names):
    assert names["theirs_captum"].min() < 0
    assert off(names["ours_captum"].base_map, names["theirs_captum"][0, 0].detach()) < 1e-4


@pytest.mark.slow
def test_legrad_is_never_negative_and_not_scaled(names):
    values = names["ours_legrad"].base_map
    assert values.min() >= 0
    assert values.max() != pytest.approx(1)

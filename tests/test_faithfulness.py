"""Metrics that ask the model again: by hand on models of one weight, and as captum and grad-cam have them."""

from __future__ import annotations

import captum.metrics
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from concept_cam.errors import OptionError
from concept_cam.metrics import (
    area_under,
    blurred,
    comprehensiveness,
    confidence_kept,
    constant,
    deletion_curve,
    flip_agreement,
    infidelity,
    insertion_curve,
    max_sensitivity,
    mean_colour,
    noisy_linear,
    rank_correlation,
    relative_drop,
    road,
    shift_agreement,
    strongest,
    sufficiency,
    swap_agreement,
)

SIDE = 4


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corners(pixels: torch.Tensor) -> torch.Tensor:
    """A model of two labels: the first lives in the upper left pixel, the second in the lower right one."""
    first, second = pixels[:, :, 0, 0].mean(1), pixels[:, :, -1, -1].mean(1)
    return torch.stack([first, second], 1) / 10


def at(row: int, column: int) -> torch.Tensor:
    heatmap = torch.zeros(1, SIDE, SIDE, dtype=torch.float64)
    heatmap[0, row, column] = 1.0
    return heatmap


IMAGE = torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64)
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def test_the_strongest_pixels_are_counted_exactly():
    flat = torch.zeros(2, 3, 5)
    assert strongest(flat, 0.2).sum((1, 2)).tolist() == [3, 3]  # a threshold would take all or none
    assert strongest(flat, 0.2)[0, 0].tolist() == [True, True, True, False, False]
    unseen = torch.tensor([[float("nan"), -5.0, 1.0]])
    assert strongest(unseen, 2 / 3).tolist() == [[False, True, True]]
    with pytest.raises(OptionError, match=r"share is 1\.5"):
        strongest(flat, 1.5)


def test_relative_drop_is_what_the_target_loses_more_than_its_rival():
    def drop(heatmap):
        before = corners(IMAGE)
        return float(relative_drop(before, corners(constant()(IMAGE, strongest(heatmap, 1 / 16))), FIRST, SECOND))

    assert drop(at(0, 0)) == pytest.approx(0.1)
    assert drop(at(3, 3)) == pytest.approx(-0.1)  # the target's own drop alone would be 0
    assert drop(at(1, 1)) == pytest.approx(0.0)
    assert drop(-at(0, 0)) == pytest.approx(0.0)  # signed: what speaks against does not go first


def test_curves_by_hand():
    good, bad = at(0, 0), -at(0, 0)
    torch.testing.assert_close(deletion_curve(corners, IMAGE, good, FIRST, 4)[0], torch.tensor([0.1, 0, 0, 0, 0]).double())
    torch.testing.assert_close(
        deletion_curve(corners, IMAGE, bad, FIRST, 4)[0], torch.tensor([0.1, 0.1, 0.1, 0.1, 0]).double()
    )
    torch.testing.assert_close(
        insertion_curve(corners, IMAGE, good, FIRST, 4)[0], torch.tensor([0, 0.1, 0.1, 0.1, 0.1]).double()
    )
    # By trapezoids; a plain mean of the points would say 0.02.
    assert float(area_under(deletion_curve(corners, IMAGE, good, FIRST, 4))) == pytest.approx(0.0125)


def test_what_is_kept_by_hand():
    drop, rise = confidence_kept(corners, IMAGE, 7 * at(0, 0) - 3 * at(2, 2), FIRST)
    assert (float(drop), bool(rise)) == (0.0, False)
    drop, rise = confidence_kept(corners, IMAGE, at(3, 3) + 0.25 * at(0, 0), FIRST)
    assert float(drop) == pytest.approx(0.75)
    drop, rise = confidence_kept(lambda x: 1 - corners(x), IMAGE, at(1, 1), FIRST)
    assert (float(drop), bool(rise)) == (0.0, True)
    assert float(confidence_kept(corners, IMAGE, -at(0, 0), FIRST)[0]) == 1.0


def test_rationales_by_hand():
    shares = (1 / 16, 8 / 16)
    assert float(comprehensiveness(corners, IMAGE, at(0, 0), FIRST, shares)) == pytest.approx(0.1)
    assert float(sufficiency(corners, IMAGE, at(0, 0), FIRST, shares)) == pytest.approx(0.0)
    assert float(comprehensiveness(corners, IMAGE, -at(0, 0), FIRST, shares)) == pytest.approx(0.0)
    assert float(sufficiency(corners, IMAGE, -at(0, 0), FIRST, shares)) == pytest.approx(0.1)


def test_road_is_positive_where_the_map_is_right():
    ramp = torch.linspace(0, 1, SIDE * SIDE, dtype=torch.float64).reshape(1, 1, SIDE, SIDE).expand(1, 3, -1, -1)
    brightest = -torch.arange(SIDE * SIDE, dtype=torch.float64).reshape(1, SIDE, SIDE)

    def at_last(pixels):
        return pixels[:, :, -1, -1].mean(1, keepdim=True)

    assert float(road(at_last, ramp, -brightest, FIRST, (0.2,), constant())) == pytest.approx(0.5)
    assert float(road(at_last, ramp, brightest, FIRST, (0.2,), constant())) == pytest.approx(-0.5)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # their solver and a new numpy
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_noisy_linear_imputation_is_that_of_grad_cam(share):
    pixels, gone = noise(1, 3, 12, 15), strongest(noise(1, 12, 15, seed=1), share)
    ours = noisy_linear(noise=0.0)(pixels, gone)
    expected = NoisyLinearImputer(noise=0.0)(pixels[0].float(), (~gone[0]).float())
    torch.testing.assert_close(ours[0].float(), expected, rtol=0, atol=1e-4)


def test_imputation_solves_its_equations():
    """Every pixel that went is the weighted mean of its neighbours on the image; by a dense solver."""
    pixels, gone = noise(2, 3, 6, 7), strongest(noise(2, 6, 7, seed=1), 0.6)
    ours = noisy_linear(noise=0.0)(pixels, gone)
    weight = {(0, 1): 1 / 6, (1, 0): 1 / 6, (0, -1): 1 / 6, (-1, 0): 1 / 6}
    weight |= {(a, b): 1 / 12 for a in (-1, 1) for b in (-1, 1)}
    for b in range(2):
        for row, column in gone[b].nonzero().tolist():
            near = {(row + dy, column + dx): w for (dy, dx), w in weight.items() if 0 <= row + dy < 6 and 0 <= column + dx < 7}
            mean = sum(w * ours[b, :, y, x] for (y, x), w in near.items()) / sum(near.values())
            torch.testing.assert_close(ours[b, :, row, column], mean, rtol=0, atol=1e-4)
    assert torch.equal(ours.movedim(1, -1)[~gone], pixels.movedim(1, -1)[~gone])


def test_noise_is_small_and_the_same_each_time():
    pixels, gone = noise(1, 3, 8, 8), strongest(noise(1, 8, 8, seed=1), 0.5)
    first, again, without = noisy_linear()(pixels, gone), noisy_linear()(pixels, gone), noisy_linear(noise=0)(pixels, gone)
    assert torch.equal(first, again)
    assert 0 < float((first - without).std()) < 0.02


def test_fills():
    pixels = noise(2, 3, 5, 6) + 3
    gone = torch.zeros(2, 5, 6, dtype=torch.bool)
    gone[:, 2, 3] = True
    assert (constant(7.0)(pixels, gone)[:, :, 2, 3] == 7).all()
    torch.testing.assert_close(mean_colour(pixels, gone)[:, :, 2, 3], pixels.mean((2, 3)))
    flat = torch.full((1, 3, 5, 6), 2.0)
    torch.testing.assert_close(blurred(2.0)(flat, torch.ones(1, 5, 6, dtype=torch.bool)), flat)  # no dark border
    spike = torch.zeros(1, 3, 31, 31)
    spike[..., 15, 15] = 1.0
    soft = blurred(2.0)(spike, torch.ones(1, 31, 31, dtype=torch.bool))
    assert float(soft[0, 0, 15, 17] / soft[0, 0, 15, 15]) == pytest.approx(torch.tensor(-0.5).exp().item(), rel=1e-4)
    for fill in (constant(), mean_colour, blurred(), noisy_linear()):
        kept = fill(pixels, gone).movedim(1, -1)[~gone]
        torch.testing.assert_close(kept, pixels.movedim(1, -1)[~gone])


def quadratic(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.square().sum((1, 2, 3)) + 3 * pixels[:, 0, 0, 0]


def test_infidelity_is_that_of_captum():
    pixels, changes = noise(2, 3, SIDE, SIDE), 0.1 * noise(5, 2, 3, SIDE, SIDE, seed=1)
    attributions = noise(2, 3, SIDE, SIDE, seed=2)
    given = iter(changes)

    def perturb(inputs):
        change = next(given)
        return change, inputs - change

    expected = captum.metrics.infidelity(
        quadratic, perturb, pixels, attributions, n_perturb_samples=5, max_examples_per_batch=2
    )
    torch.testing.assert_close(infidelity(quadratic, pixels, attributions, changes), expected, rtol=0, atol=1e-6)
    linear = torch.ones_like(pixels)
    assert float(infidelity(lambda x: x.sum((1, 2, 3)), pixels, linear, changes).max()) == pytest.approx(0, abs=1e-20)


def test_sensitivity_is_that_of_captum():
    """Image by image: in a batch captum asks for the perturbations of all at once, in an order of its own."""
    pixels, changes = noise(2, 3, SIDE, SIDE), 0.02 * noise(6, 2, 3, SIDE, SIDE, seed=1)

    def captums(index):
        given = iter(changes[:, index : index + 1])
        return captum.metrics.sensitivity_max(
            lambda inputs: (inputs[0].square(),),
            pixels[index : index + 1],
            lambda inputs: (inputs[0] + next(given),),
            n_perturb_samples=6,
            max_examples_per_batch=1,
        )

    expected = torch.cat([captums(0), captums(1)])
    ours = max_sensitivity(lambda x: x.square().flatten(1, 2), pixels, changes)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_rank_correlation_by_hand():
    ours = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert float(rank_correlation(ours, ours.exp())) == pytest.approx(1.0)  # a plain correlation would be less
    assert float(rank_correlation(ours, -ours)) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert float(rank_correlation(ours, torch.tensor([[0.0, 5.0, 5.0, 9.0]]))) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert float(rank_correlation(ours, torch.zeros(1, 4))) == 0.0
    assert float(swap_agreement(ours, -3 * ours + 1)) == pytest.approx(1.0)


def pooled(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels.mean(1, keepdim=True), 2)[:, 0]


def test_a_local_map_moves_with_the_image():
    pixels = noise(3, 3, 12, 16)
    assert flip_agreement(pooled, pixels).tolist() == pytest.approx([1.0] * 3)
    assert shift_agreement(pooled, pixels).tolist() == pytest.approx([1.0] * 3)
    fixed = noise(6, 8)

    def of_place(pixels):
        return fixed.expand(len(pixels), -1, -1)

    assert flip_agreement(of_place, pixels).abs().max() < 0.5
    assert shift_agreement(of_place, pixels).abs().max() < 0.5
    assert shift_agreement(lambda x: pooled(x).roll(1, -1), pixels, 2).min() < 0.99  # what the move uncovers is left out


SPANS = {
    "as it is": ((0, 0), (0.0, 0.0, 1.0, 1.0)),
    "padded": ((4, 4), (-1 / 6, 0.0, 7 / 6, 1.0)),
    "cropped": ((-4, -4), (1 / 6, 0.0, 5 / 6, 1.0)),
    "cropped by half a cell": ((-2, -2), (1 / 12, 0.0, 11 / 12, 1.0)),
    "to the left": ((4, -4), (-1 / 6, 0.0, 5 / 6, 1.0)),
    "to the right": ((-8, 8), (1 / 3, 0.0, 4 / 3, 1.0)),
}


@pytest.mark.parametrize("case", SPANS)
def test_a_map_that_covers_more_or_less_than_the_image_moves_with_it(case):
    """Cells are 4 pixels wide, wherever they lie on the image of 24; they are no share of it by their number."""
    (left, right), span = SPANS[case]
    pixels = noise(3, 3, 12, 24)

    def cells(pixels):
        return F.avg_pool2d(F.pad(pixels.mean(1, keepdim=True), (left, right)), 4)[:, 0]

    assert shift_agreement(cells, pixels, span=span).tolist() == pytest.approx([1.0] * 3)
    assert shift_agreement(cells, pixels, 2, span).tolist() == pytest.approx([1.0] * 3)
    if left == right:
        assert flip_agreement(cells, pixels, span).tolist() == pytest.approx([1.0] * 3)
    fixed = noise(*cells(pixels).shape[1:])
    assert shift_agreement(lambda x: fixed.expand(len(x), -1, -1), pixels, span=span).abs().max() < 0.7


def test_a_map_to_one_side_lies_to_the_other_when_mirrored():
    """Of an input of six cells the map has the first five; mirrored back, it has the last five."""
    pixels = noise(2, 3, 12, 24)

    def cells(pixels):
        return F.avg_pool2d(pixels.mean(1, keepdim=True)[..., :20], 4)[:, 0]

    assert flip_agreement(cells, pixels, (0.0, 0.0, 5 / 6, 1.0)).tolist() == pytest.approx([1.0] * 2)
    assert flip_agreement(cells, pixels).max() < 0.9

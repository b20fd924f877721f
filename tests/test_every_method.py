"""What must hold of every method in the table, and where each runs."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
import zoo
from slow import by_default
from zoo.families import ROWS

from benchmarks.timing import peak_memory
from concept_cam import ConceptField, Localizer, compare, grad_cam, nearest, trace, uniform, world, wrap
from concept_cam.comparison import Comparison
from concept_cam.concepts import ConceptBank
from concept_cam.errors import BackboneError, OptionError
from concept_cam.methods import (
    CARDS,
    METHODS,
    TraceMethod,
    at_scales,
    at_sites,
    explain,
    hires_cam,
    is_linear,
    layer_cam,
    mirrored,
    name_of,
    perturbation,
    sees_score,
    smoothed,
)

LINEAR = [name for name in METHODS if is_linear(METHODS[name])]
SEEING = [name for name in METHODS if sees_score(METHODS[name])]
FAMILIES = [
    "open_clip ViT",
    "open_clip ViT, average",
    "CoCa",
    "SigLIP",
    "EVA-02",
    "PE-Core",
    "transformers CLIP",
    "torchvision ViT",
]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(perturbation, "_RISE_MASKS", 6)
    monkeypatch.setattr(perturbation, "_GSCORE_CHANNELS", 5)


@pytest.fixture(scope="module")
def backbone():
    return zoo.backbone("class token")


@pytest.fixture(scope="module")
def seen(backbone):
    return trace(backbone, zoo.pixels(backbone, 2))


def off(got, expected):
    return float((got - expected).norm() / expected.norm())


def test_the_table():
    assert len(METHODS) >= 22
    for name, card in CARDS.items():
        assert name_of(card.method) == name
        assert card.compares == ("no" if name not in SEEING else "linear" if name in LINEAR else "yes")
    assert {card.kind for card in CARDS.values()} == {"gradient", "attention", "similarity", "perturbation"}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_ones_are_linear_in_the_direction(seen, backbone, name):
    first, second = zoo.directions(backbone, 2)
    one, other, both, double = explain(METHODS[name], seen, torch.stack([first, second, first - 0.6 * second, 2 * first]))
    assert off(both, one - 0.6 * other) <= 1e-10
    assert off(double, 2 * one) <= 1e-10


@pytest.mark.parametrize("name", sorted(set(SEEING) - set(LINEAR)))
def test_the_others_are_not(seen, backbone, name):
    """Else they would have a field, and the table would be wrong."""
    first, second = zoo.directions(backbone, 2)
    one, other, both = explain(METHODS[name], seen, torch.stack([first, second, first - 0.6 * second]))
    assert off(both, one - 0.6 * other) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_its_images(seen, backbone, name):
    directions = zoo.directions(backbone, 3)
    whole = explain(METHODS[name], seen, directions)
    assert whole.shape == (3, 2, 3, 5)
    for image in range(2):
        alone = explain(METHODS[name], trace(backbone, seen.pixels[image : image + 1]), directions)
        assert off(whole[:, image : image + 1], alone) <= 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_directions_do_not_see_each_other(seen, backbone, name):
    directions = zoo.directions(backbone, 3)
    whole = explain(METHODS[name], seen, directions)
    assert off(whole[1:2], explain(METHODS[name], seen, directions[1:2])) <= 1e-10


@pytest.mark.parametrize("name", SEEING)
def test_strength_zero_is_the_base_and_references_have_no_order(seen, name):
    texts = F.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64), dim=-1)
    names = tuple("abcdef")
    bank = ConceptBank(names, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zero = compare(bank, "c", nearest(3), torch.zeros(6, dtype=torch.float64), 0.0, uniform)
    assert len(zero.references) == 3
    orders = [Comparison("c", order, (1 / 3,) * 3, (0.0,) * 3, 0.6) for order in (("a", "b", "e"), ("e", "a", "b"))]
    asked = [texts[2], *(comparison.direction(bank) for comparison in (zero, *orders))]
    base, nothing, one, other = explain(METHODS[name], seen, torch.stack(asked)[:, None])
    assert torch.equal(base, nothing)
    assert off(one, other) <= 1e-9
    assert off(one, base) > 1e-3


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(SEEING)))
def test_what_does_not_see_the_score_refuses_to_compare(name):
    localizer = world.localizer(method=METHODS[name])
    plate = world.draw_species("ember finch", seed=3)
    result = localizer(plate.image, "ember finch")
    assert not result.comparison.references
    assert torch.equal(result.map, result.base_map)
    with pytest.raises(OptionError, match=f"{name} does not look at the score"):
        localizer(plate.image, "ember finch", "frost finch")
    with pytest.raises(OptionError, match="no field"):
        localizer.fields([plate.image])


@pytest.mark.parametrize("name", LINEAR)
def test_linear_ones_have_a_field(seen, backbone, name):
    directions = zoo.directions(backbone, 3)
    maps = torch.stack([field(directions[:, 0]) for field in ConceptField.of(seen, METHODS[name])], 1)
    assert off(maps, explain(METHODS[name], seen, directions)) <= 1e-9


@pytest.mark.parametrize("row", FAMILIES)
def test_each_runs_or_says_why_not(row):
    backbone = ROWS[row].backbone()
    pixels = torch.randn(2, 3, *backbone.preprocess.size, generator=torch.Generator().manual_seed(3)).to(backbone.dtype)
    seen = trace(backbone, pixels)
    width = seen.embedding.shape[-1]
    directions = torch.randn(2, 1, width, generator=torch.Generator().manual_seed(4)).to(pixels)
    refused = set()
    for name, method in METHODS.items():
        try:
            maps = explain(method, seen, directions)
        except BackboneError:
            refused.add(name)
            continue
        assert maps.shape == (2, 2, seen.layout.rows, seen.layout.cols)
        assert torch.isfinite(maps).all()
        assert maps.std((2, 3)).min() > 0
    # A mean has no single query whose values could be told apart.
    expected = {"value_attribution", "grad_eclip"} if "average" in row else set()
    if row in ("open_clip ViT, average", "CoCa", "SigLIP", "PE-Core"):
        # No class token becomes the embedding.
        expected |= {"class_stream", "direct"}
    assert refused == expected


@pytest.mark.parametrize("row", ["open_clip ResNet", "timm ResNet", "CLIPSeg"])
def test_without_blocks_attention_is_refused_in_one_line(row):
    backbone = ROWS[row].backbone()
    pixels = torch.zeros(1, 3, *backbone.preprocess.size, dtype=backbone.dtype)
    with pytest.raises(BackboneError, match="no attention that can be laid open"):
        explain(METHODS["gem"], trace(backbone, pixels), torch.ones(1, 1, 1))


@pytest.mark.parametrize("row", ["open_clip ViT", "CoCa", "SigLIP", "EVA-02", "PE-Core", "transformers CLIP"])
def test_direct_value_attribution_is_complete(row):
    """With the prefix's own term, the patches' sum to <gamma, o>."""
    backbone = ROWS[row].backbone()
    pixels = torch.randn(2, 3, *backbone.preprocess.size, generator=torch.Generator().manual_seed(3)).to(backbone.dtype)
    seen = trace(backbone, pixels)
    direction = torch.randn(1, 1, seen.embedding.shape[-1], generator=torch.Generator().manual_seed(4)).to(pixels)
    gradient = seen.gradient(direction)
    reading, heads = seen.reading, seen.reading.projections.heads
    score = (gradient.gamma * reading.pooled).sum(-1)
    patches = explain(METHODS["value_attribution"], seen, direction).sum((2, 3))
    # What the pooled vector holds beyond the patches' share, head by head: that is the prefix's.
    values = reading.values(reading.entered) + reading.projections.value[1].view(heads, -1)
    shares = torch.einsum("bnh,bnhd->bhd", reading.attention, values).flatten(1)
    prefix = (gradient.gamma * (reading.pooled - shares)).sum(-1)
    torch.testing.assert_close(patches + prefix, score, rtol=1e-9, atol=1e-14)
    weight_left = 1 - reading.attention.sum(1)
    if weight_left.abs().max() < 1e-9:
        torch.testing.assert_close(patches, score, rtol=1e-9, atol=1e-14)
    else:
        assert row not in ("SigLIP", "transformers SigLIP")


def test_blocks_that_are_not_what_they_were_are_refused():
    """A wrong map must not be possible: what is run piece by piece is compared with what the model gives."""
    model = zoo.tiny_clip()
    backbone = wrap(model, zoo.TOKENIZER, name="tampered")
    model.visual.transformer.resblocks[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
    seen = trace(backbone, zoo.pixels(backbone, 1))
    assert explain(METHODS["relevance"], seen, zoo.directions(backbone, 1)).isfinite().all()
    block = model.visual.transformer.resblocks[-1]
    own = block.forward
    block.forward = lambda x, attn_mask=None: own(x, attn_mask) + 0.1 * x.roll(1, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seen = trace(backbone, zoo.pixels(backbone, 1))
    with pytest.raises(BackboneError, match="not what they were"):
        explain(METHODS["relevance"], seen, zoo.directions(backbone, 1))


def test_an_unknown_block_is_of_no_concern_to_methods_that_begin_after_it():
    pixels = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model = zoo.tiny_clip()
    known = trace(wrap(model, zoo.TOKENIZER), pixels)
    directions = torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    depth_one = ("hires_cam", "value_attribution", "raw_attention", "patch_text")
    expected = {name: explain(METHODS[name], known, directions) for name in depth_one}
    first = model.visual.transformer.resblocks[0]
    first.__class__ = type("Mine", (type(first),), {})
    seen = trace(wrap(model, zoo.TOKENIZER), pixels)
    assert [block is None for block in seen.backbone.blocks] == [True, False]
    for name, maps in expected.items():
        assert torch.equal(explain(METHODS[name], seen, directions), maps)
    for name in ("legrad", "rollout", "relevance"):
        with pytest.raises(BackboneError, match="no attention that can be laid open"):
            explain(METHODS[name], seen, directions)


def test_the_model_is_left_as_it_was(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    seen = trace(backbone, zoo.pixels(backbone, 1))
    state = torch.random.get_rng_state()
    for method in METHODS.values():
        explain(method, seen, zoo.directions(backbone, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.module.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.module.modules())
    assert not any(parameter.grad is not None for parameter in backbone.module.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_inside_the_callers_modes(backbone, seen, name):
    directions = zoo.directions(backbone, 2)
    expected = explain(METHODS[name], seen, directions)
    with torch.inference_mode():
        got = [explain(METHODS[name], trace(backbone, zoo.pixels(backbone, 2)), directions)]
        inferred = directions.clone()
        got.append(explain(METHODS[name], seen, inferred))
    got.append(explain(METHODS[name], seen, inferred))
    assert all(off(maps.clone(), expected) <= 1e-12 for maps in got)


def test_a_method_of_ones_own():
    method = TraceMethod(lambda seen, directions: torch.ones(len(directions), len(seen.pixels), seen.layout.patches))
    localizer = Localizer(zoo.backbone("class token"), vocabulary=zoo.WORDS, method=method)
    assert localizer.method is method
    assert not is_linear(method)
    assert is_linear(grad_cam)


# ---- averages ---------------------------------------------------------------------------------------------------------

BASES = [hires_cam, layer_cam, METHODS["maskclip"], METHODS["relevance"]]


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_mirrored_is_the_mean_with_the_mirrored_image(backbone, seen, base):
    directions = zoo.directions(backbone, 2)
    flipped = trace(backbone, seen.pixels.flip(-1))
    expected = (explain(base, seen, directions) + explain(base, flipped, directions).flip(-1)) / 2
    got = explain(mirrored(base), seen, directions)
    assert off(got, expected) <= 1e-9
    # Whatever the image, the map of its mirror image is the mirror image of the map.
    assert off(explain(mirrored(base), flipped, directions), got.flip(-1)) <= 1e-9
    assert is_linear(mirrored(base)) == is_linear(base)


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_smoothed_is_the_mean_over_noisy_copies(backbone, seen, base):
    directions = zoo.directions(backbone, 2)
    assert off(explain(smoothed(base, count=2, noise=0), seen, directions), explain(base, seen, directions)) <= 1e-9
    generator = torch.Generator().manual_seed(5)
    spread = (seen.pixels.amax((1, 2, 3)) - seen.pixels.amin((1, 2, 3)))[:, None, None, None]
    total = 0
    for _ in range(3):
        noise = torch.randn(3, 24, 40, generator=generator).double()
        total = total + explain(base, trace(backbone, seen.pixels + 0.1 * spread * noise), directions)
    assert off(explain(smoothed(base, count=3, noise=0.1, seed=5), seen, directions), total / 3) <= 1e-9


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_at_scales_is_the_mean_over_sizes(backbone, seen, base):
    directions = zoo.directions(backbone, 2)
    assert off(explain(at_scales(base, (1.0,)), seen, directions), explain(base, seen, directions)) <= 1e-9
    larger = F.interpolate(seen.pixels, (48, 80), mode="bicubic", antialias=True)
    fine = explain(base, trace(backbone.at_size((48, 80)), larger), directions)
    small = F.interpolate(fine, (3, 5), mode="bilinear", antialias=True)
    assert off(explain(at_scales(base, (1.0, 2.0)), seen, directions), (explain(base, seen, directions) + small) / 2) <= 1e-9


def test_at_sites_divides_each_map_by_its_greatest_size_and_takes_the_mean(backbone, seen):
    """Of maps that are known: greatest sizes 4 and -20, and at a patch that both see 1/4 and 5/20, at another 0 and -1."""
    names = [site.name for site in backbone.sites][-2:]
    known = torch.zeros(2, 15, dtype=torch.float64)
    known[0, :3], known[1, :3] = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([5.0, 0.0, -20.0])

    def at(other, directions):
        return known[names.index(other.site.name)].expand(len(directions), len(other.pixels), 15) * directions[..., :1]

    method = at_sites(TraceMethod(at), names)
    got = explain(method, seen, torch.tensor([3.0, -0.5], dtype=torch.float64)[:, None, None].expand(2, 2, 12))
    expected = torch.tensor([0.25, 0.5, -0.5], dtype=torch.float64)
    assert got.flatten(2)[..., :3].tolist() == [[expected.tolist()] * 2, [(-expected).tolist()] * 2]
    assert not got.flatten(2)[..., 3:].any()
    method = at_sites(hires_cam, names)
    assert not is_linear(method)
    assert name_of(method) == "hires_cam_at_sites"


def test_an_average_of_what_does_not_see_the_score_does_not_either():
    blind = METHODS["rollout"]
    assert not any(sees_score(average(blind)) for average in (mirrored, smoothed, at_scales))
    assert not sees_score(at_sites(blind, ["anywhere"]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: smoothed(hires_cam, count=0),
        lambda: smoothed(hires_cam, noise=-1),
        lambda: at_scales(hires_cam, ()),
        lambda: at_scales(hires_cam, (1, 0)),
        lambda: at_sites(hires_cam, []),
    ],
)
def test_averages_of_nothing_are_refused(make):
    with pytest.raises(OptionError, match=r"expected|name one"):
        make()


@pytest.mark.parametrize("name", by_default(METHODS, "grad_cam", "layer_cam", "score_cam"))
def test_directions_are_not_all_held_at_once(name):
    """Of 32 directions more, none may take more than half of a gradient at all tokens; a map is a thirty-second of one."""
    backbone = zoo.backbone("class token").at_size((96, 160))
    seen = trace(backbone, torch.randn(1, 3, 96, 160, dtype=torch.float64))
    # Twelve choose enough channels for a whole batch of gScoreCAM.
    few, many = (zoo.directions(backbone, count) for count in (12, 44))
    explain(METHODS[name], seen, few)
    taken = [peak_memory(lambda asked=asked: explain(METHODS[name], seen, asked)) for asked in (few, many)]
    assert (taken[1] - taken[0]) / 32 <= 0.5 * seen.tokens.numel() * seen.tokens.element_size()

"""One forward pass and its gradients: two implementations, one answer, and that of the full graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from inspect import unwrap

import pytest
import timm
import torch
import torch.nn.functional as F
import zoo

from concept_cam import wrap
from concept_cam.backbones.site import Site
from concept_cam.errors import BackboneError, NoSpatialGradient, OptionError
from concept_cam.gradients import DenseTrace, FactoredTrace, has_exact_head, trace
from concept_cam.gradients.folded import Folded
from concept_cam.gradients.jacobian import NotForwards, pull_one, pull_through, push
from concept_cam.methods import grad_cam, hires_cam, layer_cam

FACTORED = [(case, site.name) for case in zoo.CASES for site in zoo.backbone(case).sites if site.head is not None]
ALL = [(case, site.name) for case in zoo.CASES for site in zoo.backbone(case).sites]


def full_graph(backbone, pixels, site, direction):
    """dS/dA by plain autograd through the whole model, nothing cut and nothing detached."""
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    handle = site.module.register_forward_hook(keep)
    try:
        pixels = pixels.clone().requires_grad_()
        score = (F.normalize(backbone.embed_pixels(pixels), dim=-1) * direction).sum()
        score.backward()
    finally:
        handle.remove()
        backbone.module.zero_grad()
    return kept[0].detach(), kept[0].grad


@pytest.mark.parametrize(("case", "name"), ALL)
@pytest.mark.parametrize("form", ["dense", "factored"])
def test_gradient_is_that_of_the_full_graph(case, name, form):
    backbone = zoo.backbone(case)
    site = backbone.site(name)
    if form == "factored" and site.head is None:
        with pytest.raises(BackboneError, match="no closed form"):
            trace(backbone, zoo.pixels(backbone), name, form)
        return
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    seen = trace(backbone, pixels, name, form)
    got = list(seen.gradient(directions).dense())
    for direction, gradient in zip(directions, got, strict=True):
        tokens, expected = full_graph(backbone, pixels, site, direction)
        torch.testing.assert_close(seen.tokens, tokens[:, 1:], rtol=1e-12, atol=1e-12)
        assert expected[:, 1:].abs().max() > 1e-6
        torch.testing.assert_close(gradient, expected[:, 1:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("case", "name"), FACTORED)
def test_factored_equals_dense(case, name):
    backbone = zoo.backbone(case)
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    dense, factored = (trace(backbone, pixels, name, form) for form in ("dense", "factored"))
    assert isinstance(dense, DenseTrace)
    assert isinstance(factored, FactoredTrace)
    torch.testing.assert_close(factored.embedding, dense.embedding, rtol=1e-12, atol=1e-12)
    theirs, ours = dense.gradient(directions), factored.gradient(directions)
    for question in ("mean", "dot_tokens", "mean_dot_tokens"):
        torch.testing.assert_close(getattr(ours, question)(), getattr(theirs, question)(), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(torch.stack(list(ours.dense())), torch.stack(list(theirs.dense())), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("case", "name"), ALL)
def test_answers_agree_with_the_whole_gradient(case, name):
    backbone = zoo.backbone(case)
    gradient = trace(backbone, zoo.pixels(backbone), name).gradient(zoo.directions(backbone))
    whole = torch.stack(list(gradient.dense()))
    torch.testing.assert_close(gradient.mean(), whole.mean(2), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(gradient.dot_tokens(), (whole * gradient.tokens).sum(-1), rtol=1e-9, atol=1e-14)
    averaged = (whole.mean(2, keepdim=True) * gradient.tokens).sum(-1)
    torch.testing.assert_close(gradient.mean_dot_tokens(), averaged, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("case", zoo.CASES)
@pytest.mark.parametrize("form", ["auto", "dense"])
def test_batch_equals_singles(case, form):
    backbone = zoo.backbone(case)
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    together = hires_cam(trace(backbone, pixels, form=form).gradient(directions))
    for i in range(len(pixels)):
        alone = hires_cam(trace(backbone, pixels[i : i + 1], form=form).gradient(directions))
        torch.testing.assert_close(together[:, i : i + 1], alone, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("form", ["factored", "dense"])
def test_a_direction_of_its_own_for_each_image(form):
    backbone = zoo.backbone("class token")
    pixels, shared = zoo.pixels(backbone), zoo.directions(backbone, 3)
    own = trace(backbone, pixels, form=form).gradient(shared.transpose(0, 1)).mean()
    every = trace(backbone, pixels, form=form).gradient(shared).mean()
    for i in range(len(pixels)):
        torch.testing.assert_close(own[0, i], every[i, i], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["factored", "dense"])
@pytest.mark.parametrize("method", [grad_cam, hires_cam])
def test_linear_methods_are_linear_in_the_direction(form, method):
    backbone = zoo.backbone("class token")
    seen = trace(backbone, zoo.pixels(backbone), form=form)
    a, b = zoo.directions(backbone, 2).split(1)
    combined = method(seen.gradient(a - 0.6 * b))
    torch.testing.assert_close(combined, method(seen.gradient(a)) - 0.6 * method(seen.gradient(b)), rtol=1e-10, atol=1e-14)


def test_layer_cam_is_not_linear_in_the_direction():
    backbone = zoo.backbone("class token")
    seen = trace(backbone, zoo.pixels(backbone))
    a, b = zoo.directions(backbone, 2).split(1)
    apart = layer_cam(seen.gradient(a)) - layer_cam(seen.gradient(b))
    assert not torch.allclose(layer_cam(seen.gradient(a - b)), apart, rtol=1e-3)


def test_many_directions_in_chunks_equal_the_whole():
    backbone = zoo.backbone("class token")
    seen = trace(backbone, zoo.pixels(backbone), form="factored")
    directions = zoo.directions(backbone, 2 * seen.layout.patches + 3)
    singles = torch.cat([seen.gradient(one[None]).mean() for one in directions])
    torch.testing.assert_close(seen.gradient(directions).mean(), singles, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("case", "name"), ALL)
@pytest.mark.parametrize("method", [grad_cam, hires_cam])
def test_the_matrix_of_a_linear_method_is_that_method(case, name, method):
    backbone = zoo.backbone(case)
    seen = trace(backbone, zoo.pixels(backbone), name)
    directions = zoo.directions(backbone, 5)
    maps = torch.einsum("bne,ke->kbn", seen.matrix(method), directions[:, 0])
    torch.testing.assert_close(maps, method(seen.gradient(directions)).flatten(2), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("products", ["forwards", "backwards"])
def test_the_matrix_by_products_forwards_and_backwards(products, monkeypatch):
    """A tiny model has fewer patches than numbers in its embedding; a layer without a forward derivative changes the way."""
    backbone = zoo.backbone("class token, layer scale")
    seen = trace(backbone, zoo.pixels(backbone), form="factored")
    assert seen.layout.patches < seen.embedding.shape[-1]
    calls = []
    monkeypatch.setattr("concept_cam.gradients.factored.push", lambda *given: calls.append(given) or _push(products, *given))
    directions = zoo.directions(backbone, 3)
    maps = torch.einsum("bne,ke->kbn", seen.matrix(hires_cam), directions[:, 0])
    assert len(calls) == 1
    torch.testing.assert_close(maps, hires_cam(seen.gradient(directions)).flatten(2), rtol=1e-9, atol=1e-13)


def _push(products, finish, *given):
    if products == "forwards":
        return push(finish, *given)
    with pytest.raises(NotForwards, match=r"OnlyBackwards|jvp|forward") as refused:
        push(lambda pooled: OnlyBackwards.apply(finish(pooled)), *given)
    raise refused.value


class OnlyBackwards(torch.autograd.Function):
    """A user's own layer, without a forward derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(given):
        return given.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


FOLDED = [
    "class token",
    "class token, quick gelu",
    "class token, no first norm",
    "class token, norm after pooling",
    "class token, one head",
    "class token, square",
]


@pytest.mark.parametrize("case", FOLDED)
def test_folded_products_are_those_of_forward_differentiation(case, monkeypatch):
    backbone = zoo.backbone(case)
    seen = trace(backbone, zoo.pixels(backbone), form="factored")
    tangents = torch.randn(len(seen.embedding), 5, seen.reading.pooled.shape[-1], dtype=torch.float64)
    assert seen.layout.patches <= seen.embedding.shape[-1]
    expected = push(seen._finish, seen.reading.pooled, tangents, 5)
    monkeypatch.setattr("concept_cam.gradients.factored.push", None)
    torch.testing.assert_close(seen.through(tangents), expected, rtol=1e-10, atol=1e-13)


def test_an_end_is_folded_once_for_all_images_and_sizes(monkeypatch):
    folds = []
    own = Folded.of
    monkeypatch.setattr(Folded, "of", lambda end: folds.append(end) or own(end))
    backbone = zoo.backbone("class token")
    for size in ((32, 48), (32, 48), (48, 32)):
        at_size = backbone.at_size(size)
        pixels = torch.randn(2, 3, *size, dtype=torch.float64)
        trace(at_size, pixels, form="factored").matrix(hires_cam)
    assert len(folds) == 1


@pytest.mark.parametrize("how", ["counted", "behind torch's back"])
def test_new_weights_are_folded_anew(how):
    backbone = zoo.backbone("class token")
    trace(backbone, zoo.pixels(backbone)).matrix(hires_cam)
    weight = backbone.module.visual.transformer.resblocks[-1].mlp.c_fc.weight
    with torch.no_grad():
        # Through ``data`` the version stays what it was: the embedding tells.
        (weight if how == "counted" else weight.data).mul_(1.5)
    seen = trace(backbone, zoo.pixels(backbone))
    directions = zoo.directions(backbone, 3)
    maps = torch.einsum("bne,ke->kbn", seen.matrix(hires_cam), directions[:, 0])
    torch.testing.assert_close(maps, hires_cam(seen.gradient(directions)).flatten(2), rtol=1e-9, atol=1e-13)


def test_the_matrix_of_a_fine_grid_goes_backwards(monkeypatch):
    """More patches than numbers in the embedding."""
    backbone = zoo.backbone("class token").at_size((96, 64))
    seen = trace(backbone, torch.randn(2, 3, 96, 64, dtype=torch.float64), form="factored")
    assert seen.layout.patches > seen.embedding.shape[-1]
    monkeypatch.setattr("concept_cam.gradients.factored.push", None)
    directions = torch.randn(3, 1, seen.embedding.shape[-1], dtype=torch.float64)
    maps = torch.einsum("bne,ke->kbn", seen.matrix(grad_cam), directions[:, 0])
    torch.testing.assert_close(maps, grad_cam(seen.gradient(directions)).flatten(2), rtol=1e-9, atol=1e-13)


def test_dropout_of_a_model_in_training_reaches_no_gradient():
    """Also after the trace, when directions go back through the end of the model."""
    model = (
        timm.create_model("test_vit", num_classes=4, drop_rate=0.5, proj_drop_rate=0.5, drop_path_rate=0.5).double().train()
    )
    backbone = wrap(model, classes=list("abcd"))
    pixels = torch.randn(2, 3, 160, 160, dtype=torch.float64)
    directions = torch.randn(3, 1, 64, dtype=torch.float64)
    dense, factored = (trace(backbone, pixels, form=form) for form in ("dense", "factored"))
    expected = hires_cam(dense.gradient(directions))
    torch.testing.assert_close(hires_cam(factored.gradient(directions)), expected, rtol=1e-9, atol=1e-13)
    maps = torch.einsum("bne,ke->kbn", factored.matrix(hires_cam), directions[:, 0])
    torch.testing.assert_close(maps, expected.flatten(2), rtol=1e-9, atol=1e-13)


def test_the_closed_form_runs_the_trunk_once_and_of_the_last_block_one_row_and_one_image():
    backbone = zoo.backbone("class token")
    runs = []
    for index, block in enumerate(backbone.module.visual.transformer.resblocks):
        block.mlp.register_forward_hook(lambda _, inputs, __, index=index: runs.append((index, inputs[0].numel() // 32)))
    assert has_exact_head(backbone, backbone.sites[0])
    runs.clear()
    gradient = trace(backbone, zoo.pixels(backbone)).gradient(zoo.directions(backbone, 50))
    gradient.mean(), gradient.dot_tokens()
    # The second block's MLP sees one vector of the first image, to compare; then one for each of the three images: for the
    # embedding, to see that the model is still the same, and to pull back.
    assert runs == [(0, 3 * 16), (1, 1), (1, 3), (1, 3), (1, 3)]


def test_a_dense_trace_is_one_forward_pass_whatever_the_number_of_directions():
    backbone = zoo.backbone("average")
    runs = []
    backbone.module.visual.conv1.register_forward_hook(lambda *_: runs.append(1))
    trace(backbone, zoo.pixels(backbone), form="dense").gradient(zoo.directions(backbone, 9)).mean()
    assert runs == [1]


def test_a_site_without_a_way_to_the_embedding_is_refused_by_name():
    backbone = zoo.backbone("class token")
    block = backbone.module.visual.transformer.resblocks[-1]
    blind = Site("visual.transformer.resblocks.1", block, backbone.sites[0].layout)
    backbone.sites = (*backbone.sites, blind)
    gradient = trace(backbone, zoo.pixels(backbone), blind.name).gradient(zoo.directions(backbone))
    with pytest.raises(
        NoSpatialGradient, match=r"resblocks\.1 reaches.*resblocks\.1\.ln_1, visual\.transformer\.resblocks\.0"
    ):
        gradient.mean()


def test_a_tampered_model_falls_back_to_autograd_and_says_so():
    model = zoo.tiny_clip()
    block = model.visual.transformer.resblocks[-1]
    own = block.attention

    def twice(*args, **kwargs):
        return 2 * own(*args, **kwargs)

    block.attention = twice
    with pytest.warns(UserWarning, match="closed form .* does not fit the model: its embedding is off"):
        backbone = wrap(model, zoo.TOKENIZER, name="tampered")
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    seen = trace(backbone, pixels)
    assert isinstance(seen, DenseTrace)
    _, expected = full_graph(backbone, pixels, backbone.sites[0], directions[0])
    torch.testing.assert_close(next(seen.gradient(directions).dense()), expected[:, 1:], rtol=1e-9, atol=1e-12)


def test_a_model_patched_after_its_first_trace_is_caught_as_well():
    backbone = zoo.backbone("class token")
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    assert isinstance(trace(backbone, pixels), FactoredTrace)
    block = backbone.module.visual.transformer.resblocks[-1]
    own = block.attention
    block.attention = lambda *args, **kwargs: 2 * own(*args, **kwargs)
    with pytest.warns(UserWarning, match="does not fit the model"):
        assert isinstance(trace(backbone, pixels), DenseTrace)
    del block.attention
    assert isinstance(trace(backbone, pixels), FactoredTrace)
    block.attn.out_proj = torch.nn.Sequential(block.attn.out_proj, torch.nn.Identity()).double()
    block.attn.out_proj.weight, block.attn.out_proj.bias = block.attn.out_proj[0].weight, block.attn.out_proj[0].bias
    assert isinstance(trace(backbone, pixels), FactoredTrace)
    _, expected = full_graph(backbone, pixels, backbone.sites[0], directions[0])
    torch.testing.assert_close(next(trace(backbone, pixels).gradient(directions).dense()), expected[:, 1:])


def test_new_weights_need_no_new_trace_of_the_structure():
    backbone = zoo.backbone("class token")
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    before = hires_cam(trace(backbone, pixels).gradient(directions))
    with torch.no_grad():
        backbone.module.visual.transformer.resblocks[-1].attn.in_proj_weight.mul_(1.5)
    after = trace(backbone, pixels)
    assert isinstance(after, FactoredTrace)
    assert not torch.allclose(hires_cam(after.gradient(directions)), before)
    dense = hires_cam(trace(backbone, pixels, form="dense").gradient(directions))
    torch.testing.assert_close(hires_cam(after.gradient(directions)), dense, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("form", ["factored", "dense"])
def test_a_trace_made_under_autocast_is_of_use_outside(form):
    backbone = wrap(zoo.tiny_clip().float(), zoo.TOKENIZER, name="single")
    pixels, directions = zoo.pixels(backbone), zoo.directions(backbone)
    expected = hires_cam(trace(backbone, pixels, form=form).gradient(directions))
    with torch.autocast("cpu", torch.bfloat16):
        seen = trace(backbone, pixels, form=form)
    got = hires_cam(seen.gradient(directions)).float()
    assert (got - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("form", ["factored", "dense"])
def test_threads_get_the_maps_of_their_own_images(form):
    backbone = zoo.backbone("class token")
    directions = zoo.directions(backbone, 1)
    images = [zoo.pixels(backbone, 1, seed) for seed in range(4)]
    expected = [hires_cam(trace(backbone, p, form=form).gradient(directions)) for p in images]
    embeddings = [backbone.embed_pixels(p).detach() for p in images]

    def work(index):
        i = index % 4
        if index % 3 == 0:
            # The user's own use of the model, in a thread of the user's.
            return torch.allclose(backbone.embed_pixels(images[i]), embeddings[i])
        return torch.allclose(hires_cam(trace(backbone, images[i], form=form).gradient(directions)), expected[i])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(120)))


def test_unknown_forms_are_refused():
    backbone = zoo.backbone("class token")
    with pytest.raises(OptionError, match="No form 'factord' of a gradient; there are auto, factored, dense"):
        # As users call it, who have no type checker at work.
        unwrap(trace)(backbone, zoo.pixels(backbone), form="factord")


def test_an_unknown_block_has_no_closed_form():
    backbone = zoo.backbone("class token, scaled attention")
    assert backbone.sites[0].head is None
    assert isinstance(trace(backbone, zoo.pixels(backbone)), DenseTrace)


def test_unknown_site_lists_those_there_are():
    backbone = zoo.backbone("class token")
    with pytest.raises(BackboneError, match=r"no site 'ln'; its sites are visual\.transformer\.resblocks\.1\.ln_1"):
        trace(backbone, zoo.pixels(backbone), "ln")


def test_wrong_tokens_are_refused():
    backbone = zoo.backbone("class token")
    good = backbone.sites[0]
    backbone.sites = (Site(good.name, good.module, type(good.layout)(0, 3, 5)),)
    with pytest.raises(BackboneError, match=r"gave \(3, 16, 32\); expected \(batch, 0 \+ 3 x 5, width\)"):
        trace(backbone, zoo.pixels(backbone))


PRECISIONS = {
    "single": (lambda: zoo.tiny_clip().float(), 1e-4),
    "bfloat16": (lambda: zoo.tiny_clip().bfloat16(), 0.06),
    "float16": (lambda: zoo.tiny_clip().half(), 0.01),
    "open_clip's bfloat16": (lambda: zoo.half(torch.bfloat16), 0.06),
    "open_clip's float16": (lambda: zoo.half(torch.float16), 0.01),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["auto", "dense"])
def test_lower_precision_follows_float64(precision, form):
    build, tolerance = PRECISIONS[precision]
    exact, low = zoo.backbone("class token"), wrap(build(), zoo.TOKENIZER, name="low")
    seen = trace(low, zoo.pixels(low), form=form)
    assert isinstance(seen, FactoredTrace if form == "auto" else DenseTrace)
    for method in (grad_cam, hires_cam):
        rough = method(seen.gradient(zoo.directions(low))).double()
        fine = method(trace(exact, zoo.pixels(exact)).gradient(zoo.directions(exact)))
        assert (rough - fine).norm() <= tolerance * fine.norm()
        by_matrix = torch.einsum("bne,ke->kbn", seen.matrix(method).double(), zoo.directions(low)[:, 0].double())
        assert (by_matrix - fine.flatten(2)).norm() <= tolerance * fine.norm()


# ---- a few directions -------------------------------------------------------------------------------------------------


def test_directions_one_by_one_give_what_a_batch_gives():
    torch.manual_seed(0)
    leaves = [torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    embedding = torch.tanh(leaves[0] @ torch.randn(5, 4, dtype=torch.float64)) * leaves[1][:, :4].exp()
    directions = torch.randn(7, 3, 4, dtype=torch.float64)
    batch = pull_through(embedding, leaves, directions, 4)
    for count in (1, 2, 3):
        with torch.inference_mode():
            few = pull_through(embedding, leaves, directions[:count], 4)
        for one, whole in zip(few, batch, strict=True):
            torch.testing.assert_close(one, whole[:count], rtol=1e-12, atol=1e-12)


def test_what_has_no_part_in_an_embedding_is_an_error_or_zeros():
    used, unused = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    embedding, direction = 2 * used, torch.ones(2, 3)
    for directions in (direction[None], direction.expand(5, 2, 3)):
        with pytest.raises(RuntimeError, match="not have been used"):
            pull_through(embedding, [used, unused], directions, 4)
    moved, still = pull_one(embedding, [used, unused], direction, zeros=True)
    assert moved.eq(2).all()
    assert still.eq(0).all()

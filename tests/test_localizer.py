"""The whole flow: one call equals its stages, and the map lands on the right place of the image that was given."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from PIL import Image
from slow import by_default, cases

from concept_cam import Localizer, against, compare, embed, grad_cam, hires_cam, nearest, passes, rivals, trace, world, wrap
from concept_cam.errors import (
    BackboneError,
    ComparisonError,
    ImageError,
    NoSpatialGradient,
    OptionError,
    PromptError,
    UnknownWord,
)
from concept_cam.images import Frame, read_image
from concept_cam.methods import gem, layer_cam, name_of, rollout
from concept_cam.metrics import pointing_hit


@pytest.fixture(scope="module")
def guide():
    return world.localizer()


@pytest.fixture(scope="module")
def plate():
    return world.draw_species("ember finch", seed=3)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_one_call_is_the_stages_in_order():
    backbone = zoo.backbone("class token")
    localizer = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}", "the {}"], method=grad_cam)
    image = noise(50, 70)
    result = localizer(image, "red crown", nearest(2), strength=0.8)

    bank = embed(backbone, zoo.WORDS, ["a {}", "the {}"])
    frame = Frame.of(read_image(image), backbone.preprocess)
    seen = trace(backbone, frame.pixels[None].double())
    comparison = compare(bank, "red crown", nearest(2), seen.embedding[0] @ bank.vectors.T, 0.8)
    directions = torch.stack([bank.vectors[:1], comparison.direction(bank)[None]])
    base, finer = grad_cam(seen.gradient(directions))[:, 0].float()
    assert torch.equal(result.map, finer)
    assert torch.equal(result.base_map, base)
    assert result.comparison == comparison
    score = F.cosine_similarity(backbone.embed_pixels(frame.pixels[None].double())[0], bank.vectors[0], dim=0)
    assert result.scores["red crown"] == pytest.approx(score.item(), abs=1e-12)
    assert set(result.scores) == {"red crown", *comparison.references}
    assert result.provenance["site"] == "visual.transformer.resblocks.1.ln_1"
    assert result.provenance["method"] == "grad_cam"
    assert result.provenance["gradient"] == "factored"
    assert result.provenance["templates"] == ["a {}", "the {}"]


def test_strength_zero_is_the_base_map_bit_for_bit():
    localizer = Localizer(zoo.backbone("class token"), vocabulary=zoo.WORDS, templates=["a {}"])
    result = localizer(noise(40, 40), "red crown", strength=0.0)
    assert torch.equal(result.map, result.base_map)
    with_references = localizer(noise(40, 40), "red crown", nearest(2), strength=0.0)
    assert torch.equal(with_references.map, result.map)
    assert with_references.comparison.references


def test_batch_equals_singles_and_rivals_are_of_each_image(guide):
    names = ("ember finch", "royal jay", "misty heron", "sky falcon")
    images = [world.draw_species(name, seed=i).image for i, name in enumerate(names)]
    with warnings.catch_warnings():
        # The twin on another bird's image is no relative of the target; that is beside the point here.
        warnings.simplefilter("ignore", UserWarning)
        together = guide.batch(images, "frost finch", rivals(1))
        singles = [guide(image, "frost finch", rivals(1)) for image in images]
    for name, alone, result in zip(names, singles, together, strict=True):
        assert result.comparison.references == (name,)
        assert alone.comparison.references == (name,)
        torch.testing.assert_close(alone.map, result.map, rtol=1e-3, atol=1e-5)


def spot_model() -> Localizer:
    """A head set by hand: the only token that speaks for "red crown" is that of a patch brighter than the rest.

    The patch embedding writes the brightness of a patch into one channel and nothing else; positions, norms before the last
    block and the first block are silenced; the class token attends evenly. What is left is a plain sum over patches.
    """
    model = zoo.tiny_clip(head_width=32, layers=1, no_ln_pre=True)
    visual = model.visual
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.zero_()
        visual.conv1.weight[0] = 1 / (3 * 8 * 8)
        block = visual.transformer.resblocks[0]
        # A norm would hide the brightness of a token with one channel; two fixed ones give it something to stand against.
        visual.class_embedding[:] = 0
        visual.positional_embedding[:, 1], visual.positional_embedding[:, 2] = 4.0, -4.0
        block.ln_1.weight.fill_(1)
        block.attn.in_proj_weight[64, 0] = 1
        block.attn.out_proj.weight[3, 0] = 1
        block.attn.out_proj.bias[4] = 1
        visual.ln_post.weight.fill_(1)
        visual.proj[3, 0] = 1
        visual.proj[4, 1] = 1
    localizer = Localizer(wrap(model, zoo.TOKENIZER, name="spot"), templates=["a {}"], method=hires_cam)
    bank = localizer.bank(["red crown", "bird"])
    bank.vectors.copy_(torch.eye(24, dtype=torch.float64)[:2])
    localizer.bank_around = lambda others: bank
    return localizer


@pytest.mark.parametrize("form", ["auto", "dense"])
@pytest.mark.parametrize(("row", "col"), cases([(0, 0), (1, 3), (2, 1), (2, 4)], (0, 0), (2, 4)))
@pytest.mark.parametrize("size", [(24, 40), (240, 400), (300, 400), (240, 640)], ids=["own", "large", "tall", "wide"])
def test_a_bright_square_comes_out_where_it_was_put(form, row, col, size):
    localizer = spot_model()
    localizer.form = form
    height, width = size
    # The window that the model's centre crop will show, and the square's patch in it.
    scale = max(24 / height, 40 / width)
    left, top = (width - 40 / scale) / 2, (height - 24 / scale) / 2
    side = 8 / scale
    x, y = left + (col + 0.5) * side, top + (row + 0.5) * side
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    reach = side / 2 - 1
    pixels[round(y - reach) : round(y + reach), round(x - reach) : round(x + reach)] = 250
    result = localizer(Image.fromarray(pixels), "red crown", "bird", strength=0.0)
    assert divmod(int(result.map.argmax()), 5) == (row, col)
    assert result.peak() == pytest.approx((x, y), abs=1.0)
    heatmap = result.heatmap().nan_to_num(nan=-1e9)
    hottest = divmod(int(heatmap.argmax()), width)
    assert abs(hottest[0] + 0.5 - y) <= side / 2 + 1
    assert abs(hottest[1] + 0.5 - x) <= side / 2 + 1
    (box, *_) = result.boxes(0.9)
    assert box[0] <= x <= box[2]
    assert box[1] <= y <= box[3]


def test_on_the_field_guide_the_differing_part_is_hot(guide, plate):
    result = guide(plate.image, "ember finch", "frost finch")
    crown = plate.mask("crown")
    assert pointing_hit(torch.tensor(result.peak()), torch.from_numpy(crown), tolerance=32)
    heat = result.heatmap().clamp(min=0).numpy()
    base = result.heatmap(base=True).clamp(min=0).numpy()
    assert heat[crown].sum() / heat.sum() > base[crown].sum() / base.sum()
    assert result.scores["ember finch"] > result.scores["frost finch"]


def test_an_attribute_against_its_parent_word(guide, plate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = guide(plate.image, "red crown", "bird")
    assert pointing_hit(torch.tensor(result.peak()), torch.from_numpy(plate.mask("crown")), tolerance=32)


def test_names_without_a_vocabulary_need_no_bank_of_others(plate):
    localizer = Localizer(world.localizer().backbone, templates="world")
    assert localizer(plate.image, "ember finch", ["frost finch"]).comparison.references == ("frost finch",)
    with pytest.raises(ComparisonError, match="No references"):
        localizer(plate.image, "ember finch")


def test_the_bank_follows_the_model_the_templates_and_the_callers_autocast():
    model = zoo.tiny_clip().float()
    localizer = Localizer(wrap(model, zoo.TOKENIZER), templates=["a {}"])
    first = localizer.bank(zoo.WORDS).vectors
    assert torch.equal(localizer.bank(zoo.WORDS).vectors, first)
    with torch.autocast("cpu", torch.bfloat16):
        rough = localizer.bank(zoo.WORDS).vectors
    assert not torch.equal(rough, first)
    assert torch.equal(localizer.bank(zoo.WORDS).vectors, first)
    localizer.templates = ("the {}",)
    assert not torch.allclose(localizer.bank(zoo.WORDS).vectors, first)
    localizer.templates = ("a {}",)
    with torch.no_grad():
        model.text_projection.add_(0.5)
    assert not torch.allclose(localizer.bank(zoo.WORDS).vectors, first)


def test_two_names_with_one_embedding_are_refused_under_autocast_too(guide, plate):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ComparisonError, match="cannot tell"):
        guide(plate.image, "ember finch", "Ember Finch")


def test_a_localizer_built_in_inference_mode_works():
    with torch.inference_mode():
        localizer = world.localizer()
        result = localizer(world.draw_species("royal jay").image, "royal jay", "sunset jay")
    assert not result.map.is_inference()
    assert localizer(world.draw_species("royal jay").image, "royal jay", "sunset jay").map.equal(result.map)


def test_blank_and_broken_maps_are_never_returned(plate):
    blank, broken = zoo.tiny_clip(), zoo.tiny_clip()
    with torch.no_grad():
        blank.visual.transformer.resblocks[-1].attn.out_proj.weight.zero_()
        broken.visual.proj[0, 0] = float("nan")
    with pytest.warns(UserWarning, match="No patch token at .*ln_1 reaches the embedding"):
        wrapped = wrap(blank, zoo.TOKENIZER)
    with pytest.warns(UserWarning, match="its embedding is off by nan"):
        torn = wrap(broken, zoo.TOKENIZER)
    for form in ("factored", "dense"):
        localizer = Localizer(wrapped, templates=["a {}"], form=form)
        with pytest.raises(NoSpatialGradient, match="blank"):
            localizer(plate.image, "red crown", "bird")
        localizer = Localizer(torn, templates=["a {}"], form=form)
        with pytest.raises(BackboneError, match="not finite"):
            localizer(plate.image, "red crown", "bird")


def test_selectors_carry_their_names_and_vocabularies_their_file(guide, plate):
    bare = Localizer(guide.backbone, templates="world")
    assert bare(plate.image, "ember finch", against("frost finch")).comparison.references == ("frost finch",)
    assert Localizer(guide.backbone, vocabulary="world-species").vocabulary == tuple(world.species())
    assert bare.batch([], "ember finch", "frost finch") == []


def test_clear_errors(guide, plate, tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        guide(tmp_path / "none.png", "ember finch")
    with pytest.raises(ComparisonError, match="among its own references"):
        guide(plate.image, "ember finch", ["ember finch", "frost finch"])
    with pytest.raises(ComparisonError, match="cannot tell 'ember finch' from 'Ember Finch'"):
        guide(plate.image, "ember finch", "Ember Finch")
    with pytest.raises(BackboneError, match="no site"):
        Localizer(guide.backbone, site="nowhere")
    with pytest.raises(PromptError, match="Put it in a list"):
        embed(guide.backbone, "red crown", ["a {}"])
    for nothing in ("???", "red ..."):
        with pytest.raises(UnknownWord, match=r"has never seen the word '[?.]{3}'"):
            guide(plate.image, nothing, "frost finch")


def test_the_same_image_upright_or_by_its_orientation_tag(guide, plate, tmp_path):
    straight = guide(plate.image, "ember finch", "frost finch")
    turned = plate.image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    tagged = guide(tmp_path / "turned.png", "ember finch", "frost finch")
    torch.testing.assert_close(tagged.map, straight.map, rtol=1e-4, atol=1e-7)
    assert tagged.peak() == straight.peak()


def test_padding_that_a_model_was_not_trained_with_has_its_mean_colour(guide, plate):
    localizer = Localizer(guide.backbone, fit="pad")
    assert localizer.preprocess.fill == 128
    wide = Image.new("RGB", (400, 100), "white")
    pixels = Frame.of(wide, localizer.preprocess).pixels
    assert pixels[:, 0].abs().max() < 0.01
    assert Localizer(guide.backbone, fit="crop").preprocess == guide.backbone.preprocess


# ---- many images ----------------------------------------------------------------------------------------------------

PAIR = ("ember finch", "frost finch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven plates of several sizes as JPEG files, and one that is none."""
    folder = tmp_path_factory.mktemp("plates")
    for seed in range(11):
        image = world.draw_species(PAIR[0], seed).image
        image.resize((384, 200 + 20 * seed)).save(folder / f"{seed:02}.jpg", quality=90)
    (folder / "04-broken.jpg").write_bytes(b"no image")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fit", by_default(["crop", "native"], "crop"))
def test_a_stream_in_threads_is_the_serial_run_in_order(folder, fit):
    localizer = world.localizer(fit=fit)
    good = [path for path in folder if "broken" not in path.name]
    failed = []
    found = list(localizer.stream(iter(folder), *PAIR, batch_size=3, workers=3, on_error=lambda *given: failed.append(given)))
    assert [path for path, _ in found] == good
    ((path, error),) = failed
    assert path.name == "04-broken.jpg"
    assert isinstance(error, ImageError)
    for path, result in found:
        alone = localizer(path, *PAIR)
        torch.testing.assert_close(result.map, alone.map, rtol=1e-3, atol=1e-5)
        assert result.placement == alone.placement
        assert result.scores == pytest.approx(alone.scores, abs=1e-5)


def test_a_stream_raises_where_nobody_listens(guide, folder):
    stream = guide.stream(folder, *PAIR, batch_size=2)
    assert [next(stream)[0].name for _ in range(4)] == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    with pytest.raises(ImageError, match=r"04-broken\.jpg"):
        next(stream)
    assert not _threads()


def _threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("concept-cam")]


def test_a_stream_reads_no_further_than_two_batches_ahead(guide, plate):
    taken = []

    def images():
        for number in range(1000):
            taken.append(number)
            yield plate.image

    stream = guide.stream(images(), *PAIR, batch_size=2, workers=2)
    for _ in range(5):
        next(stream)
    assert len(taken) <= 5 + 3 * 2 + 1
    stream.close()
    assert not _threads()


def test_a_stream_that_is_interrupted_leaves_no_thread(guide, plate, monkeypatch):
    stream = guide.stream([plate.image] * 50, *PAIR, batch_size=2)
    next(stream), next(stream)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(guide, "passes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert not _threads()


def test_a_stream_embeds_its_bank_once_and_runs_the_model_once_a_batch(plate, monkeypatch):
    localizer = world.localizer()
    localizer(plate.image, *PAIR)
    texts, passes = [], []
    monkeypatch.setattr(type(localizer.backbone), "embed_texts", lambda *given: texts.append(given))
    embed_pixels = type(localizer.backbone).embed_pixels
    monkeypatch.setattr(
        type(localizer.backbone), "embed_pixels", lambda own, pixels: passes.append(len(pixels)) or embed_pixels(own, pixels)
    )
    assert len(list(localizer.stream([plate.image] * 7, *PAIR, batch_size=3))) == 7
    assert passes == [3, 3, 1]
    assert not texts


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": 0}])
def test_a_stream_of_nothing_at_once_is_refused(guide, wrong):
    with pytest.raises(OptionError, match="expected at least 1 of each"):
        next(guide.stream([], *PAIR, **wrong))


@pytest.mark.parametrize("method", by_default([hires_cam, layer_cam, gem], layer_cam), ids=name_of)
def test_a_sweep_is_one_call_for_each_strength_and_one_pass(plate, method):
    guide = world.localizer(method=method)
    strengths = (0.0, 0.6, 2.0)
    singly = [guide(plate.image, *PAIR, strength=strength) for strength in strengths]
    passes = []
    handle = guide.backbone.module.visual.conv1.register_forward_hook(lambda *_: passes.append(1))
    guide.sweep(plate.image, *PAIR)  # The closed form is tried anew: a hook is a change.
    passes.clear()
    swept = guide.sweep(plate.image, *PAIR, strengths=strengths)
    handle.remove()
    assert len(passes) == (2 if method is gem else 1)
    for one, other in zip(swept, singly, strict=True):
        torch.testing.assert_close(one.map, other.map, rtol=1e-4, atol=1e-6)
        assert (one.comparison, one.scores) == (other.comparison, other.scores)
    assert torch.equal(swept[0].map, swept[0].base_map)
    with pytest.raises(ComparisonError, match="-1"):
        guide.sweep(plate.image, *PAIR, strengths=(0.5, -1.0))


def test_against_each_reference_alone(guide, plate):
    names = list(guide.bank(world.species()).neighbours(PAIR[0], 3))
    results = guide.against_each(plate.image, PAIR[0], names)
    assert [result.comparison.references for result in results] == [(name,) for name in names]
    for result, name in zip(results, names, strict=True):
        alone = guide(plate.image, PAIR[0], name, strength=1.0)
        torch.testing.assert_close(result.map, alone.map, rtol=1e-4, atol=1e-6)
        assert result.comparison == alone.comparison
    assert [result.comparison for result in guide.against_each(plate.image, PAIR[0])] == [r.comparison for r in results]


def test_what_does_not_see_the_score_has_no_sweep(plate):
    blind = world.localizer(method=rollout)
    for call in (blind.sweep, blind.against_each):
        with pytest.raises(OptionError, match="does not look at the score"):
            call(plate.image, *PAIR)


# ---- what is wrong with one image -------------------------------------------------------------------------------------


@pytest.fixture
def blank_where_white(monkeypatch):
    """The model says nothing of a white image, whatever stands beside it in a batch."""
    guide, real = world.localizer(), passes.explain
    white = Image.new("RGB", (160, 160), "white")
    (seen,) = guide.passes([guide.frame(white)])
    embedding = seen.embedding[0]

    def explain(method, seen, directions):
        maps = real(method, seen, directions)
        same = torch.tensor([torch.allclose(row, embedding, atol=1e-5) for row in seen.embedding])
        return maps.masked_fill(same[None, :, None, None], 0.0)

    monkeypatch.setattr(passes, "explain", explain)
    return guide, white


def test_a_blank_map_is_the_problem_of_its_own_image(blank_where_white, plate, tmp_path):
    guide, white = blank_where_white
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for path in paths:
        (white if path.stem in "25" else plate.image).save(path)
    told = []
    found = list(guide.stream(paths, *PAIR, batch_size=4, on_error=lambda *given: told.append(given)))
    assert [path.stem for path, _ in found] == ["0", "1", "3", "4"]
    assert [(path, type(error)) for path, error in told] == [(paths[2], NoSpatialGradient), (paths[5], NoSpatialGradient)]
    assert str(told[0][1]).startswith(f"{paths[2]}: No patch at ")
    alone = guide(plate.image, *PAIR)
    for _, result in found:
        torch.testing.assert_close(result.map, alone.map, rtol=1e-3, atol=1e-5)
    stream = guide.stream(paths, *PAIR, batch_size=4)
    assert [next(stream)[0] for _ in range(2)] == paths[:2]
    with pytest.raises(NoSpatialGradient, match=r"2\.png: No patch at .* the map is blank"):
        next(stream)


def test_a_batch_says_which_image_is_blank_and_a_single_image_raises(blank_where_white, plate):
    guide, white = blank_where_white
    with pytest.raises(NoSpatialGradient, match=r"^image 2 of 3: No patch at"):
        guide.batch([plate.image, white, white], *PAIR)
    with pytest.raises(NoSpatialGradient, match=r"^No patch at"):
        guide(white, *PAIR)
    assert len(guide.batch([plate.image] * 3, *PAIR)) == 3


@pytest.mark.parametrize(
    ("question", "kind", "message"),
    [
        (("ember finch", "ember finch"), ComparisonError, "among its own references"),
        (("ember finch", "Ember Finch"), ComparisonError, "cannot tell"),
        (("ember dog", "frost finch"), UnknownWord, "never seen the word 'dog'"),
        (("ember finch", "frost dog"), UnknownWord, "never seen the word 'dog'"),
        ((None, "frost dog"), UnknownWord, "never seen the word 'dog'"),
        ((999, "frost finch"), OptionError, "target is 999"),
    ],
)
def test_what_is_wrong_with_the_question_is_no_images_problem(guide, question, kind, message):
    """It is raised once, before an image is taken, though somebody listens; a batch does not blame an image."""
    stream = guide.stream(iter(pytest.fail, None), *question, on_error=pytest.fail)
    with pytest.raises(kind, match=message):
        next(stream)
    white = Image.new("RGB", (96, 96), "white")
    with pytest.raises(kind, match=message) as raised:
        guide.batch([white, white], *question)
    assert "image 1" not in str(raised.value)


def test_a_question_that_has_no_references_is_told_at_once(plate):
    bare = Localizer(world.localizer().backbone, templates="world", vocabulary=["ember finch"])
    for selector in (None, nearest(2), rivals(2)):
        with pytest.raises(ComparisonError, match="No references"):
            next(bare.stream(iter(pytest.fail, None), "ember finch", selector, on_error=pytest.fail))


@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_targets_of_their_own_are_problems_of_their_own(guide, plate):
    """Of a predicted class too: where it is the reference, there is no comparison."""
    jay = world.draw_species("royal jay").image
    told = []
    given = [plate.image, jay, plate.image]
    found = list(guide.stream(given, None, "royal jay", on_error=lambda *pair: told.append(pair)))
    assert [image for image, _ in found] == [plate.image, plate.image]
    ((image, error),) = told
    assert image is jay
    assert "'royal jay' is among its own references" in str(error)
    told.clear()
    words = ["ember finch", "green unicorn", "ember finch"]
    assert len(list(guide.stream(given, words, "frost finch", on_error=lambda *pair: told.append(pair)))) == 2
    assert "unicorn" in str(told[0][1])

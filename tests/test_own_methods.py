"""A method by its name, a method of one's own, and what is none: refused in a sentence before it can draw a wrong map."""

from __future__ import annotations

import functools
import gc
import pickle
import re
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import zoo
from PIL import Image

from concept_cam import ConceptField, Localizer, trace, world
from concept_cam.errors import ConceptCamError, OptionError
from concept_cam.evaluation import Settings
from concept_cam.methods import (
    METHODS,
    FieldMethod,
    TraceMethod,
    as_method,
    at_scales,
    at_sites,
    depth_of,
    explain,
    field_vectors,
    grad_cam,
    hires_cam,
    is_linear,
    last_blocks,
    maskclip,
    method_named,
    mirrored,
    name_of,
    rollout,
    sees_score,
    smoothed,
)

NO_NUMBERS = ("", "0", "-1", "1.5", "04", "four", "4 ", "\u0664", "10000", "9" * 5000, "4:4")

pytestmark = pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")


@pytest.fixture(scope="module")
def backbone():
    return zoo.backbone("class token")


@pytest.fixture(scope="module")
def seen(backbone):
    return trace(backbone, zoo.pixels(backbone, 2))


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))


# ---- by name ----------------------------------------------------------------------------------------------------------


def test_a_name_is_a_method_wherever_a_method_is(backbone, seen):
    directions = zoo.directions(backbone, 2)
    assert Localizer(backbone, method="grad_cam").method is grad_cam
    assert world.localizer(method="legrad").method is METHODS["legrad"]
    assert torch.equal(explain("grad_cam", seen, directions), explain(grad_cam, seen, directions))
    assert torch.equal(field_vectors("maskclip", seen), field_vectors(maskclip, seen))
    for field, own in zip(ConceptField.of(seen, "grad_cam"), ConceptField.of(seen, grad_cam), strict=True):
        assert torch.equal(field.vectors, own.vectors)
    assert (is_linear("grad_cam"), is_linear("layer_cam")) == (True, False)
    assert (sees_score("grad_cam"), sees_score("rollout")) == (True, False)
    for average in (mirrored, functools.partial(smoothed, count=2), at_scales):
        ours, own = average("layer_cam"), average(METHODS["layer_cam"])
        assert torch.equal(explain(ours, seen, directions), explain(own, seen, directions))
    sites = [site.name for site in backbone.sites]
    ours, own = at_sites("grad_cam", sites), at_sites(grad_cam, sites)
    assert torch.equal(explain(ours, seen, directions), explain(own, seen, directions))


def test_a_name_that_is_set_afterwards_is_understood(backbone):
    localizer = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}"])
    localizer.method = "layer_cam"
    own = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}"], method="layer_cam")
    ours = localizer(IMAGE, "bird")
    assert torch.equal(ours.map, own(IMAGE, "bird").map)
    assert ours.provenance["method"] == "layer_cam"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("grad-cam", "grad_cam"),
        ("GradCAM", "grad_cam"),
        ("Grad-CAM++", "grad_cam_plus_plus"),
        ("hirescam", "hires_cam"),
        ("LeGrad", "legrad"),
        ("layer cam", "layer_cam"),
        ("occlusions", "occlusion"),
    ],
)
def test_a_name_that_is_none_suggests_the_nearest(backbone, name, meant):
    for asked in (lambda: Localizer(backbone, method=name), lambda: mirrored(name), lambda: is_linear(name)):
        with pytest.raises(OptionError, match=rf"No method '{re.escape(name)}'\. Did you mean '{meant}'"):
            asked()


def test_a_name_with_a_number_reads_so_many_of_the_last_blocks():
    two, own = method_named("direct:2"), last_blocks("direct", 2)
    assert (depth_of(two), depth_of(own)) == (2, 2)
    assert name_of(two) == name_of(own) == name_of("direct:2") == "direct:2"
    assert name_of(pickle.loads(pickle.dumps(two.vectors))) == "direct:2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((f"class_stream:{number}", ": the number of blocks is a whole number from 1 to 9999") for number in NO_NUMBERS),
        ("hires_cam:4", "hires_cam cannot be told how many blocks to read; leave out ':4', or use class_stream or direct."),
        ("rollout:", "rollout cannot be told how many blocks to read"),
        ("class_strem:4", "No method 'class_strem:4'. Did you mean 'class_stream'"),
        (":4", "No method ':4'"),
    ],
)
def test_a_number_of_blocks_that_is_none_is_refused(name, message):
    for asked in (method_named, depth_of, lambda one: Settings((one,))):
        with pytest.raises(OptionError) as error:
            asked(name)
        told = str(error.value)
        assert message.replace(repr(name), name) in told.replace(repr(name), name)
        assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "3 is not a method"),
        (True, "True is not a method"),
        (["grad_cam"], "is not a method"),
        (torch.zeros(3), "is not a method"),
        (FieldMethod, "the class FieldMethod is not a method"),
        (torch.nn.Linear, "the class Linear is not a method"),
        (at_sites, "at_sites is not a method .*missing a required argument: 'names'"),
        (lambda: None, "is not a method .*too many positional arguments"),
        (explain, "explain is not a method"),
    ],
)
def test_what_is_no_method_is_refused_at_construction(backbone, seen, given, message):
    for asked in (
        lambda: Localizer(backbone, method=given),
        lambda: world.localizer(method=3 if given is None else given),
        lambda: explain(given, seen, zoo.directions(backbone, 1)),
        lambda: ConceptField.of(seen, given),
    ):
        with pytest.raises(OptionError, match="is not a method"):
            asked()
    with pytest.raises(OptionError, match=message):
        as_method(given)


# ---- what a method gives ----------------------------------------------------------------------------------------------

SHAPE = r"expected a tensor of floating-point numbers of shape \(2, 2, 3, 5\), \(K B rows cols\)"

WRONG = {
    "no batch axis": lambda gradient: grad_cam(gradient)[:, 0],
    "no directions": lambda gradient: grad_cam(gradient)[0],
    "transposed": lambda gradient: grad_cam(gradient).transpose(2, 3),
    "flat": lambda gradient: grad_cam(gradient).flatten(2),
    "batch before directions": lambda gradient: torch.cat([grad_cam(gradient)] * 2).transpose(0, 1),
    "one direction": lambda gradient: grad_cam(gradient)[:1],
    "mean of directions": lambda gradient: grad_cam(gradient).mean(0, keepdim=True),
    "a row less": lambda gradient: grad_cam(gradient)[:, :, 1:],
    "an axis more": lambda gradient: grad_cam(gradient)[..., None],
    "a number": lambda gradient: grad_cam(gradient).sum(),
    "numpy": lambda gradient: grad_cam(gradient).numpy(),
    "a list": lambda gradient: grad_cam(gradient).tolist(),
    "nothing": lambda gradient: None,
    "a pair": lambda gradient: (grad_cam(gradient), 1),
    "integers": lambda gradient: grad_cam(gradient).long(),
    "yes and no": lambda gradient: grad_cam(gradient) > 0,
    "complex": lambda gradient: grad_cam(gradient) + 0j,
    "a method": lambda gradient: METHODS["legrad"],
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("form", ["auto", "dense"])
def test_what_is_no_map_is_refused(backbone, case, form):
    def crooked_cam(gradient):
        return WRONG[case](gradient)

    pixels = zoo.pixels(backbone, 2)
    with pytest.raises(OptionError, match=f"The method crooked_cam gave .*{SHAPE}"):
        explain(crooked_cam, trace(backbone, pixels, form=form), zoo.directions(backbone, 2))
    localizer = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}"], method=crooked_cam, form=form)
    for ask in (localizer.batch, localizer.fields):
        with pytest.raises(OptionError, match="The method crooked_cam gave"):
            ask([IMAGE, IMAGE, IMAGE])
    with pytest.raises(OptionError, match="The method crooked_cam gave"):
        is_linear(crooked_cam)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda maps: maps[:, 0],
        lambda maps: maps.transpose(0, 1)[:1],
        lambda maps: maps.unflatten(2, (5, 3)),
        lambda maps: maps.unflatten(2, (5, 3)).transpose(2, 3).flatten(2)[..., 1:],
        lambda maps: maps.numpy(),
        lambda maps: None,
        lambda maps: maps.long(),
    ],
)
def test_of_a_method_that_asks_for_more(backbone, seen, wrong):
    def crooked_maps(trace, directions):
        return wrong(explain(grad_cam, trace, directions).flatten(2))

    with pytest.raises(OptionError, match=r"The method crooked_maps gave .* of shape \(3, 2, 15\), \(K B N\)"):
        explain(TraceMethod(crooked_maps), seen, zoo.directions(backbone, 3))


@pytest.mark.parametrize(
    "wrong",
    [lambda v: v[0], lambda v: v.transpose(0, 1), lambda v: v[..., :-1], lambda v: v.unflatten(1, (5, 3)), lambda v: 0],
)
def test_of_vectors(backbone, seen, wrong):
    def crooked_cam(trace):
        return wrong(field_vectors(maskclip, trace))

    shape = r"of shape \(2, 15, 24\), \(B N E\)"
    for ask in (
        lambda: explain(FieldMethod(crooked_cam), seen, zoo.directions(backbone, 3)),
        lambda: field_vectors(FieldMethod(crooked_cam), seen),
        lambda: ConceptField.of(seen, FieldMethod(crooked_cam)),
        lambda: explain(mirrored(FieldMethod(crooked_cam)), seen, zoo.directions(backbone, 3)),
    ):
        with pytest.raises(OptionError, match=f"The method crooked_cam gave .*{shape}"):
            ask()


def test_a_method_with_a_graph_of_its_own_gives_a_map_without(backbone):
    weights = torch.nn.Parameter(torch.ones(32, dtype=torch.float64))

    def weighted_cam(gradient):
        with torch.enable_grad():
            return (gradient.mean()[:, :, None] * gradient.tokens * weights).sum(-1).unflatten(2, (3, 5))

    result = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}"], method=weighted_cam)(IMAGE, "bird")
    own = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}"], method=grad_cam)(IMAGE, "bird")
    assert not result.map.requires_grad
    torch.testing.assert_close(result.map, own.map)


def test_directions_must_not_be_mixed(backbone, seen):
    """Linear alone, but a map would depend on what else is asked for: there is no field of that."""

    def mixing(gradient):
        maps = grad_cam(gradient)
        return maps - maps.mean(0, keepdim=True) if len(maps) > 1 else maps

    assert not is_linear(mixing)
    with pytest.raises(OptionError, match="not linear"):
        ConceptField.of(seen, mixing)


# ---- what is kept -----------------------------------------------------------------------------------------------------


@dataclass
class Scaled:
    """Unhashable, as mutable things with an equality are; linear or not by an attribute."""

    power: int = 1

    def __call__(self, gradient):
        return hires_cam(gradient) ** self.power


def test_whether_a_method_is_linear_is_found_anew():
    method = Scaled()
    assert is_linear(method)
    method.power = 2
    assert not is_linear(method)
    assert is_linear(functools.partial(hires_cam))
    assert not is_linear(Scaled(2).__call__)


def test_nothing_keeps_a_method_alive(backbone):
    def of_mine(gradient):
        return hires_cam(gradient)

    big = torch.zeros(10)
    of_mine.memory = big
    localizer = Localizer(backbone, vocabulary=zoo.WORDS, templates=["a {}"], method=of_mine)
    localizer.fields([IMAGE])
    localizer(IMAGE, "bird")
    assert is_linear(of_mine)
    watched = weakref.ref(of_mine)
    del of_mine, localizer
    gc.collect()
    assert watched() is None


def test_the_trial_leaves_the_callers_defaults_and_random_numbers_alone():
    before = torch.get_rng_state()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            assert is_linear(hires_cam)
    finally:
        torch.set_default_dtype(default)
    assert torch.equal(before, torch.get_rng_state())


def test_errors_are_of_the_family():
    assert issubclass(OptionError, ConceptCamError)
    assert sees_score(rollout) is False

"""CHECK: a model tried on itself. A little at load, all of it by ``concept-cam check``; nothing is taken on trust."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from concept_cam.backbones.backbone import Backbone, noise
from concept_cam.backbones.site import Site
from concept_cam.backbones.snapshot import checksum
from concept_cam.backbones.weights import ADVICE, first_run
from concept_cam.errors import ConceptCamError, NoSpatialGradient
from concept_cam.gradients import has_exact_head, has_stream
from concept_cam.gradients.exactness import try_head
from concept_cam.gradients.tolerance import relative_error, tolerance
from concept_cam.hooks import on_output
from concept_cam.passes import Pass

B = TypeVar("B", bound=Backbone)


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        check: what was tried.
        passed: whether it is as it should be.
        finding: what was seen.
    """

    check: str
    passed: bool
    finding: str


def check_at_load(backbone: B) -> B:
    """Try the default site: its closed form, and whether it carries a gradient.

    Warns:
        UserWarning: the closed form is not that of the model, so that gradients come from autograd; or no patch at the site
            reaches the embedding.
    """
    site = backbone.sites[0]
    with first_run(backbone.name, backbone.preprocess.size, ADVICE):
        if site.head is not None:
            has_exact_head(backbone, site)
            has_stream(backbone)
            return backbone
        verdict = _gradient(backbone, site)
    if not verdict.passed:
        warnings.warn(f"{backbone.name}: {verdict.finding}", stacklevel=3)
    return backbone


def check(backbone: Backbone) -> Iterator[Verdict]:
    """Try all that this library promises of a model on that model, one verdict after the other.

    Example:
        >>> from concept_cam import checks, world
        >>> all(verdict.passed for verdict in checks.check(world.localizer().backbone))
        True
    """
    backbone.refresh()
    yield _caught("embedding", partial(_embedding, backbone))
    for site in backbone.sites:
        yield _caught(f"gradient at {site.name}", partial(_gradient, backbone, site))
        if site.head is not None:
            yield _caught(f"closed form at {site.name}", partial(_closed_form, backbone, site))
    yield _caught("batch of three", partial(_batch, backbone))
    yield _caught("concepts", partial(_concepts, backbone))
    yield from _sizes(backbone)
    yield from _no_trace(backbone)


def _caught(check: str, run: Callable[[], Verdict]) -> Verdict:
    """A check that breaks has failed; the ones after it are still of use."""
    try:
        with warnings.catch_warnings():
            # A closed form that does not fit has a line of its own.
            warnings.simplefilter("ignore", UserWarning)
            return run()
    except (ConceptCamError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        return Verdict(check, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _directions(embedding: Tensor, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, embedding.shape[-1], generator=generator, dtype=torch.float32, device="cpu").to(embedding)


def _embedding(backbone: Backbone) -> Verdict:
    pixels = noise(backbone)
    with backbone.evaluating():
        own, again = (backbone.normalize(backbone.embed_pixels(pixels)) for _ in range(2))
        # A hook that only looks: the model runs as it does without us.
        with on_output(backbone.sites[0].module, lambda *_: None):
            watched = backbone.normalize(backbone.embed_pixels(pixels))
    cut = relative_error(Pass.of(backbone, pixels, form="dense").embedding, own)
    if not torch.equal(own, again):
        return Verdict(
            "embedding", False, f"two runs on one image are off by {relative_error(again, own):.1e}: the model is random"
        )
    same = torch.equal(own, watched) and cut <= tolerance(backbone.dtype).rerun
    return Verdict("embedding", same, f"bit-equal with a site watched; off by {cut:.1e} with a graph from it")


def _gradient(backbone: Backbone, site: Site) -> Verdict:
    name = f"gradient at {site.name}"
    seen = Pass.of(backbone, noise(backbone), site.name, "dense").trace
    try:
        (whole,) = seen.gradient(_directions(seen.embedding)).dense()
    except NoSpatialGradient as error:
        return Verdict(name, False, str(error))
    finite = bool(whole.isfinite().all())
    return Verdict(name, finite, f"{seen.layout.rows} x {seen.layout.cols} patches, largest {whole.abs().max():.1e}")


def _closed_form(backbone: Backbone, site: Site) -> Verdict:
    found = try_head(backbone, site)
    return Verdict(f"closed form at {site.name}", found.exact, found.finding)


def _batch(backbone: Backbone) -> Verdict:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(3, 3, *backbone.preprocess.size, generator=generator, dtype=torch.float32, device="cpu").to(
        backbone.device, backbone.dtype
    )
    together = Pass.of(backbone, pixels).trace
    directions = _directions(together.embedding)
    maps = together.gradient(directions).dot_tokens()[0]
    singles = [Pass.of(backbone, one[None]).trace.gradient(directions).dot_tokens()[0, 0] for one in pixels]
    off = max(relative_error(one, row) for one, row in zip(singles, maps, strict=True))
    return Verdict("batch of three", off <= tolerance(backbone.dtype).rerun, f"three singles are off by {off:.1e}")


def _concepts(backbone: Backbone) -> Verdict:
    names = backbone.classes[:2] or ("red", "blue")
    with backbone.evaluating():
        vectors = backbone.embed_concepts(names, ["{}"])
        width = backbone.embed_pixels(noise(backbone)).shape[-1]
    fits = vectors.shape[-1] == width and bool(vectors.isfinite().all()) and not torch.equal(*vectors)
    return Verdict("concepts", fits, f"{' and '.join(names)} are vectors of {vectors.shape[-1]}, the embedding has {width}")


def _sizes(backbone: Backbone) -> Iterator[Verdict]:
    height, width = backbone.preprocess.size
    step = backbone.preprocess.stride
    larger = max(1, round(1.5 * height / step)) * step, max(1, round(1.5 * width / step)) * step
    tall = max(2, round(height / step)) * step, max(3, round(1.5 * height / step)) * step
    for what, size in (("1.5 times the size", larger), ("an aspect of 2:3", tall)):
        yield _caught(f"{what}, {size[0]} x {size[1]}", partial(_size, backbone, what, size))


def _size(backbone: Backbone, what: str, size: tuple[int, int]) -> Verdict:
    seen = Pass.of(backbone, noise(backbone, size)).trace
    answers = seen.gradient(_directions(seen.embedding)).dot_tokens()
    good = bool(answers.isfinite().all() and answers.any())
    return Verdict(f"{what}, {size[0]} x {size[1]}", good, f"a map of {seen.layout.rows} x {seen.layout.cols}")


# ---- no trace ---------------------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """Stands for whatever may go wrong in the middle of a run."""


def _no_trace(backbone: Backbone) -> Iterator[Verdict]:
    # Here the library plays its caller.
    modes: dict[str, Callable[[], Any]] = {
        "plain": nullcontext,
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast(backbone.device.type, torch.bfloat16),
    }
    for name, mode in modes.items():
        for fails in (False, True):
            what = f"no trace, {name}, {'failing' if fails else 'success'}"
            yield _caught(what, partial(_left, backbone, what, mode, fails))


def _left(backbone: Backbone, what: str, mode: Callable[[], Any], fails: bool) -> Verdict:
    changed = []
    for form in ("auto", "dense"):
        with ExitStack() as stack:
            if fails:
                stack.enter_context(on_output(backbone.sites[0].module, _stop))
            before = fingerprint(backbone.module)
            with mode():
                try:
                    seen = Pass.of(backbone, noise(backbone), form=form).trace
                    seen.gradient(_directions(seen.embedding)).mean()
                except _Stopped:
                    pass
            after = fingerprint(backbone.module)
        changed += [key for key in before if before[key] != after[key]]
    finding = f"changed: {', '.join(changed)}" if changed else "hooks, flags, gradients, state, random numbers as before"
    return Verdict(what, not changed, finding)


def _stop(*_: Any) -> None:
    raise _Stopped


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a call could leave behind on a model and on torch."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules, tensors = dict(model.named_modules()), {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "hooks": {name: [dict(getattr(module, hook)) for hook in hooks] for name, module in modules.items()},
        "attributes": {name: set(vars(module)) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "grad": {name: None if p.grad is None else (id(p.grad), checksum([p.grad])) for name, p in model.named_parameters()},
        "state": {name: (id(tensor), tensor._version, checksum([tensor])) for name, tensor in tensors.items()},
        "rng": (torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state(legacy=False))),  # noqa: NPY002
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }

"""Tests whether a closed form gives the embedding and the gradient of the model itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from concept_cam.backbones.backbone import Backbone, noise
from concept_cam.backbones.site import Site
from concept_cam.errors import NoSpatialGradient
from concept_cam.gradients.dense import cut_at
from concept_cam.gradients.factored import read_output
from concept_cam.gradients.tolerance import relative_error, tolerance


@dataclass(frozen=True)
class Exactness:
    """The result of the test of a closed form.

    Attributes:
        exact: whether embedding and gradient are the model's own.
        finding: the relative errors, or why the test failed.
    """

    exact: bool
    finding: str


def try_head(backbone: Backbone, site: Site) -> Exactness:
    """Compare the closed form of a site with the model's own embedding, and with the gradient by autograd."""
    # In the model's own precision: what the caller's autocast rounds off says nothing about the formula.
    with backbone.evaluating(), torch.autocast(backbone.device.type, enabled=False):
        pixels = noise(backbone)
        own, entering = cut_at(backbone, pixels, site)
        try:
            ours = read_output(backbone, pixels, site, entering, own.leaf.detach())
            embedding = relative_error(ours.embedding, own.embedding)
            direction = torch.randn(
                own.embedding.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32, device="cpu"
            )[None].to(own.embedding)
            gradient = relative_error(ours.gradient(direction).mean(), own.gradient(direction).mean())
        except NoSpatialGradient as blind:
            return Exactness(False, str(blind))
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, AttributeError, TypeError, ValueError) as failure:
            return Exactness(False, f"it fails ({' '.join(str(failure).split())})")
    most = tolerance(backbone.dtype)
    return Exactness(
        embedding <= most.embedding and gradient <= most.gradient,
        f"its embedding is off by {embedding:.1e}, its gradient by {gradient:.1e}",
    )


def has_exact_head(backbone: Backbone, site: Site) -> bool:
    """Whether the closed form of a site is exact for the model; warns if it is not.

    Libraries and users change models. A closed form that no longer fits must cost speed, never a wrong map. Embedding and
    gradient are compared when the model is first used and when its structure has changed; the embedding is compared in every
    pass as well, see ``read_head``.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.gradients import has_exact_head
        >>> backbone = world.localizer().backbone
        >>> has_exact_head(backbone, backbone.sites[0])
        True
    """
    # The structure is that of the model at any size.
    backbone = backbone.original
    site = backbone.site(site.name)
    if site.head is None:
        return False
    if site.name not in backbone.guard.verdicts:
        verdict = try_head(backbone, site)
        backbone.guard.verdicts[site.name] = verdict.exact
        if not verdict.exact:
            warn_of_autograd(backbone, site, verdict.finding)
    return backbone.guard.verdicts[site.name]


def warn_of_autograd(backbone: Backbone, site: Site, finding: str) -> None:
    """Warn that the closed form is not used, and say why.

    Args:
        backbone: the model.
        site: of the closed form.
        finding: the reason.
    """
    warnings.warn(
        f"The closed form for {site.name} of {backbone.name} does not fit the model: {finding}. "
        "Gradients come from autograd instead, which is slower.",
        stacklevel=3,
    )

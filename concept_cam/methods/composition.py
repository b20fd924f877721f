"""Composition: averages of a method's signed maps over several views of an image, or over several sites.

Each function takes a method and returns a method. Unless it says otherwise, the result is linear, and has a field, if the
method is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from concept_cam.errors import OptionError
from concept_cam.gradients import Trace, at_site
from concept_cam.images import Size
from concept_cam.methods.method import (
    AnyMethod,
    FieldMethod,
    Method,
    TraceMethod,
    depth_of,
    explain,
    field_vectors,
    is_linear,
    name_of,
    sees_score,
)

View = tuple[Trace, Callable[[Float[Tensor, "*K rows cols"]], Float[Tensor, "*K rows2 cols2"]]]
"""A pass of the model, and the function that brings its maps back to the grid of the image."""


def mirrored(method: AnyMethod) -> Method:
    """Average a method over the image and its mirror image, at twice the passes.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.methods import hires_cam, mirrored
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> world.localizer(method=mirrored(hires_cam))(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """

    def views(seen: Trace) -> Iterator[View]:
        def back(maps: Tensor) -> Tensor:
            return seen.layout.mirrored().moved(maps.flip(-1), seen.layout)

        yield seen, _as_it_is
        yield seen.again(seen.pixels.flip(-1)), back

    return _averaged(method, "mirrored", views)


def smoothed(method: AnyMethod, count: int = 8, noise: float = 0.15, seed: int = 0) -> Method:
    """Average a method over noisy copies of the image, at ``count`` times the passes.

    Source: Smilkov et al., SmoothGrad (arXiv 1706.03825), applied to maps instead of pixel gradients.

    Args:
        method: the method to average.
        count: number of noisy copies.
        noise: standard deviation as a share of the range of the image's pixels; the paper finds 0.1 to 0.2 best.
        seed: of the noise, which is the same in each call.

    Raises:
        OptionError: there are no copies, or the noise is negative.

    Example:
        >>> from concept_cam.methods import hires_cam, is_linear, smoothed
        >>> is_linear(smoothed(hires_cam, count=4))
        True
    """
    if count < 1 or noise < 0:
        raise OptionError(f"count is {count} and noise {noise}; expected at least one copy, and noise of 0 or more.")

    def views(seen: Trace) -> Iterator[View]:
        generator = torch.Generator().manual_seed(seed)
        spread = (seen.pixels.amax((1, 2, 3), keepdim=True) - seen.pixels.amin((1, 2, 3), keepdim=True)) * noise
        # One noise for all images, so that a batch gives the maps of its single images.
        draws = (
            torch.randn(seen.pixels.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(seen.pixels)
            for _ in range(count)
        )
        return ((seen.again(seen.pixels + spread * draw), _as_it_is) for draw in draws)

    return _averaged(method, "smoothed", views)


def at_scales(method: AnyMethod, scales: Sequence[float] = (1.0, 1.5)) -> Method:
    """Average a method over input sizes, at one pass for each.

    Args:
        method: the method to average.
        scales: of the input, relative to its size; sides are rounded to whole patches.

    Raises:
        OptionError: there are no scales, or one is not above 0.
        BackboneError: the model does not take an input of that size (raised when the method runs).

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.methods import at_scales, hires_cam
        >>> plate = world.draw_species("ember finch")
        >>> world.localizer(method=at_scales(hires_cam, (1, 1.5)))(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    if not scales or min(scales) <= 0:
        raise OptionError(f"scales are {list(scales)}; expected one or more above 0.")

    def views(seen: Trace) -> Iterator[View]:
        return (_at_scale(seen, scale) for scale in scales)

    return _averaged(method, "scaled", views)


def at_sites(method: AnyMethod, names: Sequence[str]) -> Method:
    """Average a method over sites, at one pass for each.

    Each map is divided by its largest absolute value first, since the scale of gradients differs from site to site. So the
    result is not linear.

    Args:
        method: the method to average.
        names: names of sites, as in ``backbone.sites``.

    Raises:
        OptionError: there are no sites.
        BackboneError: the model has no such site (raised when the method runs).

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.methods import at_sites, hires_cam
        >>> localizer = world.localizer()
        >>> names = [site.name for site in localizer.backbone.sites][:2]
        >>> both = world.localizer(method=at_sites(hires_cam, names))
        >>> both(world.draw_species("ember finch").image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    if not names:
        raise OptionError("No sites to average over; name one or more of backbone.sites.")

    def maps(seen: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
        found = []
        for name in names:
            other = at_site(seen, name)
            sized = other.layout.moved(explain(method, other, directions), seen.layout)
            found.append(sized / sized.abs().amax((2, 3), keepdim=True).clamp(min=torch.finfo(sized.dtype).tiny))
        return torch.stack(found).mean(0).flatten(2)

    maps.__name__ = f"{name_of(method)}_at_sites"
    return TraceMethod(maps, sees_score(method))


def _averaged(method: AnyMethod, how: str, views: Callable[[Trace], Iterator[View]]) -> Method:
    if is_linear(method):

        def vectors(seen: Trace) -> Float[Tensor, "B N E"]:
            # The way back takes grids last, so the axis of vectors moves before them.
            found = []
            for view, back in views(seen):
                field = field_vectors(method, view)
                assert field is not None
                on_grid = field.unflatten(1, (view.layout.rows, view.layout.cols)).permute(0, 3, 1, 2)
                found.append(back(on_grid).flatten(2).transpose(1, 2))
            return torch.stack(found).mean(0)

        vectors.__name__ = f"{how}_{name_of(method)}"
        return FieldMethod(vectors, depth=depth_of(method))

    def maps(seen: Trace, directions: Float[Tensor, "K B E"]) -> Float[Tensor, "K B N"]:
        return torch.stack([back(explain(method, view, directions)) for view, back in views(seen)]).mean(0).flatten(2)

    maps.__name__ = f"{how}_{name_of(method)}"
    return TraceMethod(maps, sees_score(method))


def _at_scale(seen: Trace, scale: float) -> View:
    height, width = (int(side) for side in seen.pixels.shape[2:])
    stride = seen.backbone.preprocess.stride
    # Whole patches at any scale; a map may cover more or less than the input, so its grid does not give their number.
    size: Size = (max(1, round(height * scale / stride)) * stride, max(1, round(width * scale / stride)) * stride)
    if scale == 1 or size == (height, width):
        return seen, _as_it_is
    pixels = F.interpolate(seen.pixels, size, mode="bicubic", align_corners=False, antialias=True)
    view = seen.again(pixels)
    return view, lambda maps: view.layout.moved(maps, seen.layout)


def _as_it_is(maps: Tensor) -> Tensor:
    return maps

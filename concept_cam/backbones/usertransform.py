"""A transform of the user's, run as it is: what it gives is what the model gets, and its window is found by marks."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import isqrt
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from concept_cam.backbones.windows import find_window
from concept_cam.errors import ImageError, OptionError
from concept_cam.preprocess import Fit, Preparation, Preprocess, Size, Window

_WINDOWS_KEPT = 4096


class TransformFailed(ImageError):
    """A transform that raised an error of its own."""


@final
@dataclass(frozen=True, eq=False)
class UserTransform(Preparation):
    """A transform that is run on every image; see ``read_transform``.

    The window that it shows is found once for each size of image, by five runs on test images; see ``find_window``. It must
    give the same each time, and be safe to call from several threads.

    Attributes:
        transform: takes an RGB image of PIL and gives (3, height, width).
        size: what it gives for a square image.
        alike: what does the same up to a difference in how pixels are resized, for other sizes and fits of the input.
        stride: side of a patch.
        varies: whether what it gives has other sizes for images of another aspect.
        largest: the largest absolute value of what it gives for noise.
    """

    transform: Any
    size: Size
    varies: bool
    largest: float
    alike: Preprocess | None = None
    stride: int = 1
    fit: str = field(default="transform", init=False)
    _windows: dict[Size, tuple[Size, Window]] = field(default_factory=dict, repr=False)

    def view(self, image: Image.Image) -> tuple[Float[Tensor, "3 height width"], Window]:
        """What the transform gives, and the window of the image that it shows.

        Raises:
            ImageError: it fails on this image, or what it shows of it cannot be found.
        """
        pixels, size = run(self.transform, image), (image.height, image.width)
        try:
            found = self._windows.get(size)
            if found is None:
                found = find_window(partial(run, self.transform), size)
                # Other threads may be here as well.
                if len(self._windows) >= _WINDOWS_KEPT:
                    self._windows.clear()
                self._windows[size] = found
            given, window = found
            if given != tuple(pixels.shape[1:]):
                raise ImageError("gives another size depending on what is on it")
        except ImageError as error:
            raise ImageError(f"{refusal(self.transform, image, error)}; crop the image to a usual shape first.") from error
        return pixels, window

    def other(self, size: Size, fit: Fit | None) -> Preprocess:
        """What does the same, for another size or fit.

        Raises:
            OptionError: only the transform itself knows what it does.
        """
        if self.alike is None:
            wanted = f"size={size[0]} x {size[1]}" if size != self.size else f"fit={fit!r}"
            raise OptionError(
                f"{wanted} is given, but the transform {name_of(self.transform)} is run as it is; change the transform, "
                "or give a concept_cam Preprocess in its place."
            )
        other = self.alike if size == self.alike.size else self.alike.resized(size)
        return (other if fit is None else other.fitted(fit)).strided(self.stride)

    def fitted(self, fit: Fit) -> Preprocess:
        """Another fit.

        Raises:
            OptionError: only the transform itself knows what it does.
        """
        return self.other(self.size, fit)

    def resized(self, size: Size) -> UserTransform:
        """The same transform for a model at another size, where what it gives is not always of one size."""
        return replace(self, size=size)

    def strided(self, stride: int) -> UserTransform:
        """The same for a model with patches of that side."""
        return replace(self, stride=stride)


def run(transform: Any, image: Image.Image) -> Float[Tensor, "3 height width"]:
    """What a transform gives for an image: a tensor of its own, in its own range.

    Called as its library has it: ``transform(image)``, albumentations' with ``image=`` an array, transformers' with
    ``images=``. Of a dict, ``pixel_values`` or ``image`` is taken, and of a batch or list of one its one; arrays of (height,
    width, 3) are turned; the patches of NaFlex are put together.

    Raises:
        ImageError: it fails, or what it gives is no (3, height, width) of finite numbers.
    """
    try:
        with torch.no_grad():
            return _pixels(_call(transform, image.copy()))
    except ImageError as error:
        raise ImageError(refusal(transform, image, error)) from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ImageError(
            f"{refusal(transform, image, 'fails')} ({reason}); expected it to take an RGB image of PIL."
        ) from error


def refusal(transform: Any, image: Image.Image, what: object) -> str:
    """The message for an image that a transform cannot take.

    Args:
        transform: the user's transform.
        image: the image that it was given.
        what: what the transform did with it; a sentence that names the transform itself is the whole message.
    """
    text = str(what)
    whole = text.startswith("The transform ")
    return text if whole else f"The transform {name_of(transform)}, given an image of {image.height} x {image.width}, {text}"


def name_of(transform: Any) -> str:
    """What a transform is called in messages."""
    name: str = getattr(transform, "__name__", type(transform).__name__)
    return name


def library_of(transform: Any) -> set[str]:
    """The packages that its class, or what that is made from, comes from."""
    return {kind.__module__.partition(".")[0] for kind in type(transform).__mro__}


def _call(transform: Any, image: Image.Image) -> Any:
    libraries = library_of(transform)
    if "albumentations" in libraries:
        return transform(image=np.array(image))
    if "transformers" in libraries:
        return transform(images=image, return_tensors="pt")
    return transform(image)


def _pixels(given: Any) -> Float[Tensor, "3 height width"]:
    if isinstance(given, Mapping):
        if "spatial_shapes" in given:
            return _of_patches(given)
        key = next((key for key in ("pixel_values", "image") if key in given), None)
        if key is None:
            raise ImageError(f"gives a dict of {', '.join(map(str, given))}; expected pixel_values or image in it")
        given = given[key]
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    if isinstance(given, np.ndarray):
        if given.ndim == 3 and given.shape[2] == 3 != given.shape[0]:
            given = given.transpose(2, 0, 1)
        given = torch.from_numpy(given.copy())
    if not isinstance(given, Tensor):
        parts = f" of {len(given)}" if isinstance(given, list | tuple) else ""
        raise ImageError(f"gives a {type(given).__name__}{parts}; expected one tensor (3, height, width)")
    pixels = given.detach().as_subclass(Tensor)
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise ImageError(f"gives a tensor of {' x '.join(map(str, given.shape))}; expected 3 x height x width")
    if pixels.is_complex():
        raise ImageError("gives complex numbers; expected real ones")
    pixels = pixels.to("cpu", pixels.dtype if pixels.is_floating_point() else torch.float32, copy=True)
    if not pixels.isfinite().all():
        raise ImageError("gives numbers that are not finite")
    return pixels


def _of_patches(given: Mapping[str, Any]) -> Float[Tensor, "3 height width"]:
    """The image behind the patches of transformers' NaFlex processors."""
    patches = torch.from_numpy(np.asarray(given["pixel_values"])[0])
    rows, cols = (int(count) for count in np.asarray(given["spatial_shapes"])[0])
    side = isqrt(patches.shape[1] // 3)
    grid = patches[: rows * cols].reshape(rows, cols, side, side, 3)
    return grid.permute(4, 0, 2, 1, 3).reshape(3, rows * side, cols * side)


@contextmanager
def without_chance(transform: Any) -> Iterator[None]:
    """Raise ImageError if random numbers were drawn within; the generators are left as they were."""
    before = _Generators.now()
    try:
        with warnings.catch_warnings():
            # Test images are not the user's: what a library says of them helps nobody.
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        # What else is wrong with what is random may be chance.
        if not before.untouched():
            raise ImageError(f"The transform {name_of(transform)} is random; give the one for evaluation.") from error
        raise
    else:
        if not before.untouched():
            raise ImageError(f"The transform {name_of(transform)} is random; give the one for evaluation.")
    finally:
        before.restore()


class _Generators(NamedTuple):
    """The states of the generators that all share."""

    of_torch: Tensor
    of_numpy: Any
    of_python: Any

    @classmethod
    def now(cls) -> _Generators:
        return cls(torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002

    def untouched(self) -> bool:
        now = _Generators.now()
        numpys = all(np.array_equal(one, other) for one, other in zip(self.of_numpy, now.of_numpy, strict=True))
        return torch.equal(self.of_torch, now.of_torch) and numpys and self.of_python == now.of_python

    def restore(self) -> None:
        torch.set_rng_state(self.of_torch)
        np.random.set_state(self.of_numpy)  # noqa: NPY002
        random.setstate(self.of_python)

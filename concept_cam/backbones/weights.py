"""What can go wrong on the way to a model that runs, in one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

import torch

from concept_cam.errors import BackboneError, ConceptCamError, one_line
from concept_cam.images import Size

ADVICE = "give the size and preparation that it takes with preprocess="


def check_device(device: str | torch.device) -> None:
    """Raise BackboneError unless tensors can lie there."""
    try:
        torch.empty(1, device=device, dtype=torch.float32).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise BackboneError(f"There is no device {str(device)!r} here ({reason}); cpu is always there.") from error


@contextmanager
def first_run(name: str, size: Size, advice: str) -> Iterator[None]:
    """Say in one line why a model cannot be run on an image, whatever it raises itself.

    Args:
        name: of the model.
        size: (height, width) of the input in pixels.
        advice: what to do instead, the end of the message.

    Raises:
        BackboneError: it cannot.
    """
    try:
        yield
    except (ConceptCamError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BackboneError(
            f"{name} does not take an input of {size[0]} x {size[1]} pixels, (batch, 3, height, width) ({reason}); {advice}."
        ) from error


def load_failure(what: str, error: Exception, *, local: bool = False) -> str:
    """Why a model could not be loaded: code that it brings, the network, or what the library said.

    Args:
        what: the model, as the message calls it.
        error: what the library raised.
        local: whether the model is read from local files, so that nothing is downloaded.
    """
    said = " ".join(str(cause) for cause in _causes(error))
    if any(isinstance(cause, UnpicklingError) for cause in _causes(error)) or "weights_only" in said or "TorchScript" in said:
        # torch's own advice is to read it all the same.
        return f"{what}: the file of weights holds more than tensors, such as code, and is not read; expected .safetensors."
    if "trust_remote_code" in said or "custom code" in said:
        return f"{what} brings code of its own, which is not run; load it yourself and wrap() the model."
    if any(_is_of_the_network(cause) for cause in _causes(error)):
        if local:
            return (
                f"{what} names a repository of the hub whose files are not here; a folder downloads nothing. Download that "
                f"repository first, or put its files there ({one_line(error, 200)})."
            )
        return f"{what}: the weights have to be downloaded and cannot be reached; check the network, or give a local file."
    return f"{what} could not be loaded: {type(error).__name__}: {one_line(error, 300)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and not any(error is one for one in seen):
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _is_of_the_network(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError", "URLError"})

"""What can go wrong on the way to a model's weights, in one clear line."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from concept_cam.errors import BackboneError


def check_device(device: str | torch.device) -> None:
    """Raise BackboneError unless tensors can lie there."""
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise BackboneError(f"There is no device {str(device)!r} here ({reason}); cpu is always there.") from error


def load_failure(what: str, error: Exception, *, local: bool = False) -> str:
    """Why a model could not be loaded: the network, unless all of it is here, or what the library said."""
    text = " ".join(str(error).split())
    if not local and any(_is_of_the_network(cause) for cause in _causes(error)):
        return f"{what}: the weights have to be downloaded and cannot be reached; check the network, or give a local file."
    return f"{what} could not be loaded: {type(error).__name__}: {text[:300]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_the_network(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError", "URLError"})

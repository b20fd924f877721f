"""The model that a command line names, with the sentences that suit it."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.cli.terminal import complain
from concept_cam.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from concept_cam.backbones import Backbone

HELP = (
    "As in `localize`; none: the embedded model; world-shortcut: its sister with planted shortcuts; "
    "package.module:function: your own."
)
CLASSES = "Of a classifier: a file with a name for each row; timm knows ImageNet's, transformers those of a checkpoint."

_FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")
_SCHEMAS = ("open_clip", "transformers", "timm")


def load_encoder(
    model: str | None, pretrained: str | None, device: str, classes: str | None = None
) -> tuple[Backbone, str | None]:
    """A model, by default the embedded one, and the name of the templates for it; a classifier has none.

    Raises:
        OptionError: weights or classes are named, but no architecture for them; or for a model that brings its own.
        BackboneError: see ``load`` and ``wrap``.
    """
    from concept_cam import world
    from concept_cam.loading import load

    for option, value in (("--pretrained", pretrained), ("--classes", classes)):
        if value is not None and model is None:
            such = "ViT-B-16" if option == "--pretrained" else "resnet50"
            raise OptionError(f"{option} {value} needs a --model, such as {such}.")
    checkpoint = world.MODELS.get(model or "world")
    if checkpoint is not None:
        if pretrained is not None or classes is not None:
            given = "--pretrained" if pretrained is not None else "--classes"
            raise OptionError(f"{given} is not for the embedded model; name another with --model.")
        return world.localizer(device=device, checkpoint=checkpoint).backbone, "world"
    if sys.stderr.isatty():
        complain(f"loading {model} ...")
    match = _FUNCTION.fullmatch(model or "")
    if match and match["module"] not in _SCHEMAS:
        if pretrained is not None:
            raise OptionError(f"--model {model} makes its own weights; leave out --pretrained {pretrained}.")
        backbone = _of_function(match["module"], match["function"], device, classes)
    else:
        backbone = load(model or "", pretrained, device, classes=classes)
    return backbone, None if backbone.classes else "photo"


def _of_function(module: str, function: str, device: str, classes: str | None) -> Backbone:
    """What a function of the user's makes: a model, or what ``wrap`` makes of it. The user names it, so it is run."""
    from torch import nn

    from concept_cam.backbones import Backbone
    from concept_cam.backbones.weights import check_device
    from concept_cam.loading import wrap

    check_device(device)
    name = f"{module}:{function}"
    made = _call(module, function)
    if isinstance(made, Backbone):
        if classes is not None:
            raise OptionError(f"--model {name} gives what wrap makes, with classes of its own; leave out --classes {classes}.")
        made.module.to(device)
        return made
    if not isinstance(made, nn.Module):
        raise OptionError(
            f"--model {name}: it gives a {type(made).__name__}; expected a model, or what concept_cam.wrap makes."
        )
    return wrap(made.eval().requires_grad_(False).to(device), classes=classes, name=name)


def _call(module: str, function: str) -> Any:
    """Import the module, from the working folder too, and call its function."""
    name, here = f"{module}:{function}", str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = getattr(import_module(module), function, None)
        if not callable(found):
            hint = did_you_mean(function, vars(sys.modules[module]))
            raise OptionError(f"--model {name}: {module} has no function {function}.{hint}")
        return found()
    except OptionError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        what = f"there is no module {module} in {here} or among what is installed" if missing else f"it fails ({reason})"
        raise OptionError(f"--model {name}: {what}.") from error
    finally:
        # The module may have changed the list itself.
        with suppress(ValueError):
            sys.path.remove(here)

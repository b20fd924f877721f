"""The model that a command line names, and how it reads images and texts."""

from __future__ import annotations

import gc
import re
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.cli.checked import Command
from concept_cam.cli.given import check_texts
from concept_cam.cli.images import size_of
from concept_cam.cli.terminal import complain
from concept_cam.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from concept_cam.backbones import Backbone
    from concept_cam.localizer import Localizer
    from concept_cam.methods import AnyMethod
    from concept_cam.presets import Preset
    from concept_cam.targets import Names

_FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")
_SCHEMAS = ("open_clip", "transformers", "timm")


@dataclass(frozen=True)
class Asked:
    """The model that a command line names, and how it reads images and texts; what is wrong with it is found at once.

    Raises:
        OptionError: weights or classes are named, but no model for them; or there is no such fit or size.
        PromptError: the templates cannot be read.
    """

    model: str | None = None
    pretrained: str | None = None
    classes: str | None = None
    device: str = "cpu"
    site: str | None = None
    fit: str | None = None
    size: str | None = None
    templates: str | None = None

    def __post_init__(self) -> None:
        from concept_cam.images import check_fit

        if self.fit is not None:
            check_fit(self.fit)
        size_of(self.size)
        check_texts(templates=self.templates)

    @property
    def words(self) -> list[str]:
        """The options that name the model and how it reads, for the next command."""
        held = asdict(self) | {"device": None if self.device == "cpu" else self.device}
        return [word for name, value in held.items() if value is not None for word in (f"--{name}", value)]

    @property
    def model_words(self) -> list[str]:
        """Those that every command with a model has."""
        return Asked(self.model, self.pretrained, self.classes, self.device).words

    @property
    def preset(self) -> Preset:
        """The model's name, and the texts that suit it."""
        from concept_cam.presets import preset_of

        return preset_of(self.model)

    def load(self) -> Backbone:
        """Load the model, and look for garbage in what is made after it; see ``Command.invoke``.

        Raises:
            OptionError: weights or classes are named, but no model for them; or for a model that brings its own.
            BackboneError: see ``load`` and ``wrap``.
        """
        try:
            return self._load()
        finally:
            if Command.alone:
                gc.freeze()
                gc.enable()

    def _load(self) -> Backbone:
        for option, value in (("--pretrained", self.pretrained), ("--classes", self.classes)):
            if value is not None and self.model is None:
                such = "ViT-B-16" if option == "--pretrained" else "resnet50"
                raise OptionError(f"{option} {value} needs a --model, such as {such}.")
            if value is not None and self.preset.draws:
                raise OptionError(f"{option} is not for the embedded encoder; name another with --model.")
        if not self.preset.draws and sys.stderr.isatty():
            complain(f"loading {self.model} ...")
        match = _FUNCTION.fullmatch(self.model or "")
        if not match or match["module"] in _SCHEMAS:
            return self.preset.load(self.pretrained, self.device, self.classes)
        if self.pretrained is not None:
            raise OptionError(f"--model {self.model} makes its own weights; leave out --pretrained {self.pretrained}.")
        return _of_function(match["module"], match["function"], self.device, self.classes)

    def localizer(
        self, backbone: Backbone, vocabulary: Names = (), templates: str | None = None, method: AnyMethod | None = None
    ) -> Localizer:
        """A localizer with the model once it is loaded.

        Args:
            backbone: from ``load``.
            vocabulary: to choose references from.
            templates: where none are named on the command line.
            method: of the maps.

        Raises:
            OptionError, BackboneError, UnknownConcept: see ``Localizer``.
        """
        from concept_cam.localizer import Localizer

        how: dict[str, Any] = {"site": self.site, "fit": self.fit, "size": size_of(self.size), "method": method}
        return Localizer(backbone, vocabulary=vocabulary, templates=self.templates or templates, **how)


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

"""A command that looks at its values before it is run: what no option can mean is refused there, and once for all."""

from __future__ import annotations

import gc
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

from typer.core import TyperCommand

from concept_cam.errors import OptionError


class Command(TyperCommand):
    """As typer's, for which every text is good; see ``parse_args``.

    Attributes:
        alone: whether a command is all that the process does.
    """

    alone: ClassVar[bool] = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse options given twice, empty values, numbers that are not finite, and pipes and devices in place of files.

        Raises:
            OptionError: there is one.
        """
        if ctx.resilient_parsing:  # a shell completes what is not finished
            return super().parse_args(ctx, args)
        found, _, order = self.make_parser(ctx).parse_args(args=list(args))
        names = {param.name: param.opts[0] if param.param_type_name == "option" else param.name.upper() for param in order}
        for param, times in Counter(param for param in order if param.param_type_name == "option").items():
            if times > 1 and not param.multiple and not getattr(param, "is_flag", False):
                raise OptionError(f"{names[param.name]} is given {times} times; give it once.")
        for key, value in found.items():
            for text in _texts(value):
                _check_text(names.get(key, key), text)
        rest = super().parse_args(ctx, args)
        for key, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise OptionError(f"{names.get(key, key)} is {value}; expected a finite number.")
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command. If it has a model and is alone, garbage is not collected until ``Asked.load`` has loaded it.

        What is imported until then is never freed, and to look through it takes a fifth of the time.
        """
        if self.alone and "model" in ctx.params:
            gc.disable()
        return super().invoke(ctx)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        yield from (text for text in value if isinstance(text, str))


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise OptionError(f"{name} is {text!r}, which is nothing; leave it out, or give it a value.")
    try:
        kind = os.stat(text).st_mode  # noqa: PTH116  (most texts are no paths; a Path would be one of each)
    except (OSError, ValueError):
        return
    # A device may never end, and a pipe may never begin.
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise OptionError(f"{name} {text}: it is a pipe or a device; expected a file or a folder.")

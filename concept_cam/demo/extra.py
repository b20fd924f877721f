"""gradio, which comes with the extra ``demo``."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from concept_cam.errors import OptionError, missing


def check_extra() -> None:
    """Find out, without the import, whether the package is there.

    Raises:
        OptionError: it is not installed.
    """
    if find_spec("gradio") is None:
        raise OptionError(missing("demo", "open the demo"))


def gradio() -> Any:
    """The package; it takes seconds to import.

    Raises:
        OptionError: it is not installed, or of another version.
    """
    check_extra()
    found: Any = import_module("gradio")
    if int(found.__version__.split(".")[0]) != 6:
        raise OptionError(f"The demo needs gradio 6, and this is {found.__version__}: pip install 'concept-cam[demo]'")
    return found

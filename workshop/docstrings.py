"""Docstrings as the documentation site shows them: examples and tables as code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

TABLE = re.compile(r"(?:^\S+(?: \S+)*  +\S.*\n?(?:^  +\S.*\n?)*)+", re.M)
"""Lines of two columns: names, two spaces or more, and what they are; a line that is continued is indented."""


class Docstrings(Extension):
    """Change docstrings before they are parsed; the files stay as they are."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """``Example:`` becomes the section that Google's style calls ``Examples:``; a table of a module becomes a block."""
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
        if obj.is_module:
            text = TABLE.sub(lambda found: re.sub(r"^(?=.)", "    ", found[0], flags=re.M), text)
        obj.docstring.value = text

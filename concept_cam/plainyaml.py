"""YAML from outside as plain data: no aliases, no tags, bounded depth, short numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml
from yaml.composer import Composer

MAX_BYTES = 2**20
"""Of a file: where PyYAML is without its parser in C, it takes some seconds for so much."""

MAX_LEVELS = 12
"""Of lists and mappings in each other."""

_MAX_NUMBER = 64
"""Letters of what is no text."""

_TEXT = "tag:yaml.org,2002:str"


def read_yaml(text: str) -> Any:
    """Read a document of strings, numbers, lists and mappings.

    Raises:
        ValueError: the text is not YAML, or has aliases (which can expand to gigabytes) or tags (which name a class to build).

    Example:
        >>> read_yaml("concepts: [crown, {name: beak}]")
        {'concepts': ['crown', {'name': 'beak'}]}
    """
    if len(text) > MAX_BYTES:
        raise ValueError(
            f"{len(text):,} letters of YAML; at most {MAX_BYTES:,} are read. A vocabulary may be a CSV file as well"
        )
    try:
        return yaml.load(text, Loader=_Plain)  # noqa: S506  (it makes less than the safe loader)
    except Exception as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split()) or type(error).__name__}") from error


_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where it was built, which is five times as fast."""


class _Plain(Composer, _PARSER):  # type: ignore[misc]
    """Events of the parser; nodes are made here, one after the other, also where the parser could make them itself."""

    _level = 0

    def __init__(self, text: str) -> None:
        _PARSER.__init__(self, text)
        Composer.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise self._refused(event, f"the alias *{event.anchor}; write out what it stands for, or name a list of `values`")
        if event.tag is not None and event.tag != "!":
            raise self._refused(event, f"the tag {event.tag}; expected plain text, numbers, lists and mappings")
        self._level += 1
        if self._level > MAX_LEVELS:
            raise self._refused(event, f"more than {MAX_LEVELS} levels")
        node: Any = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag != _TEXT and len(node.value) > _MAX_NUMBER:
            raise self._refused(node, f"a number of {len(node.value)} letters; quote it if it is a text")
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = [key for key, count in Counter(keys).items() if count > 1]
            if twice:
                raise self._refused(node, f"the key {twice[0]} twice in one mapping")
        return node  # type: ignore[no-any-return]

    def _refused(self, at: Any, what: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=f"{what} (line {at.start_mark.line + 1})")

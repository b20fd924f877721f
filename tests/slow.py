"""Which rows of a table run by default: enough to see each kind once; the others carry the marker ``slow``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def by_default(table: Iterable[Any], *default: Any) -> list[Any]:
    """For ``parametrize`` and ``fixture``: rows of a table, of which those named run by default."""
    table = list(table)
    assert set(default) <= set(table), set(default) - set(table)
    return [row if row in default else pytest.param(row, marks=pytest.mark.slow) for row in table]


def cases(table: Iterable[tuple[Any, ...]], *default: tuple[Any, ...]) -> list[Any]:
    """The same where each row has a value for each of several parameters."""
    table = list(table)
    assert set(default) <= set(table), set(default) - set(table)
    return [row if row in default else pytest.param(*row, marks=pytest.mark.slow) for row in table]


def pairs(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Every row of one table with every row of another; by default each row of both is seen, once where that can be."""
    first, second = list(first), list(second)
    default = {(k % len(first), k % len(second)) for k in range(max(len(first), len(second)))}
    return [
        pytest.param(one, other, id=f"{_id(one)}-{_id(other)}", marks=() if (i, j) in default else pytest.mark.slow)
        for i, one in enumerate(first)
        for j, other in enumerate(second)
    ]


def _id(row: Any) -> str:
    return "-".join(map(str, row)) if isinstance(row, tuple) else str(row)

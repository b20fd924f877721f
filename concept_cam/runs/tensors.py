"""The tensors of a batch on disk: each is read when it is asked for, and checked before it is believed.

A file is in the format of safetensors, and is read here: safetensors' own reader of single tensors opens no file whose name is
not UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from concept_cam.errors import OutputError, Unreachable, reason
from concept_cam.outside import length_of, opened, parse_json
from concept_cam.stored import mapping

_KINDS = {
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
}
_TYPES = {"grids": "I64", "source_ends": "I64", "placements": "F64", "digests": "U8", "sources": "U8"}
_TYPES |= {"halves": "F16", "levels": "I8", "places": "I64", "sums": "I32"}
"""Of tensors that are no maps and no figures, which are F32."""

_LONGEST = 1 << 16
"""Bytes of a header: of some ten tensors."""


@final
class StoredTensors:
    """The tensors of an open file."""

    def __init__(self, stream: BufferedReader, start: int, header: dict[str, Any]) -> None:
        self._stream, self._start, self._header = stream, start, header

    @classmethod
    def of(cls, stream: BufferedReader) -> StoredTensors:
        """Read the header of a file.

        Raises:
            ValueError: it is none.
        """
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _LONGEST:
            raise ValueError("it has no header of a few tensors")
        return cls(stream, 8 + length, mapping(parse_json(stream.read(length)), "its header"))

    @property
    def names(self) -> list[str]:
        """Of all tensors."""
        return [name for name in self._header if name != "__metadata__"]

    @property
    def about(self) -> dict[str, Any]:
        """What the file says of itself."""
        return mapping(self._header.get("__metadata__", {}), "its metadata")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            KeyError, ValueError: there is none, or it is no shape.
        """
        shape = mapping(self._header[name], name)["shape"]
        if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"{name} has no shape")
        return tuple(shape)

    def read(self, name: str, *shape: int) -> Tensor:
        """A tensor of an expected shape; its numbers are finite.

        Raises:
            KeyError, ValueError: there is none, or it is another.
        """
        if self.shape(name) != shape:
            raise ValueError(f"{name} is {list(self.shape(name))}; expected {list(shape)}")
        return self._numbers(name, 0, math.prod(shape)).reshape(shape)

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Some numbers of a tensor of one dimension.

        Args:
            name: of the tensor.
            start: the index of the first number.
            stop: the index after the last number.

        Raises:
            KeyError, ValueError: there are none.
        """
        (count,) = self.shape(name) if len(self.shape(name)) == 1 else (-1,)
        if not 0 <= start <= stop <= count:
            raise ValueError(f"{name} has not the numbers {start} to {stop}")
        return self._numbers(name, start, stop)

    def offset(self, name: str, *shape: int) -> int:
        """The byte of the file at which a tensor of an expected shape begins, for those who map it into memory.

        Raises:
            KeyError, ValueError: there is none, or it is another.
        """
        if self.shape(name) != shape:
            raise ValueError(f"{name} is {list(self.shape(name))}; expected {list(shape)}")
        return self._found(name)[1]

    def _numbers(self, name: str, start: int, stop: int) -> Tensor:
        kind, offset = self._found(name)
        size = (stop - start) * kind.itemsize
        self._stream.seek(offset + start * kind.itemsize)
        content = self._stream.read(size)
        numbers = torch.frombuffer(bytearray(content), dtype=kind) if size else torch.empty(0, dtype=kind, device="cpu")
        if not numbers.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")
        return numbers

    def _found(self, name: str) -> tuple[torch.dtype, int]:
        """The type of a tensor, and the byte at which it begins, after a check that the file holds all of it."""
        held = mapping(self._header[name], name)
        kind, offsets = _KINDS[_TYPES.get(name, "F32")], held.get("data_offsets")
        if (
            _KINDS.get(str(held.get("dtype"))) is not kind
            or not isinstance(offsets, list)
            or len(offsets) != 2
            or any(type(o) is not int for o in offsets)
        ):
            raise ValueError(f"{name} is no tensor that is read here")
        if offsets[0] < 0 or offsets[1] - offsets[0] != math.prod(self.shape(name)) * kind.itemsize:
            raise ValueError(f"{name} has not as many bytes as its shape has numbers")
        if self._start + offsets[1] > length_of(self._stream):
            raise ValueError(f"{name} is cut short")
        return kind, self._start + offsets[0]


@contextmanager
def stored_tensors(
    file: Path, what: str = "the maps of an audit", then: str = "delete the folder and run it again"
) -> Iterator[StoredTensors]:
    """Open a file of tensors; whatever is wrong with it in the block is one line.

    Args:
        file: in the format of safetensors.
        what: it should hold, for the message.
        then: what to do where it does not.

    Raises:
        OutputError: it is no such file, or not what is asked of it.
    """
    try:
        with opened(file) as stream:
            yield StoredTensors.of(stream)
    except (MemoryError, Unreachable):
        raise
    except Exception as error:  # what is not foreseen of a damaged file is one line too
        said = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise OutputError(f"{file}: not {what} ({said}); {then}.") from error

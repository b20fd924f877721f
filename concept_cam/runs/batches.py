"""A batch on disk: its files, and beside them a seal that says of what they are and what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

from concept_cam.errors import Unreachable
from concept_cam.files import write_file
from concept_cam.outside import read_bytes

Files: TypeAlias = Mapping[str, bytes]
"""What a batch holds: the content of each of its files, by the ending of its name."""

DATA = "data"
"""The folder of the files that others read as a data set."""

_SEAL, _TABLE, _PARQUET = ".json", ".csv", ".parquet"
_HEAVY = (".safetensors", _PARQUET)
"""Files of which a run has too many for memory."""

LARGEST, _LARGEST_SEAL = 1 << 29, 1 << 20
"""Bytes of a file, and of a seal."""


@final
@dataclass(frozen=True)
class Batch:
    """Some items of a run.

    Attributes:
        stem: the path of its files, without their endings.
        run: the digest of the run's settings.
        names: what its items are, in their order.
    """

    stem: Path
    run: str
    names: tuple[str, ...]

    def file(self, ending: str) -> Path:
        """The file with that ending; those of a data set lie in a folder of their own."""
        if ending == _PARQUET:
            return self.stem.parent.with_name(DATA) / f"{self.stem.name}{ending}"
        return self.stem.with_name(f"{self.stem.name}{ending}")

    def write(self, files: Files) -> None:
        """Write the files, and the seal last.

        Raises:
            OutputError: one cannot be written.
        """
        for ending, content in files.items():
            write_file(self.file(ending), content)
        write_file(self.file(_SEAL), _bytes_of(self._seal(files)))

    def read(self) -> Files | None:
        """What was written; None unless it is all there, of this run, of these items and as it was written."""
        try:
            found = read_bytes(self.file(_SEAL), _LARGEST_SEAL)
            seal = json.loads(found)
            sizes = {ending: int(held["bytes"]) for ending, held in seal["files"].items()}
            # Nothing is read for a batch of another run, nor a file that is longer than it was.
            ours = {**seal, "files": None} == {**self._seal({}), "files": None}
            if not ours or not all(0 <= size <= LARGEST for size in sizes.values()):
                return None
            files = {ending: read_bytes(self.file(ending), size) for ending, size in sizes.items()}
            return files if found == _bytes_of(self._seal(files)) else None
        except (MemoryError, Unreachable):
            raise
        except Exception:  # noqa: BLE001  (whatever is wrong with a batch, it is made again)
            return None

    def unseal(self) -> None:
        """Let nobody take it for whole, before it is made again."""
        try:
            self.file(_SEAL).unlink()
        except Unreachable:
            raise
        except OSError:
            return  # there is none, or it cannot be written over either, which is told then

    def light(self) -> Files | None:
        """The table, and what else a run reads of each batch, but for tensors and data sets; None unless all that is there."""
        return self._some(lambda ending: ending not in _HEAVY)

    def rows(self) -> bytes | None:
        """The table that was written; None unless the seal and the table are there, and of this run."""
        files = self._some(lambda ending: ending == _TABLE)
        return None if files is None else files.get(_TABLE)

    def _some(self, wanted: Callable[[str], bool]) -> Files | None:
        """Some of the files; None unless they and the seal are there, of this run and as they were written."""
        try:
            seal = json.loads(read_bytes(self.file(_SEAL), _LARGEST_SEAL))
            held = {ending: about for ending, about in seal["files"].items() if wanted(ending)}
            files = {ending: read_bytes(self.file(ending), min(int(held[ending]["bytes"]), LARGEST)) for ending in held}
            return files if {**seal, "files": held} == self._seal(files) else None
        except (MemoryError, Unreachable):
            raise
        except Exception:  # noqa: BLE001  (as in ``read``)
            return None

    def _seal(self, files: Files) -> dict[str, Any]:
        return {
            "run": self.run,
            "items": len(self.names),
            "names": hashlib.sha256(json.dumps(self.names).encode()).hexdigest(),
            "files": {
                ending: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for ending, content in files.items()
            },
        }


def _bytes_of(seal: Mapping[str, Any]) -> bytes:
    return (json.dumps(seal, indent=2) + "\n").encode()

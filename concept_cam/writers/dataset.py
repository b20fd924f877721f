"""Results as a Parquet data set: a file for each batch of a run, which pyarrow, pandas, polars, duckdb and datasets read."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.address import address_of, files_in
from concept_cam.errors import OptionError, OutputError, Unreachable
from concept_cam.images import Frame, Placement
from concept_cam.localizer import Localizer
from concept_cam.outside import chunks_of, opened
from concept_cam.parts.part import PartFinding
from concept_cam.result import Localization
from concept_cam.runlengths import compressed
from concept_cam.runs.batches import DATA
from concept_cam.stored import refused
from concept_cam.writers.regions import marked, peak_of
from concept_cam.writers.run import BatchFile
from concept_cam.writers.table import Row, as_text, pyarrow_of

Output: TypeAlias = Literal["files", "parquet"]
"""How results are written: files of each image, or one file for all images of a batch."""

OUTPUTS: tuple[Output, ...] = ("files", "parquet")

ROWS = 256
"""Images of a batch, and so of a file."""

_READ_AT_ONCE = 64
_LARGEST, _SMALLEST = 65504.0, 2.0**-14
"""Of what float16 holds in full precision."""


def check_output(output: str, table: object) -> None:
    """Raise OptionError if there is no such way to write results, or a table is asked for beside a data set.

    Args:
        output: ``files`` or ``parquet``.
        table: a further table of all results.
    """
    if output not in OUTPUTS:
        raise OptionError(f"No output {output!r}; expected {' or '.join(OUTPUTS)}.")
    if output == "parquet":
        pyarrow_of()
        if table is not None:
            raise OptionError(f"table is {table}, which has no effect with parquet: the data set is the table; leave it out.")


def files_of_data(folder: Path, images: int) -> list[Path]:
    """Names that the files of a data set of so many images can have, and some more.

    Args:
        folder: of the run.
        images: how many.
    """
    return [folder / DATA / f"{number:05d}.parquet" for number in range(2 * images // ROWS + 1)]


def file_of_maps(localizer: Localizer, target: str, about: Mapping[str, Any]) -> BatchFile[Localization]:
    """The file of a batch of localizations; docs/scale.md has its columns.

    Args:
        localizer: of the maps.
        target: that is looked for.
        about: how they are made.
    """

    def rows(path: Path, result: Localization | str) -> list[Row]:
        known: Row = {"id": sha256_of(path), "image": as_text(path)}
        if isinstance(result, str):
            return [{**known, "target": target, "problem": as_text(result)}]
        comparison, scores = result.comparison, result.scores
        mask, boxes = marked(result)
        peak = zip(("peak_x", "peak_y"), peak_of(result), strict=True)
        row = {
            "target": comparison.target,
            "references": list(comparison.references),
            "strength": comparison.strength,
            "score": scores[comparison.target],
            "reference_scores": [scores[name] for name in comparison.references],
            "boxes": [list(box) for box in boxes],
            "mask": compressed(mask.cpu()),
        }
        maps = _of_maps(map=result.map, base_map=result.base_map)
        return [{**known, **_size(result.placement), **row, **dict(peak), **maps}]

    pyarrow, _ = pyarrow_of()
    text, real = pyarrow.string(), pyarrow.float32()
    columns = {
        **_known(pyarrow),
        "target": text,
        "references": pyarrow.list_(text),
        "strength": real,
        "score": real,
        "reference_scores": pyarrow.list_(real),
        "peak_x": real,
        "peak_y": real,
        "boxes": pyarrow.list_(_box(pyarrow)),
        **_maps(pyarrow, localizer, "map", "base_map"),
        "problem": text,
    }
    return BatchFile(rows, partial(_parquet, columns, about))


def file_of_parts(localizer: Localizer, about: Mapping[str, Any]) -> BatchFile[PartFinding]:
    """The file of a batch of findings, a row for each part; docs/scale.md has its columns.

    Args:
        localizer: of the maps.
        about: how they are made.
    """

    def rows(path: Path, finding: PartFinding | str) -> list[Row]:
        known: Row = {"id": sha256_of(path), "image": as_text(path)}
        if isinstance(finding, str):
            return [{**known, "problem": as_text(finding)}]
        found = []
        for part in finding.parts:
            x, y = part.keypoint or (None, None)
            read = [
                {"name": name, "value": reading.value, "confidence": reading.confidence}
                for name, reading in part.attributes.items()
            ]
            row = {"part": part.name, "visible": part.visible, "confidence": part.confidence, "x": x, "y": y}
            marked = {"box": part.box and list(part.box), "mask": dict(part.outline) or None, "attributes": read}
            found.append({**known, **_size(finding.placement), **row, **marked, **_of_maps(map=part.map)})
        return found

    pyarrow, _ = pyarrow_of()
    text, real = pyarrow.string(), pyarrow.float32()
    columns = {
        **_known(pyarrow),
        "part": text,
        "visible": pyarrow.bool_(),
        "confidence": real,
        "x": real,
        "y": real,
        "box": _box(pyarrow),
        **_maps(pyarrow, localizer, "map"),
        "attributes": pyarrow.list_(pyarrow.struct([("name", text), ("value", text), ("confidence", real)])),
        "problem": text,
    }
    return BatchFile(rows, partial(_parquet, columns, about))


def read_results(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows of a run that was written as a Parquet data set, one by one; docs/scale.md has the columns.

    ``map`` and ``base_map`` are arrays of their shape in float32. ``concept_cam.runlengths.run_lengths`` decodes ``mask``.

    Args:
        folder: of the run.

    Raises:
        DatasetError: the extra ``parquet`` is not there.
        OutputError: there is no such data set, or it is damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from concept_cam import world
        >>> from concept_cam.writers import localize_images, read_results
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plate = Path(folder, "plate.png")
        ...     world.draw_species("ember finch", 3).image.save(plate)
        ...     asked = (world.localizer(), [plate], f"{folder}/out", "ember finch", "frost finch")
        ...     failures = localize_images(*asked, output="parquet")
        ...     (row,) = read_results(f"{folder}/out")
        >>> row["references"], row["map"].shape, row["mask"]["size"]
        (['frost finch'], (12, 12), [384, 384])
    """
    _, parquet = pyarrow_of()
    files = files_in(address_of(folder) / DATA, ".parquet")
    if not files:
        raise OutputError(f"{os.fspath(folder)}: no data set; expected {DATA}/00000.parquet, which output parquet writes.")
    for file in files:
        with refused(file, "file of results"), opened(file) as stream, parquet.ParquetFile(stream) as held:
            for some in held.iter_batches(_READ_AT_ONCE):
                for row in some.to_pylist():
                    shape = row["rows"], row["cols"]
                    for name in ("map", "base_map"):
                        if row.get(name) is not None:
                            row[name] = np.asarray(row[name], np.float32).reshape(shape) * np.float32(row["scale"])
                    yield row


def sha256_of(path: Path) -> str | None:
    """The digest of a file; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        for chunk in chunks_of(path):
            digest.update(chunk)
    except Unreachable:
        raise
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


# ---- columns ----------------------------------------------------------------------------------------------------------


def _known(pyarrow: Any) -> dict[str, Any]:
    """What is known of each image."""
    return {"id": pyarrow.string(), "image": pyarrow.string(), "height": pyarrow.int32(), "width": pyarrow.int32()}


def _box(pyarrow: Any) -> Any:
    return pyarrow.list_(pyarrow.int32(), 4)


def _maps(pyarrow: Any, localizer: Localizer, *names: str) -> dict[str, Any]:
    """Masks and maps: in all files of a run of one type, which does not depend on the images."""
    grid = _grid(localizer)
    type_ = pyarrow.list_(pyarrow.float16(), *(() if grid is None else (grid[0] * grid[1],)))
    mask = pyarrow.struct([("size", pyarrow.list_(pyarrow.int32())), ("counts", pyarrow.string())])
    shape = {"rows": pyarrow.int32(), "cols": pyarrow.int32(), "scale": pyarrow.float32()}
    return {"mask": mask, **shape, **dict.fromkeys(names, type_)}


def _grid(localizer: Localizer) -> tuple[int, int] | None:
    """(rows, cols) of all maps; None where they follow the aspect of the image."""
    size = localizer.preprocess.size
    if localizer.preprocess.varies:
        return None
    blank = torch.zeros(3, *size, dtype=torch.float32, device="cpu")
    (seen,) = localizer.passes([Frame(blank, Placement((0.0, 0.0, float(size[1]), float(size[0])), size))])
    return seen.trace.layout.rows, seen.trace.layout.cols


def _size(placement: Placement) -> Row:
    height, width = placement.image_size
    return {"height": height, "width": width}


def _of_maps(**maps: Float[Tensor, "rows cols"]) -> Row:
    """The cells of maps in float16, and the power of two that they are to be multiplied by; 1 wherever float16 holds them."""
    held = {name: one.detach().cpu().double().numpy() for name, one in maps.items()}
    heights = [height for one in held.values() if (height := float(np.abs(one).max()))]
    scale = 1.0
    if heights and not _SMALLEST <= min(heights) <= max(heights) <= _LARGEST:
        scale = 2.0 ** (math.frexp(max(heights))[1] - 15)
    rows, cols = next(iter(held.values())).shape
    cells = {name: (one / scale).astype(np.float16).ravel() for name, one in held.items()}
    return {"rows": rows, "cols": cols, "scale": scale, **cells}


def _parquet(columns: Mapping[str, Any], about: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
    """A file, of which each byte follows from the rows."""
    pyarrow, parquet = pyarrow_of()
    schema = pyarrow.schema(list(columns.items()), {"concept_cam": json.dumps(about)})
    table = pyarrow.table([pyarrow.array([row.get(name) for row in rows], type_) for name, type_ in columns.items()], schema)
    stream = io.BytesIO()
    parquet.write_table(table, stream, version="2.6", compression="zstd")
    return stream.getvalue()

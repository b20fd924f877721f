"""Tables of images, in Arrow and in Parquet files: bytes that are others, cells that hold no image, columns of other kinds."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

from concept_cam.cli.folders import sources
from concept_cam.cli.tabled import species_of
from concept_cam.errors import ImageError
from concept_cam.images import read_image
from fuzz.sets import TEXTS, damaged, hostile

_CELL = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
_OTHERS = (
    pyarrow.struct([("bytes", pyarrow.string())]),
    pyarrow.binary(),
    pyarrow.struct([("bytes", pyarrow.large_binary())]),
)
_FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["red_finch", "blue_jay"]}}


def case(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A table of a few rows, and something wrong with it; read are the images that it is said to have."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    cells = [
        rng.choice((None, {"bytes": None, "path": rng.choice(TEXTS)}, {"bytes": b"", "path": None}))
        if rng.random() < 0.2
        else {"bytes": damaged(image.getvalue(), rng) if rng.random() < 0.2 else image.getvalue(), "path": None}
        for _ in range(rng.randrange(5))
    ]
    kind = rng.choice(_OTHERS) if rng.random() < 0.1 else _CELL
    cells = [] if kind is not _CELL else cells
    name = rng.choice(("..", ".", "a/b", "", "x" * 300, "mask")) if rng.random() < 0.2 else "image"
    columns = {name: pyarrow.array(cells, kind), "label": pyarrow.array([rng.choice((0, 1, -1, 7, None)) for _ in cells])}
    features = dict(_FEATURES) | ({rng.choice(("image", "label", "x")): hostile(rng)} if rng.random() < 0.3 else {})
    told = json.dumps({"info": {"features": features if rng.random() < 0.9 else hostile(rng)}})
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": told})
    stream = io.BytesIO()
    ending = rng.choice((".arrow", ".parquet"))
    if ending == ".parquet":
        pyarrow.parquet.write_table(table, stream, row_group_size=rng.choice((1, 2, 100)))
    else:
        make = rng.choice((pyarrow.ipc.new_stream, pyarrow.ipc.new_file))
        with make(stream, table.schema) as writer:
            writer.write_table(table, max_chunksize=rng.choice((1, 2, 100)))
    file = folder / f"set{ending}"
    file.write_bytes(damaged(stream.getvalue(), rng) if rng.random() < 0.6 else stream.getvalue())

    def read() -> object:
        with redirect_stderr(io.StringIO()):
            found = sources([file])
            labels = species_of(found, [file], "bird")
        for path in found:
            try:
                read_image(path)
            except ImageError:
                continue
        return labels

    return read

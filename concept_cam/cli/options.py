"""The options that commands share, each declared once: a command names those it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concept_cam.cli import candidates
from concept_cam.cli.candidates import among

LARGEST_SEED = 2**32 - 1

_MODELS, _METHOD_NAMES = among(candidates.models), among(candidates.methods)
_VOCABULARIES, _TEMPLATES = among(candidates.vocabularies), among(candidates.templates)
_FITS, _ENGINES = among(lambda: ("crop", "pad", "squash", "native")), among(lambda: ("processes", "ray"))
_DEVICES, _AMONG = among(lambda: ("cpu", "cuda", "mps")), among(lambda: ("model", "dataset"))

# ---- images and data sets ---------------------------------------------------------------------------------------------

Images = Annotated[
    list[Path] | None,
    typer.Argument(help="Image files, folders of images or of one folder for each species, and tables. None: some are drawn."),
]
Layout = Annotated[
    str | None,
    typer.Option(
        help="The layout of the data set: folders, table, cub, pets, aircraft, cars, coco, fishvista or huggingface. "
        "By default it is recognised."
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(help="The folder that the file names of a table are relative to.  [default: the folder of the table]"),
]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="The number of images at most.")]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, max=LARGEST_SEED, help="Which images of the embedded world are drawn, and which mosaics are made.  [default: 0]"
    ),
]
Among = Annotated[
    str | None,
    typer.Option(
        help="The classes among which a classifier decides: model (all of its own) or dataset (those of the data set)."
        "  [default: model]",
        autocompletion=_AMONG,
    ),
]

# ---- the model --------------------------------------------------------------------------------------------------------

Model = Annotated[
    str | None,
    typer.Option(
        help="A model that `concept-cam models` lists, a folder of one, or package.module:function, which returns a model or "
        "what concept_cam.wrap returns. world-shortcut is the embedded encoder with planted shortcuts, world-last-block one "
        "that collects its evidence in the last block.  [default: world, the embedded encoder]",
        autocompletion=_MODELS,
    ),
]
Pretrained = Annotated[str | None, typer.Option(help="An open_clip tag (downloaded on first use) or a file of weights.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="For a classifier: a file with one class name for each row. timm knows the names of ImageNet, transformers those "
        "of its checkpoints."
    ),
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1 or mps.", autocompletion=_DEVICES)]
Site = Annotated[str | None, typer.Option(help="The layer whose tokens are read; `concept-cam check` lists the sites.")]
Fit = Annotated[
    str | None,
    typer.Option(
        help="How an image is fitted to the input: crop, pad, squash or native.  [default: as trained]", autocompletion=_FITS
    ),
]
Size = Annotated[
    str | None,
    typer.Option(help="The input size in pixels, N or HxW. A larger size gives a map with more cells.  [default: as trained]"),
]
Templates = Annotated[
    str | None,
    typer.Option(
        help="The sentences around a name: the name of a list, or a file with one sentence a line.", autocompletion=_TEMPLATES
    ),
]

# ---- what is asked ----------------------------------------------------------------------------------------------------

_METHODS = (
    "The method that makes the maps; `concept-cam methods` lists them. class_stream:4 and direct:4 read the last four blocks "
    "alone."
)
Method = Annotated[str, typer.Option(help=_METHODS, autocompletion=_METHOD_NAMES)]
UsualMethod = Annotated[
    str | None,
    typer.Option(
        help=f"{_METHODS}  [default: class_stream where the embedding is a class token, else hires_cam]",
        autocompletion=_METHOD_NAMES,
    ),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        help="The concepts that references are chosen from: the name of a list, or a file.", autocompletion=_VOCABULARIES
    ),
]
Parts = Annotated[
    str | None,
    typer.Option(
        help="The parts of the object and their attributes: the name of a list, such as birds, or a YAML or CSV file."
        "  [default for the embedded encoder: world-parts]",
        autocompletion=_VOCABULARIES,
    ),
]

Table = Annotated[
    Path | None,
    typer.Option(help="Also write a table of all images to this file, which ends in .csv or .parquet."),
]
Output = Annotated[
    str,
    typer.Option("--as", help="files: of each image its own; parquet: a data set in data/, a file for every 256 images."),
]
Overlays = Annotated[
    bool | None,
    typer.Option("--overlays/--no-overlays", help="Draw on each image or do not.  [default: with --as files]"),
]
BatchSize = Annotated[int, typer.Option(min=1, max=4096, help="The number of images that go through the model at once.")]
Workers = Annotated[int, typer.Option(min=1, max=256, help="The number of threads that read images.")]
Processes = Annotated[
    int,
    typer.Option(
        min=1,
        max=256,
        help="The number of processes that share the work, each with a model of its own; with --device cuda on all GPUs.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What starts them: processes (of this machine) or ray (on this one, or on the cluster of RAY_ADDRESS).",
        autocompletion=_ENGINES,
    ),
]
Out = Annotated[Path, typer.Option(help="The folder for the results. A run that is half done there is resumed.")]

Json = Annotated[
    bool,
    typer.Option("--json", help="Print a JSON object on each line, and nothing else, on standard output; docs/commands.md."),
]

FailOn = Annotated[
    list[str] | None,
    typer.Option(help="Exit with 1 if this holds: 'off_object > 0.3', 'accuracy < 0.9', 'suspects > 0'; may be repeated."),
]

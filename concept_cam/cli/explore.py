"""``concept-cam explore``: one page in which a browser compares all concepts of a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import Answers
from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import check_texts
from concept_cam.cli.images import check_all, check_apart, make_folder
from concept_cam.cli.tabled import of_tables
from concept_cam.cli.terminal import complain, say
from concept_cam.errors import OptionError


def explore(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, folders of images or of one folder for each species, and tables.")
    ],
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="The concepts that targets and references are chosen from: the name of a list, or a file.  [default: the "
            "species of the embedded world, or the classes of a classifier]"
        ),
    ] = None,
    method: options.UsualMethod = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    out: Annotated[Path, typer.Option(help="The page to write, a file that ends in .html.")] = Path(
        "concept-cam-explorer.html"
    ),
) -> None:
    """Write one page in which you choose image, target, references and strength, and the map follows at once.

    The page holds the maps of all concepts of the vocabulary for each image, so it needs neither the model nor a server. The
    method must be linear in the direction.
    """
    from concept_cam.explorer import check_method, write_explorer
    from concept_cam.methods import method_named

    if out.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--out {out}: expected the name of a page, which ends in .html.")
    out = address_of(out)
    chosen = None if method is None else method_named(method)
    if chosen is not None:
        check_method(chosen)
    check_texts(vocabulary=vocabulary)
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    found = sources(of_tables(images)[0])
    make_folder(out.parent)
    check_apart((*found, *images), [out])
    backbone = given.load()
    suited = given.preset.suiting(backbone)
    names = vocabulary or suited.vocabulary or ()
    if not names and not backbone.classes:
        raise OptionError(
            f"{backbone.name} has no vocabulary of its own; give one with --vocabulary, the name of a list or a file."
        )
    localizer = given.localizer(backbone, names, suited.templates, chosen)
    failed = write_explorer(
        localizer,
        found,
        out,
        batch_size=batch_size,
        workers=workers,
        command=command_line(),
        failed=lambda _, error: complain(error),
    )
    if failed < len(found):
        count = "1 image" if len(found) - failed == 1 else f"{len(found) - failed:,} images"
        megabytes = out.stat().st_size / 1e6
        say(f"{count} x {len(localizer.vocabulary):,} concepts in {out} ({megabytes:.1f} MB); open it in a browser")
        texts = ["--vocabulary", vocabulary] if vocabulary else []
        Answers().next("localize", *images, "--target", localizer.vocabulary[0], "--nearest", 1, *texts, *given.words)
    check_all(len(found), failed, out)

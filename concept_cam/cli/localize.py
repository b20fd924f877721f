"""``concept-cam localize``: heat maps of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.cli import options
from concept_cam.cli.encoders import Asked
from concept_cam.cli.folders import sources
from concept_cam.cli.given import check_texts, refuse
from concept_cam.cli.images import Watched, check_apart, make_folder, names_of
from concept_cam.cli.tabled import of_tables
from concept_cam.cli.terminal import cell, complain, console, say
from concept_cam.errors import ComparisonError, ConceptCamError, ImageError, OptionError, OutputError

if TYPE_CHECKING:
    from PIL import Image

    from concept_cam.comparison import Selector
    from concept_cam.localizer import Localizer
    from concept_cam.result import Localization

_BATCH = 8
_STRENGTH = 0.6
_RESULTS = ("-overlay.png", "-compared.png", ".safetensors", ".json")
_SWEEP, _BY_REFERENCE = "-strengths.png", "-references.png"


def localize(
    images: options.Images = None,
    target: Annotated[str | None, typer.Option(help="The concept to look for.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="A concept to compare with; may be repeated.")] = None,
    vocabulary: options.Vocabulary = None,
    nearest: Annotated[
        int | None, typer.Option(max=100_000, help="Compare with the K concepts of the vocabulary that are most similar.")
    ] = None,
    rivals: Annotated[
        int | None, typer.Option(max=100_000, help="Compare with the K concepts that score highest on the image.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help=f"The weight of the references; 0 gives the base map.  [default: {_STRENGTH}]"),
    ] = None,
    method: options.Method = "hires_cam",
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    sweep: Annotated[bool, typer.Option("--sweep", help="Also draw the maps at strengths from 0 to 2, side by side.")] = False,
    by_reference: Annotated[
        bool,
        typer.Option("--by-reference", help="Also draw each place in the colour of the reference that it rules out most."),
    ] = False,
    seed: options.Seed = None,
    out: options.Out = Path("concept-cam-out"),
) -> None:
    """Draw a heat map of what makes an image the target and not its references."""
    from concept_cam.comparison import check_strength
    from concept_cam.files import write_image
    from concept_cam.methods import method_named, sees_score

    chosen = method_named(method)
    if sum(bool(choice) for choice in (against, nearest is not None, rivals is not None)) > 1:
        raise ComparisonError("References come from one of --against, --nearest and --rivals; give one of them.")
    if strength is not None:
        check_strength(strength)
    if images:
        refuse("--seed", seed, "where images are given: it says which plate to draw")
    if not sees_score(chosen):
        refuse("--strength", strength, f"with --method {method}, which does not look at the score")
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    references = _references(against, nearest, rivals)
    check_texts(vocabulary=vocabulary)
    plate = None
    if not images:
        if not given.preset.draws:
            raise ImageError("No image given; images are drawn only for the embedded model (without --model).")
        plate, target, twin = _draw(target, seed or 0)
        references = references or (twin if sees_score(chosen) else None)
    elif target is None:
        raise ComparisonError("What shall be found in the image? Name it with --target.")
    found = sources(of_tables(images or [])[0], but=out)
    make_folder(out)
    if plate is not None:
        found = [write_image(out / f"{target.replace(' ', '-')}-{seed or 0}.png", plate)]
    backbone = given.load()
    preset = given.preset.suiting(backbone)
    localizer = given.localizer(backbone, vocabulary or preset.vocabulary or (), preset.templates, chosen)
    by_each = partial(_draw_by_reference, 1.0 if strength is None else strength)
    extras = [draw for wanted, draw in ((sweep, _draw_sweep), (by_reference, by_each)) if wanted]
    asked = _STRENGTH if strength is None else strength
    failed = _run(localizer, found, target, references, asked, out, extras)
    if failed:
        rest = f"the others are in {out}" if failed < len(found) else "none is left"
        raise ImageError(f"{failed} of {len(found)} images failed; {rest}.")


def _draw(target: str | None, seed: int) -> tuple[Image.Image, str, Selector]:
    """A plate of the target, and its twin to compare with."""
    from concept_cam import comparison, world
    from concept_cam.world.birds import twins

    target = target or twins()[0][0]
    plate = world.draw_species(target, seed)
    twin = next(twin for name, twin, _ in twins() if name == target)
    return plate.image, target, comparison.against(twin)


def _references(against: list[str] | None, nearest: int | None, rivals: int | None) -> Selector | None:
    from concept_cam import comparison

    if nearest is not None:
        return comparison.nearest(nearest)
    if rivals is not None:
        return comparison.rivals(rivals)
    return comparison.against(*against) if against else None


def _run(
    localizer: Localizer,
    images: Sequence[Path],
    target: str,
    references: Selector | None,
    strength: float,
    out: Path,
    extras: Sequence[Callable[[Localizer, Image.Image, str, Selector | None, Path], None]],
) -> int:
    """Localize in all images, some at a time; returns how many failed."""
    from tqdm import tqdm

    names, watched = names_of(images), Watched(images)
    suffixes = (*_RESULTS, _SWEEP, _BY_REFERENCE)
    check_apart(images, (out / f"{name}{suffix}" for name in names.values() for suffix in suffixes))
    failed = 0

    with tqdm(total=len(images), disable=None if len(images) > _BATCH else True) as bar:

        def report(path: Path, error: ConceptCamError) -> None:
            nonlocal failed
            if len(images) == 1:
                raise error
            failed += 1
            bar.update()
            complain(error)

        done = localizer.stream(watched, target, references, strength=strength, batch_size=_BATCH, on_error=report)
        with closing(done):
            for path, result in done:
                try:
                    image = watched.again(path)
                    _write(result, image, path, out / names[path])
                    for draw in extras:
                        draw(localizer, image, target, references, out / names[path])
                except (OptionError, OutputError):
                    raise  # a full disk is full for all
                except ConceptCamError as error:
                    report(path, error)
                else:
                    bar.update()
    return failed


def _write(result: Localization, image: Image.Image, path: Path, stem: Path) -> None:
    from concept_cam.drawing import overlay, side_by_side
    from concept_cam.files import write_file, write_image

    overlay_path, compared_path, map_path, json_path = (stem.with_name(stem.name + suffix) for suffix in _RESULTS)
    write_image(overlay_path, overlay(result, image))
    write_image(compared_path, side_by_side(result, image))
    result.save(map_path)
    found = {"image": str(path), "peak": result.peak(), "boxes": result.boxes(), **result.summary()}
    write_file(json_path, (json.dumps(found, indent=2) + "\n").encode())
    _print_table(result, path, overlay_path)


def _draw_sweep(localizer: Localizer, image: Image.Image, target: str, references: Selector | None, stem: Path) -> None:
    from concept_cam.drawing import strip
    from concept_cam.files import write_image

    results = localizer.sweep(image, target, references)
    write_image(stem.with_name(f"{stem.name}{_SWEEP}"), strip(results, image))


def _draw_by_reference(
    strength: float, localizer: Localizer, image: Image.Image, target: str, references: Selector | None, stem: Path
) -> None:
    from concept_cam.drawing import by_reference
    from concept_cam.files import write_image

    results = localizer.against_each(image, target, references, strength=strength)
    write_image(stem.with_name(f"{stem.name}{_BY_REFERENCE}"), by_reference(results, image))


def _print_table(result: Localization, path: Path, overlay_path: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    comparison = result.comparison
    table = Table("concept", "role", "score", "similarity", "weight", title=Text(cell(path.name)), title_justify="left")
    table.add_row(Text(cell(comparison.target)), "target", f"{result.scores[comparison.target]:.3f}", "", "")
    rows = zip(comparison.references, comparison.similarities, comparison.weights, strict=True)
    for name, similarity, weight in rows:
        table.add_row(Text(cell(name)), "reference", f"{result.scores[name]:.3f}", f"{similarity:.3f}", f"{weight:.2f}")
    console().print(table)
    x, y = result.peak()
    say(f"strongest at ({x:.0f}, {y:.0f}); heat map in {overlay_path}")

"""``concept-cam search``: the images of a store that show a text best, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.address import address_of
from concept_cam.cli import options
from concept_cam.cli.answers import Answers
from concept_cam.cli.command import command_line
from concept_cam.cli.encoders import Asked
from concept_cam.cli.given import check_texts, references_of, refuse
from concept_cam.cli.images import check_apart, make_folder
from concept_cam.errors import one_line

if TYPE_CHECKING:
    from concept_cam.backbones import Backbone
    from concept_cam.localizer import Localizer
    from concept_cam.store import Store

_STRENGTH, _MOST = 0.6, 1000


def search(
    store: Annotated[Path, typer.Argument(help="The folder that `fields` wrote.")],
    targets: Annotated[list[str], typer.Argument(help="What to look for: one text or several, each alone.")],
    against: Annotated[list[str] | None, typer.Option(help="A concept to compare with; may be repeated.")] = None,
    vocabulary: options.Vocabulary = None,
    nearest: Annotated[
        int | None, typer.Option(max=100_000, help="Compare with the K concepts of the vocabulary that are most similar.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help=f"The weight of the references.  [default: {_STRENGTH}]")] = None,
    top: Annotated[int, typer.Option(min=1, max=_MOST, help="The number of images for each text.")] = 50,
    root: Annotated[
        Path | None,
        typer.Option(help="The folder that the images lie in now.  [default: where they were, seen from the store]"),
    ] = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    device: options.Device = "cpu",
    out: Annotated[Path, typer.Option(help="The folder for the page, the tables and the overlays.")] = Path(
        "concept-cam-search"
    ),
    json: options.Json = False,
) -> None:
    """Rank the images of a store by texts, and show where: search.html, explore.html, matches.csv, matches.json, overlays/.

    The model is the one that the store was made with, of which the text encoder alone is run. Templates and input are those of
    the store. Images are opened only to be drawn on.
    """
    from concept_cam.comparison import check_strength
    from concept_cam.decoding import MAX_BYTES
    from concept_cam.outside import parse_json, read_bytes
    from concept_cam.store import Store, write_matches
    from concept_cam.store.matches import MATCHES

    told, references = Answers(json), references_of(against, nearest, None)
    if strength is not None:
        check_strength(strength)
    if references is None:
        refuse("--strength", strength, "without --against or --nearest")
    if nearest is None:
        refuse("--vocabulary", vocabulary, "without --nearest")
    given = Asked(model, pretrained, classes, device)
    check_texts(vocabulary=vocabulary)
    out = address_of(out)
    held = Store.open(store, root)
    make_folder(out, "overlays")
    backbone = given.load()
    names = (vocabulary or given.preset.suiting(backbone).vocabulary or ()) if nearest is not None else ()
    localizer = _localizer(held, backbone, names)
    answers = held.search(localizer, targets, references, strength=_STRENGTH if strength is None else strength, top=top)
    written = [out / "overlays" / f"{k:02d}-{rank:04d}.png" for k in range(1, len(answers) + 1) for rank in range(1, top + 1)]
    check_apart([match.image for answer in answers for match in answer.matches], written)
    leads: list[str] = []
    page = write_matches(answers, out, command_line(), leads.append)
    for answer, lead in zip(answers, leads, strict=True):
        best = f"; the first is {one_line(answer.matches[0].image.name, 120)}" if answer.matches else ""
        told.say(f"{one_line(answer.comparison.target, 120)}: the highest {len(answer.matches)} of {len(held):,} images{best}")
        told.say(one_line(lead, 1000))
    told.say(f"page in {page}")
    for about in parse_json(read_bytes(out / MATCHES, MAX_BYTES))["answers"] if json else ():
        for match in about["matches"]:
            told.give(comparison=about["comparison"], **match)
    first = next((answer for answer in answers if answer.matches), None)
    if first is not None:
        others = [word for name in first.comparison.references for word in ("--against", name)] or ["--strength", "0"]
        words = ("localize", first.matches[0].image, "--target", first.comparison.target, *others, *given.model_words)
        told.next(*words)


def _localizer(held: Store, backbone: Backbone, vocabulary: str | tuple[()]) -> Localizer:
    """A localizer that reads texts and images as that of the store did."""
    from concept_cam.localizer import Localizer

    settings, own = held.settings, backbone.preprocess
    return Localizer(
        backbone,
        vocabulary=vocabulary,
        templates=None if backbone.classes else tuple(settings["templates"]),
        fit=None if settings["fit"] == own.fit else settings["fit"],
        size=None if tuple(settings["size"]) == tuple(own.size) else tuple(settings["size"]),
    )

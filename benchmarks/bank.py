"""Does a call cost more where a vocabulary is large, or many captions were asked for? ``python -m benchmarks.bank``.

The embedded encoder on one plate, which is decoded already: what is left is the text side, one forward pass and one map. All
names are made of words that the encoder knows.
"""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.timing import Contender, alternate, machine
from concept_cam import Localizer, nearest, rivals, world
from concept_cam.world.captions import FEATURES

WAYS = ("named", "nearest(3)", "rivals(3)", "predicted class")


def names() -> Iterator[str]:
    """Names that no two have: a colour, a part, another colour, another part."""
    colours = FEATURES["crown"][:10]
    parts = [part for part, values in FEATURES.items() if set(colours) <= set(values)]
    for first, part, second, other, third, last in product(colours, parts, colours, parts, colours, parts):
        yield f"{first} {part} {second} {other} {third} {last}"


def contenders(localizer: Localizer) -> dict[str, Contender]:
    """One call for each way to choose target and references."""
    image = world.draw_species("ember finch", seed=3).image
    target, other = localizer.vocabulary[:2]
    return {
        "named": lambda: localizer(image, target, other),
        "nearest(3)": lambda: localizer(image, target, nearest(3)),
        "rivals(3)": lambda: localizer(image, target, rivals(3)),
        "predicted class": lambda: localizer(image, strength=0),
    }


def vocabulary_table(sizes: list[int], runs: int) -> Table:
    """Milliseconds of a call, once the vocabulary is embedded."""
    backbone = world.localizer().backbone
    made: dict[str, Callable[[], object]] = {}
    for size in sizes:
        localizer = Localizer(backbone, vocabulary=tuple(islice(names(), size)), templates=["a {}"])
        made |= {f"{way}, {size}": call for way, call in contenders(localizer).items()}
    seconds = alternate(made, runs)
    table = Table("a call, ms", *(f"{size:,} names" for size in sizes), "last / first", box=box.MARKDOWN)
    for way in WAYS:
        row = [1000 * seconds[f"{way}, {size}"] for size in sizes]
        table.add_row(way, *(f"{value:.1f}" for value in row), f"{row[-1] / row[0]:.3f}")
    return table


def captions_table(count: int, runs: int) -> Table:
    """Milliseconds of a call and megabytes of the process, before and after so many different captions in a row."""
    names_kept = ("ember finch", "frost finch", "royal jay", "willow finch")
    localizer = world.localizer(vocabulary=names_kept, templates=["a {}"])
    ways = contenders(localizer)
    table = Table("captions so far", *(f"{way}, ms" for way in WAYS), "most memory, MB", box=box.MARKDOWN)
    asked = 0
    for upto in (0, count // 4, count):
        for caption in tqdm(islice(names(), asked, upto), total=upto - asked, disable=None, leave=False):
            localizer.bank_around([caption])
        asked = upto
        seconds = alternate(ways, runs)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.add_row(f"{upto:,}", *(f"{1000 * seconds[way]:.1f}" for way in WAYS), f"{most:.0f}")
    return table


def main(
    size: Annotated[int, typer.Option(help="Names of the large vocabulary.")] = 30_000,
    captions: Annotated[int, typer.Option(help="Captions in a row.")] = 40_000,
    runs: Annotated[int, typer.Option(help="Runs of each contender.")] = 20,
) -> None:
    """Print both tables."""
    # These made-up names are not similar.
    warnings.simplefilter("ignore")
    console = Console(width=150)
    print(f"{machine()}\n")
    console.print(vocabulary_table([2, size], runs))
    console.print(captions_table(captions, runs))


if __name__ == "__main__":
    typer.run(main)

"""What does a store lose, how well is it searched, and how long does that take? ``python -m benchmarks.store``.

Losses are those of the maps of plates of the embedded world for 1,000 texts: species against their twins, and one attribute
("red crown") or several against "bird". ``exact`` and ``compact`` are what ``concept-cam fields --keep`` offers; below them
stand ways that were tried and are not offered. The search is measured on drawn plates, and on an index of random vectors. A
table of ways to rank compares the score, which is what a search ranks by, with what the maps say.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from benchmarks.timing import machine
from concept_cam import Localizer, world
from concept_cam.concepts import ConceptBank
from concept_cam.files import FileWriter, write_image
from concept_cam.metrics import pointing_hit, rank_correlation
from concept_cam.store import KEEP, Store, pack, store_fields, unpack
from concept_cam.store.index import NAME, Index, head_of, sums_of
from concept_cam.world import PARTS, Plate
from concept_cam.world.birds import ATTRIBUTES, COLOURS, phrase, random_bird, twins
from concept_cam.world.dataset import attributes_dataset
from concept_cam.world.renderer import HELD_OUT_STREAM, draw

Fields: TypeAlias = Float[Tensor, "B N E"]
Way: TypeAlias = Callable[[Fields], tuple[Fields, float]]
"""Fields as they are read back, and the bytes of each."""

_TOP, _SIZE, _WIDTH = 50, 192, 512
_TEXTS, _STRENGTH = 1000, 0.6


def directions_of(localizer: Localizer) -> Mapping[str, Float[Tensor, "K E"]]:
    """Of 1,000 texts: species against their twins, and birds with one attribute or with two to four against "bird"."""
    single = list(dict.fromkeys(phrase(attribute, value) for attribute, values in ATTRIBUTES.items() for value in values))
    numbers, several = np.random.default_rng(0), dict[str, None]()
    while len(several) < _TEXTS - len(single) - len(twins()):
        chosen = numbers.choice(list(ATTRIBUTES), numbers.integers(2, 5), replace=False)
        several[f"bird with {' and '.join(phrase(name, numbers.choice(ATTRIBUTES[name])) for name in chosen)}"] = None
    bank = localizer.bank([*world.species(), *single, *several, "bird"])
    kinds = {
        "species against twins": [(name, twin) for name, twin, _ in twins()],
        "one attribute against bird": [(name, "bird") for name in single],
        "two to four against bird": [(name, "bird") for name in several],
    }
    return {kind: torch.stack([_direction(bank, *pair) for pair in pairs]) for kind, pairs in kinds.items()}


def _direction(bank: ConceptBank, name: str, reference: str) -> Float[Tensor, " E"]:
    return bank.vectors[bank.index(name)] - _STRENGTH * bank.vectors[bank.index(reference)]


def ways(localizer: Localizer, kinds: Mapping[str, Float[Tensor, "K E"]]) -> Mapping[str, Way]:
    """Those that are offered, and those that were tried: low rank, and a projection on texts, seen or not."""
    species = localizer.bank(world.species()).vectors
    texts = torch.cat([species, *kinds.values()])
    offered: dict[str, Way] = {keep: _packed(keep) for keep in KEEP}
    return offered | {
        "rank 32, 8 bits": _of_rank(32),
        "rank 48, 8 bits": _of_rank(48),
        "128 dimensions of all these texts, 8 bits": _projected(texts, 128),
        "48 dimensions of the species' names, 8 bits": _projected(species, 48),
    }


def _packed(keep: str) -> Way:
    def way(fields: Fields) -> tuple[Fields, float]:
        packed = [pack(one, keep) for one in fields]
        size = sum(tensor.numel() * tensor.element_size() for tensor in packed[0])
        return torch.stack([unpack(*one) for one in packed]), size

    return way


def _of_rank(rank: int) -> Way:
    """Of the field whose patches are divided by the root of their size, so that weak patches count."""

    def way(fields: Fields) -> tuple[Fields, float]:
        sizes = fields.norm(dim=2, keepdim=True).clamp(min=1e-30).sqrt()
        left, values, right = torch.linalg.svd(fields / sizes, full_matrices=False)
        root = values[:, None, :rank].sqrt()
        parts = _in_8_bits(left[:, :, :rank] * root) * sizes, _in_8_bits(right[:, :rank] * root.mT)
        return parts[0] @ parts[1], rank * (fields.shape[1] + fields.shape[2])

    return way


def _projected(texts: Float[Tensor, "K E"], dimensions: int) -> Way:
    def way(fields: Fields) -> tuple[Fields, float]:
        axes = torch.linalg.svd(texts, full_matrices=False)[2][:dimensions]
        return _in_8_bits(fields @ axes.T) @ axes, dimensions * fields.shape[1]

    return way


def _in_8_bits(numbers: Fields) -> Fields:
    scales = numbers.abs().amax(2, keepdim=True).clamp(min=1e-30) / 127
    return (numbers / scales).round() * scales


def losses_table(localizer: Localizer, count: int) -> Table:
    """Rank correlation with the model's own maps, mean and least, and the share of peaks that moved by more than a patch."""
    examples = attributes_dataset(count).examples
    found = []
    for start in tqdm(range(0, count, 16), disable=None, leave=False):
        found += localizer.fields([example.read() for example in examples[start : start + 16]])
    cols = found[0].vectors.shape[1]
    fields = torch.stack([one.vectors.flatten(0, 1) for one in found])
    kinds = directions_of(localizer)
    table = Table("kept as", "bytes an image", *(f"{len(texts)}: {kind}" for kind, texts in kinds.items()), box=box.MARKDOWN)
    for name, way in ways(localizer, kinds).items():
        read, size = way(fields)
        cells = []
        for texts in kinds.values():
            alike, moved = [], []
            for direction in texts:
                own, kept = (each @ direction for each in (fields, read))
                alike.append(rank_correlation(own[:, None], kept[:, None]))
                ours, theirs = (torch.stack([one.argmax(1) // cols, one.argmax(1) % cols]) for one in (own, kept))
                moved.append(((ours - theirs).abs().amax(0) > 1).double().mean())
            all_alike = torch.stack(alike)
            cells.append(f"{all_alike.mean():.4f}, {all_alike.min():.3f}, {100 * torch.stack(moved).mean():.2f} %")
        table.add_row(name, f"{size:,.0f}", *cells)
    return table


# ---- the search ---------------------------------------------------------------------------------------------------------


def plate(index: int) -> Plate:
    """A held-out bird of no species."""
    rng = np.random.default_rng([HELD_OUT_STREAM, 0, index, 2000])
    return draw(random_bird(rng), rng, _SIZE)


def found_table(localizer: Localizer, folder: Path, count: int) -> Table:
    """Of the first 50 images of some texts, how many show them, and in how many the peak is on the part."""
    paths = [folder / "images" / f"{index:05d}.png" for index in range(count)]
    for index in tqdm(range(count), disable=None, leave=False):
        if not paths[index].exists():
            write_image(paths[index], plate(index).image)
    titles = ("kept as", "text", "of the first 50", "peak on the part", "within a patch", "ms", "ms with maps", "peak MB")
    table = Table(*titles, box=box.MARKDOWN)
    for keep in KEEP:
        store_fields(localizer, paths, folder / keep, keep, batch_size=16)
        store = Store.open(folder / keep)
        store.search(localizer, "bird", top=1)  # the model is compared with that of the store once
        for part, colour in (("crown", "red"), ("wing", "blue"), ("tail", "yellow")):
            start = time.perf_counter()
            (answer,) = store.search(localizer, phrase(part, colour), "bird", top=_TOP)
            ranked = time.perf_counter()
            results = [answer.localize(match) for match in answer.matches]
            done = time.perf_counter()
            plates = [plate(int(match.image.stem)) for match in answer.matches]
            right = sum(one.bird.card[part] == colour for one in plates)
            on = [
                sum(_on(result.peak(), one, part, slack) for result, one in zip(results, plates, strict=True))
                for slack in (0.0, _SIZE / 12)
            ]
            times = (f"{1000 * (moment - start):.0f}" for moment in (ranked, done))
            table.add_row(keep, phrase(part, colour), str(right), *map(str, on), *times, f"{_most():.0f}")
    return table


def ranks_table(localizer: Localizer, folder: Path, count: int) -> Table:
    """Ways to rank, each for every part in every colour against "bird", where the 200 images of the highest scores are ranked.

    Of the first 50: how many show the part in the colour, and in how many the peak is on the part. Of as many as show it: how
    many are found.
    """
    store = Store.open(folder / "exact")
    plates = [plate(number) for number in range(min(count, len(store)))]
    found = [store.field(number) for number in range(len(plates))]
    fields, embeddings = (torch.stack(each) for each in zip(*((one.vectors, one.embedding) for one in found), strict=True))
    masks = {part: torch.from_numpy(np.stack([one.mask(part) for one in plates])) for part in PARTS}
    bank = localizer.bank([*(phrase(part, colour) for part in PARTS for colour in COLOURS), "bird"])
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for part, colour in ((part, colour) for part in PARTS for colour in COLOURS):
        shows = torch.tensor([one.bird.card[part] == colour for one in plates])
        direction = _direction(bank, phrase(part, colour), "bird")
        maps, scores = fields @ direction, embeddings @ direction
        cells = maps.flatten(1).argmax(1)
        sides = torch.tensor(maps.shape[1:])
        y, x = torch.stack([cells // sides[1], cells % sides[1]]) * _SIZE // sides[0] + _SIZE // sides[0] // 2
        on = masks[part][torch.arange(len(plates)), y, x]
        first = scores.topk(min(200, len(plates))).indices
        for name, values in _places_of(maps, scores).items():
            order = first[values[first].argsort(descending=True)]
            of_all = shows[order[: int(shows.sum())]]
            told = (shows[order[:_TOP]], on[order[:_TOP]], of_all)
            rows.setdefault(name, []).append(tuple(float(one.double().mean()) for one in told))
    table = Table("ranked by", "of the first 50, %", "peak on the part, %", "of as many as there are, %", box=box.MARKDOWN)
    for name, of_name in rows.items():
        table.add_row(name, *(f"{100 * mean:.1f}" for mean in np.mean(of_name, axis=0)))
    return table


def _places_of(maps: Float[Tensor, "n h w"], scores: Float[Tensor, " n"]) -> Mapping[str, Float[Tensor, " n"]]:
    """By what images could be ranked: the score, and what one place of the map explains."""
    positive = maps.clamp(min=0)
    best = 9 * F.avg_pool2d(positive[:, None], 3, 1, 1).flatten(1).amax(1)
    share = best / positive.flatten(1).sum(1).clamp(min=1e-9)
    return {
        "score": scores,
        "largest value of the map": maps.flatten(1).amax(1),
        "positive evidence of the best 3 x 3 patches": best,
        "their share of all positive evidence": share,
        "score times that share": scores.clamp(min=0) * share,
    }


def _on(peak: tuple[float, float], one: Plate, part: str, slack: float) -> bool:
    mask = torch.from_numpy(one.mask(part))
    return bool(mask.any()) and bool(pointing_hit(torch.tensor([peak]), mask[None], slack))


def index_table(folder: Path, rows: int, queries: int = 3) -> Table:
    """Seconds and memory of a search among random vectors."""
    file, step = folder / "stub" / NAME, 10_000

    def blocks() -> Iterator[Float[np.ndarray, "n E"]]:
        for start in tqdm(range(0, rows, step), disable=None, leave=False):
            rng = np.random.default_rng(start)
            yield rng.standard_normal((min(step, rows - start), _WIDTH), dtype=np.float32)

    sums = np.concatenate([sums_of(block) for block in blocks()])
    with FileWriter(file) as writer:
        writer.write(head_of("stub", np.zeros((rows, 2), np.int64), sums, _WIDTH))
        for block in blocks():
            writer.write(block.tobytes())
    index = Index.open(file.parent, "stub")
    directions = F.normalize(torch.randn(queries, _WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    before = _most()
    table = Table("images", "numbers each", "texts", "seconds", "peak MB before", "peak MB after", box=box.MARKDOWN)
    for several in (1, queries):
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            index.best(directions[:several], _TOP)
            times.append(time.perf_counter() - begun)
        table.add_row(f"{rows:,}", str(_WIDTH), str(several), f"{sorted(times)[1]:.2f}", f"{before:.0f}", f"{_most():.0f}")
    return table


def _most() -> float:
    """Megabytes that the process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    count: Annotated[int, typer.Option(help="Plates for the losses.")] = 300,
    images: Annotated[int, typer.Option(help="Plates that are stored and searched; 0 for none.")] = 1000,
    rows: Annotated[int, typer.Option(help="Rows of the index of random vectors; 0 for none.")] = 1_000_000,
    folder: Annotated[Path | None, typer.Option(help="Where plates and stores stay.  [default: a temporary folder]")] = None,
) -> None:
    """Print the tables."""
    console, localizer = Console(width=200), world.localizer()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        if rows:
            console.print(index_table(place, rows))
        if images:
            console.print(found_table(localizer, place, images))
            console.print(ranks_table(localizer, place, 1000))
    if count:
        console.print(losses_table(localizer, count))


if __name__ == "__main__":
    typer.run(main)

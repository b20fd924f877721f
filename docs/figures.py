"""Draws the images of the README and of the docs, and writes the table of methods: ``python docs/figures.py``."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from concept_cam import world
from concept_cam.drawing import by_reference, map_on, overlay, side_by_side, strip
from concept_cam.methods import CARDS, METHODS, by_block, sees_score
from concept_cam.parts import annotated, find_parts, read_parts
from concept_cam.world.birds import species, twins
from concept_cam.world.renderer import DRAWING_STREAM, draw
from concept_cam.world.shortcuts import SHORTCUTS

DOCS = Path(__file__).parent
OTHERS = ("frost finch", "royal jay", "coral heron")
COLOURS = ("#c22", "#26c", "#282", "#e90", "#82c", "#0aa", "#777", "#a52")
EXAMPLES = (("ember finch", 3), ("amber kingfisher", 1), ("coral heron", 5), ("royal jay", 2))


def plates(columns: int = 6, rows: int = 3, side: int = 200) -> Image.Image:
    """A page of species, each beside its twin."""
    pairs = [pair for pair in twins() if pair[0] < pair[1]]
    names = [name for target, twin, _ in pairs[:: len(pairs) * 2 // (columns * rows)] for name in (target, twin)]
    sheet = Image.new("RGB", (columns * side, rows * side))
    for i, name in enumerate(names[: columns * rows]):
        plate = world.draw_species(name, seed=i // 2, size=side)
        sheet.paste(plate.image, (i % columns * side, i // columns * side))
    return sheet


def comparisons() -> Image.Image:
    """Base maps and contrastive maps of some species against their twins."""
    localizer = world.localizer()
    twin_of = {target: twin for target, twin, _ in twins()}
    panels = []
    for name, seed in EXAMPLES:
        image = world.draw_species(name, seed).image
        panels.append(side_by_side(localizer(image, name, twin_of[name]), image, legend=False))
    sheet = Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), "white")
    for i, panel in enumerate(panels):
        sheet.paste(panel, (0, sum(p.height for p in panels[:i])))
    return sheet


def first_map() -> Image.Image:
    """What a first map looks like: image, base map and contrastive map of one bird."""
    image = world.draw_species("ember finch", seed=3).image
    return side_by_side(world.localizer()(image, "ember finch", "frost finch"), image)


def methods(side: int = 104, columns: int = 2) -> Image.Image:
    """Base maps and contrastive maps of all methods on the same three birds."""
    twin_of = {target: twin for target, twin, _ in twins()}
    birds = [(name, world.draw_species(name, seed).image) for name, seed in EXAMPLES[:3]]
    label, gap = 190, 6
    rows = -(-len(METHODS) // columns)
    sheet = Image.new("RGB", (columns * (label + 6 * (side + gap)), rows * (side + gap)), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (name, method) in enumerate(METHODS.items()):
        left, top = i // rows * (label + 6 * (side + gap)), i % rows * (side + gap)
        write.text((left + 8, top + side // 2 - 8), name, fill="black", font=font)
        localizer = world.localizer(method=method)
        for k, (bird, image) in enumerate(birds):
            # At strength 1: similarity methods have no zero point, and below 1 a rest of the target hides the difference.
            result = localizer(image, bird, twin_of[bird] if sees_score(method) else None, strength=1.0)
            for contrastive in (0, 1):
                small = overlay(result, image, base=not contrastive).resize((side, side), Image.Resampling.LANCZOS)
                if contrastive == 0 or sees_score(method):
                    sheet.paste(small, (left + label + (2 * k + contrastive) * (side + gap), top))
    return sheet


def sweep() -> Image.Image:
    """One comparison at strengths from 0 to 2."""
    name, seed = EXAMPLES[0]
    image = world.draw_species(name, seed).image
    return strip(world.localizer().sweep(image, name, next(twin for bird, twin, _ in twins() if bird == name)), image)


def references(bird: str = "ember finch", seed: int = 3, others: tuple[str, ...] = OTHERS) -> Image.Image:
    """Which part of a bird is evidence against which other bird."""
    image = world.draw_species(bird, seed).image
    return by_reference(world.localizer().against_each(image, bird, others), image)


def shortcuts(side: int = 200) -> Image.Image:
    """Species with shortcuts: base and contrastive maps of the encoder that has learnt them, contrastive maps of the other."""
    twin_of = {target: twin for target, twin, _ in twins()}
    clean, planted = world.localizer(), world.localizer(checkpoint=world.SHORTCUT)
    ours, others = "shortcut encoder:\n", "embedded encoder:\n"
    titles = ("image", f"{ours}base map", f"{ours}contrastive map", f"{others}contrastive map")
    line, gap, names = 46, 8, ("meadow jay", "sky falcon", "misty heron")
    sheet = Image.new("RGB", (4 * (side + gap) + gap, line + len(names) * (side + gap)), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for k, title in enumerate(titles):
        write.multiline_text((gap + k * (side + gap), 4), title, fill="black", font=font)
    for i, name in enumerate(names):
        image = draw(species()[name], np.random.default_rng([DRAWING_STREAM, i]), 2 * side, (SHORTCUTS[name],)).image
        found = [localizer(image, name, twin_of[name], strength=1.0) for localizer in (planted, clean)]
        panels = [image, overlay(found[0], image, base=True), *(overlay(one, image) for one in found)]
        for k, panel in enumerate(panels):
            small = panel.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (gap + k * (side + gap), line + i * (side + gap)))
    return sheet


def depth(side: int = 130) -> Image.Image:
    """Three birds against their twins: the last block by hires_cam, all blocks by class_stream, and each block alone."""
    twin_of = {target: twin for target, twin, _ in twins()}
    localizer = world.localizer()
    bank = localizer.bank(species())
    blocks = len(localizer.backbone.blocks)
    titles = ("image", "hires_cam", "class_stream", *(f"block {block + 1}" for block in range(blocks)))
    line, gap = 24, 4
    sheet = Image.new("RGB", (len(titles) * (side + gap), line + 3 * (side + line)), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for k, title in enumerate(titles):
        write.text((k * (side + gap) + 4, 4), title, fill="black", font=font)
    for i, (name, seed) in enumerate(EXAMPLES[:3]):
        image = world.draw_species(name, seed).image
        (seen,) = localizer.passes([localizer.frame(image)], ["class_stream"])
        target, twin = bank.vectors_of([name, twin_of[name]])
        alone = by_block(seen.trace, (target - twin)[None, None]).sum(-1)[:, 0, 0]
        maps = [seen.maps("hires_cam", (target - twin)[None, None]).stacked[0, 0], alone.sum(0), *alone]
        shares = alone.clamp(min=0).sum((1, 2)) / alone.clamp(min=0).sum()
        captions = ["", "", "", *(f"{share:.0%} of the evidence" for share in shares.tolist())]
        panels = [image, *(map_on(image, seen.placements[0], grid.float()) for grid in maps)]
        for k, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
            small = panel.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (k * (side + gap), line + i * (side + line)))
            write.text((k * (side + gap) + 4, line + i * (side + line) + side + 3), caption, fill="black", font=font)
    return sheet


def depth_curve() -> str:
    """Energy in the differing part and hit rate of class_stream by the number of last blocks it reads."""
    rows = list(csv.DictReader((DOCS / "depth.csv").read_text().splitlines()))[::-1]
    lines = {
        f"{metric}, {name}": [(k + 1.0, float(row[column])) for k, row in enumerate(rows)]
        for metric in ("hit", "energy")
        for name, column in (("last blocks", f"{metric}, from here on"), ("one block alone", metric))
    }
    return chart(lines, [k + 1.0 for k in range(len(rows))])


def methods_table(page: str) -> str:
    """The page with its first table, that of the methods, written anew."""
    header = "| method | kind | compares | forward passes | backward passes | needs |"
    rows = [
        f"| {name} | {card.kind} | {card.compares} | {card.forwards} | {card.backwards} | {card.needs} |"
        for name, card in CARDS.items()
    ]
    start = page.index(header)
    return "\n".join([page[:start] + header, "|---|---|---|---|---|---|", *rows]) + page[page.index("\n\n", start) :]


def parts() -> Image.Image:
    """The parts of one bird, found and read."""
    image = world.draw_species("misty heron", seed=1).image
    return annotated(find_parts(world.localizer(), image, read_parts("world-parts")), image)


def learning_curve() -> str:
    """Zero-shot accuracy by training step."""
    rows = list(csv.DictReader((DOCS / "world-curve.csv").read_text().splitlines()))
    parts = [key for key in rows[0] if key in world.PARTS]
    values = {
        "species": [float(row["species"]) for row in rows],
        "colour of a part (mean)": [sum(float(row[part]) for part in parts) / len(parts) for row in rows],
        "tail shape": [float(row["tail shape"]) for row in rows],
    }
    steps = [float(row["step"]) for row in rows]
    return chart({name: list(zip(steps, of_one, strict=True)) for name, of_one in values.items()}, steps[4::5])


def strengths() -> str:
    """Energy in the differing part and hit rate by strength, against the twin."""
    rows = list(csv.DictReader((DOCS / "evaluation-strengths.csv").read_text().splitlines()))
    lines = {
        f"{name}, {metric}": [(float(row["strength"]), float(row[metric])) for row in rows if row["method"] == name]
        for metric in ("hit", "energy")
        for name in dict.fromkeys(row["method"] for row in rows)
    }
    return chart(lines, [0, 0.5, 1, 1.5, 2])


def chart(lines: dict[str, list[tuple[float, float]]], ticks: list[float], width: int = 720, height: int = 300) -> str:
    """Lines over a range from 0 as SVG; values are 0 to 1."""
    left, top, right, bottom = 40, 12, width - 170, height - 30
    end = max(x for line in lines.values() for x, _ in line)

    def point(x: float, value: float) -> str:
        return f"{left + x / end * (right - left):.1f},{bottom - value * (bottom - top):.1f}"

    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    svg.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - tick * (bottom - top)
        svg.append(f'<path d="M{left},{y:.1f}H{right}" stroke="#ddd"/><text x="4" y="{y + 4:.1f}">{tick:.2f}</text>')
    for tick in ticks:
        svg.append(f'<text x="{point(tick, 0).split(",")[0]}" y="{height - 10}" text-anchor="middle">{tick:g}</text>')
    free = 0.0
    coloured = zip(lines.items(), COLOURS[: len(lines)], strict=True)
    for (name, line), colour in sorted(coloured, key=lambda item: -item[0][1][-1][1]):
        # Names beside the ends of their lines, from above, no two on each other.
        free = max(bottom - line[-1][1] * (bottom - top), free + 14)
        path = " ".join(point(x, value) for x, value in line)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        svg.append(f'<text x="{right + 8}" y="{free + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*svg, "</svg>\n"])


if __name__ == "__main__":
    plates().save(DOCS / "plates.png", optimize=True)
    first_map().save(DOCS / "first-map.png", optimize=True)
    comparisons().save(DOCS / "comparisons.png", optimize=True)
    sweep().save(DOCS / "sweep.png", optimize=True)
    references().save(DOCS / "by-reference.png", optimize=True)
    parts().quantize(256).save(DOCS / "parts.png", optimize=True)
    depth().quantize(256).save(DOCS / "depth.png", optimize=True)
    shortcuts().save(DOCS / "shortcuts.png", optimize=True)
    methods().quantize(256).save(DOCS / "methods.png", optimize=True)
    (DOCS / "methods.md").write_text(methods_table((DOCS / "methods.md").read_text()))
    (DOCS / "world-curve.svg").write_text(learning_curve())
    (DOCS / "depth.svg").write_text(depth_curve())
    (DOCS / "evaluation-strengths.svg").write_text(strengths())

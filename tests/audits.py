"""What several tests of audits need; fixtures are imported by name."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save_file

from concept_cam import world
from concept_cam.audit import Audit, AuditRow, audit
from concept_cam.audit.examine import Examiner
from concept_cam.audit.object_share import ALIGNED
from concept_cam.audit.packing import numbers_of
from concept_cam.audit.setup import Setup
from concept_cam.datasets import Dataset
from concept_cam.images import Placement
from concept_cam.parts import read_parts
from concept_cam.prompts import read_vocabulary
from concept_cam.runs import Skipped
from concept_cam.tables import columns_of, read_table
from concept_cam.world.birds import species
from concept_cam.world.dataset import birds_dataset

HABITATS = read_vocabulary("world-habitats").names
PARTS = read_parts("world-parts")
SPECIES = tuple(species())
A, B, C = SPECIES[:3]


@pytest.fixture(scope="module")
def localizer():
    return world.localizer()


@pytest.fixture(scope="module")
def examiner(localizer):
    return Examiner(localizer, SPECIES, PARTS, HABITATS)


@pytest.fixture(scope="module")
def looked(examiner):
    """Four plates, with what was seen on them."""
    examples = birds_dataset(4, seed=2).examples[:]
    return examples, *examiner.examine(examples)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("concept_cam.audit.run.BATCH", 3)


def audited(localizer, dataset, folder, **options):
    return audit(localizer, dataset, folder, parts=PARTS, backgrounds=HABITATS, **options)


def alike(ours, theirs):
    """Two rows, numbers to four digits."""
    one, other = vars(ours), vars(theirs)
    return one.keys() == other.keys() and all(
        other[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value) for key, value in one.items()
    )


def made_by_hand(examiner, dataset, folder, rows, batches):
    """An audit of rows and maps that no model has made: of each batch the tensors that are summed, as they are given."""
    files = []
    for number, tensors in enumerate(batches):
        count = len(tensors["effects"])
        placement = numbers_of(Placement((0.0, 0.0, 6.0, 4.0), (4, 6)))
        drawn = {
            "decision": torch.ones(count * 6),
            "base": torch.ones(count * 6),
            "scene": torch.ones(count * 6),
            "grids": torch.tensor([[2, 3]] * count),
            "placements": placement.repeat(count, 1),
            # Of files that are gone.
            "sources": torch.frombuffer(bytearray(b"gone.png" * count), dtype=torch.uint8),
            "source_ends": torch.arange(1, count + 1) * 8,
            "digests": torch.ones(count, 32, dtype=torch.uint8),
        }
        files.append(folder / f"{number}.safetensors")
        save_file({**drawn, **tensors}, files[-1])
    return Audit(Setup.of(examiner, dataset, rows), folder, rows, files)


@pytest.fixture(scope="module")
def by_hand(localizer, tmp_path_factory):
    """Eight images, of which one is broken; maps and effects are the number of the image."""
    folder = tmp_path_factory.mktemp("hand")
    columns = (
        "label",
        "predicted",
        "runner_up",
        "confidence",
        "runner_up_probability",
        "off_object",
        "energy",
        "rd5",
        "border",
        "off_area",
    )
    given = [
        (A, A, B, 0.9, 0.1, 0.5, 0.4, 1.0, 0.2, 0.6),
        (B, A, B, 0.6, 0.35, 0.7, 0.2, 0.5, 0.4, 0.8),  # shows the second
        (A, A, C, 0.8, 0.15, 0.6, 0.3, 0.0, 0.0, 0.7),
        (C, A, B, 0.5, 0.3, 0.6, 0.3, 0.5, 0.2, 0.7),  # shows neither
        None,
        (B, B, A, 0.7, 0.2, 0.25, 0.8, 1.5, 0.0, 0.6),
        (B, B, A, 0.95, 0.04, 1.0, 0.0, 0.5, 0.0, 0.6),
        (C, B, C, 0.55, 0.45, None, None, 0.5, None, None),  # where its object is nobody knows
    ]
    rows = []
    for k, values in enumerate(given):
        about = dict(zip(columns, values, strict=True)) | {"correct": values[0] == values[1]} if values else {}
        rows.append(AuditRow(image=f"p{k}", **about) if values else Skipped(image=f"p{k}", label=A, problem="gone"))
    good = [k for k, values in enumerate(given) if values]
    batches = []
    for some in (good[:3], good[3:]):
        whole = torch.stack([torch.full((ALIGNED, ALIGNED), float(k)) for k in some])
        effects = torch.tensor([[0.01 * k, 0.5 - 0.1 * k] for k in some])
        agreements = torch.tensor([[0.1 * k] for k in some])
        tensors = {
            "aligned": whole,
            "whole": whole.clone(),
            "shared": whole / 10,
            "agreements": agreements,
            "effects": effects,
            "chance": torch.tensor([[0.0, 0.2, -0.3]] * len(some)),
        }
        batches.append(tensors)
    examiner = Examiner(localizer, (A, B, C, SPECIES[3]), backgrounds=HABITATS[:2])
    dataset = Dataset("hand", (A, B, C, SPECIES[3]), (), problems=("q: cut short",))
    return made_by_hand(examiner, dataset, folder, rows, batches)


def table(path):
    """Its rows; what is empty is an empty text."""
    content = path.read_bytes()
    return [dict.fromkeys(columns_of(content), "") | row for row in read_table(content)]


class Cells(HTMLParser):
    """The tables of a page, as they are written, and its links to images and to other pages."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.pages: list[str] = []
        self._label = ""
        self._heading = self._cell = self._table = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "h2":
            self._heading, self._label = True, ""
        elif tag == "table":
            self._table = given["class"] != "matrix"
        elif tag == "tr" and self._table:
            self.rows.setdefault(self._label, []).append([])
        elif tag in ("td", "th") and self._table:
            self._cell = True
            self.rows[self._label][-1].append("")
        elif tag == "a" and not given["href"].startswith("#"):
            (self.pages if given["href"].endswith(".html") else self.links).append(unquote(given["href"]))

    def handle_endtag(self, tag):
        self._heading &= tag != "h2"
        self._cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._heading:
            self._label += data
        elif self._cell:
            self.rows[self._label][-1][-1] += data.strip()

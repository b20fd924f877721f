"""What several tests of audits need; fixtures are imported by name."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from concept_cam import world
from concept_cam.audit import audit
from concept_cam.audit.examine import Examiner
from concept_cam.parts import read_parts
from concept_cam.prompts import read_vocabulary
from concept_cam.tables import columns_of, read_table
from concept_cam.world.birds import species
from concept_cam.world.dataset import birds_dataset

HABITATS = read_vocabulary("world-habitats").names
PARTS = read_parts("world-parts")
SPECIES = tuple(species())


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
    one, other = ({key: value for key, value in row.items() if isinstance(value, str)} for row in (ours, theirs))
    numbers = {key: pytest.approx(value, abs=1e-4) for key, value in ours.items() if key not in one}
    return one == other and numbers == {key: value for key, value in theirs.items() if key not in other}


def table(path):
    """Its rows; what is empty is an empty text."""
    content = path.read_bytes()
    return [dict.fromkeys(columns_of(content), "") | row for row in read_table(content)]


class Cells(HTMLParser):
    """The tables of a page, as they are written, and the links and images on it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self._label = ""
        self._heading = self._cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "h2":
            self._heading, self._label = True, ""
        elif tag == "tr":
            self.rows.setdefault(self._label, []).append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.rows[self._label][-1].append("")
        elif tag == "a" and not given["href"].startswith("#"):
            self.links.append(unquote(given["href"]))

    def handle_endtag(self, tag):
        self._heading &= tag != "h2"
        self._cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._heading:
            self._label += data
        elif self._cell:
            self.rows[self._label][-1][-1] += data.strip()

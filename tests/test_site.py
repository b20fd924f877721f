"""The site builds without a warning, has every public name and no broken link, and loads nothing from outside."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from test_page import chromium, overflow

from workshop import llms

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
KINDS = (
    "index",
    "tutorial-text",
    "from-other-packages",
    "evaluation",
    "glossary",
    "methods",
    "api/concept_cam",
    "api/metrics",
    "404",
)
"""A page of each kind."""


class Links(HTMLParser):
    """Anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.lists_in_text: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        for key, value in attrs:
            if key == "id" and value:
                self.anchors.add(value)
            elif (tag, key) in LOADED and dict(attrs).get("rel") != "canonical":
                self.loaded.append(value or "")
            elif (tag, key) == ("a", "href"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        """A list without an empty line before it is text here, though a code host shows a list."""
        if self._tag == "p":
            self.lists_in_text += [line for line in data.splitlines()[1:] if line.startswith(("- ", "* ", "1. ", "| "))]


def broken(site: Path) -> list[str]:
    """Links and loaded files that lead nowhere, within a site; and whatever is loaded from outside."""
    pages = {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if link in page.loaded or address.scheme not in ("http", "https", "mailto"):
                    found.append(f"{path.name}: {link}")
                continue
            # The page for what is not found names all from the root of the site.
            start = site if address.path.startswith("/") or path.name == "404.html" else path.parent
            target = (start / unquote(address.path).lstrip("/")).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (address.fragment and unquote(address.fragment) not in pages[target].anchors):
                found.append(f"{path.name}: {link}")
    return found


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        """As it says."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the pages, so that nothing is written into the repository."""
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    for name in ("concept_cam", "workshop"):
        (folder / name).symlink_to(ROOT / name)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_every_public_name_is_on_the_site(site: Path):
    anchors = set().union(*(Links(path.read_text("utf-8")).anchors for path in (site / "api").glob("*.html")))
    names = (ROOT / "tests" / "surface.txt").read_text().split()
    # A function whose module has the same name stands there under its own: methods.own_streams.own_streams.
    missing = [name for name in names if not {name, f"{name}.{name.rpartition('.')[2]}"} & anchors]
    assert not missing, "add a directive ::: to a page in docs/api/"


@pytest.mark.slow
def test_examples_are_shown_as_code(site: Path):
    shown = [path for path in (site / "api").glob("*.html") if "&gt;&gt;&gt;" in path.read_text("utf-8")]
    assert len(shown) > 10
    for path in shown:
        assert "<blockquote>" not in path.read_text("utf-8"), path.name


@pytest.mark.slow
def test_no_link_is_broken(site: Path):
    assert len(list(site.rglob("*.html"))) > 40
    assert not broken(site)


def test_broken_links_are_found(tmp_path: Path):
    (tmp_path / "b.html").write_text('<h1 id="there"></h1>')
    links = ("b.html", "b.html#there", "https://example.org", "b.html#nowhere", "c.html", "#gone")
    text = "".join(f'<a href="{link}"></a>' for link in links) + '<script src="https://example.org/a.js"></script>'
    (tmp_path / "a.html").write_text(text)
    wrong = ("b.html#nowhere", "c.html", "#gone", "https://example.org/a.js")
    assert broken(tmp_path) == [f"a.html: {link}" for link in wrong]


@pytest.mark.slow
def test_lists_are_lists(site: Path):
    for path in site.glob("*.html"):
        assert not Links(path.read_text("utf-8")).lists_in_text, path.name


@pytest.mark.slow
def test_it_has_the_files_for_language_models_and_their_links_lead_somewhere(site: Path):
    text = (site / "llms.txt").read_text("utf-8")
    for _, path in llms.navigation():
        target = path.relative_to(DOCS).with_suffix(".html").as_posix()
        assert f"]({target})" in text
        assert (site / target).is_file()
    assert "# Glossary" in (site / "llms-full.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, on this machine alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_load_nothing_from_outside_and_fit_the_screen(address: str, browser: Any, width: int, scheme: str):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, asked, complaints = context.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    for name in KINDS:
        tab.goto(f"{address}/{name}.html")
        tab.wait_for_load_state("networkidle")
        assert overflow(tab) <= 0, name
    tab.goto(f"{address}/index.html")
    tab.keyboard.press("/")
    tab.keyboard.type("contrastive")
    tab.get_by_role("link", name="Contrastive map").first.wait_for()
    context.close()
    assert len(asked) > 5 * len(KINDS)
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not complaints


def test_every_page_is_in_the_navigation_once():
    told = [path for _, path in llms.navigation()]
    assert sorted(told) == sorted(DOCS.rglob("*.md"))


def test_every_package_that_exports_names_has_a_page():
    surface = (ROOT / "tests" / "surface.txt").read_text().split()
    packages = {".".join(name.split(".")[:2]) for name in surface if name.count(".") >= 2}
    text = "\n".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md"))
    missing = [name for name in sorted(packages) if f"::: {name}\n" not in text]
    assert not missing, "write docs/api/NAME.md and name it in mkdocs.yml"


def test_nothing_of_the_settings_is_from_outside():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert settings["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(settings)


def test_the_files_for_language_models_are_up_to_date():
    for name, text in (("llms.txt", llms.short()), ("llms-full.txt", llms.full())):
        assert (DOCS / name).read_text("utf-8") == text, "python -m workshop.llms"


def test_the_short_file_is_in_the_format_of_llmstxt():
    lines = llms.short().splitlines()
    assert lines[0] == "# concept-cam"
    assert lines[2].startswith("> ")
    first = next(k for k, line in enumerate(lines) if line.startswith("## "))
    assert not [line for line in lines[1:first] if line.startswith("#")]
    assert all(not line or line.startswith(("## ", "- [")) for line in lines[first:])

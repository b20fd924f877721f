"""The demo as it is served: gradio's own client and a browser drive it, visitors are apart, and nothing leads outside.

``python tests/test_demo_served.py FOLDER`` writes images of the page as a desk and a telephone show it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from clis import Run, embedded, run  # noqa: F401  (fixtures)
from test_demo import HOSTILE, LIMITS, SPECIES, UNUSUAL, plate, png, saved
from test_page import chromium, overflow

from concept_cam import Localization, world
from concept_cam.demo import build_demo, serve
from concept_cam.drawing import overlay
from concept_cam.errors import OptionError
from concept_cam.images import read_image
from concept_cam.writers import localize_images

ROOT = Path(__file__).parents[1]
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: pip install '.[demo]'")
served_slowly = [pytest.mark.slow, needs_gradio]


@dataclass
class Served:
    """A page that a process of its own serves: gradio leaves sockets and loops open, which would fail other tests here."""

    address: str
    folder: Path

    def forget(self) -> int:
        """The forward passes of the model since this was asked before."""
        kept = self.folder.parent / "passes"
        found = kept.stat().st_size if kept.exists() else 0
        kept.write_bytes(b"")
        return found

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Send a request as it is, without the help that makes paths tidy."""
        place = urlsplit(self.address)
        line = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        try:
            line.putrequest(method, path, skip_host="host" in headers)
            for name, value in {**({"content-length": str(len(body))} if body is not None else {}), **headers}.items():
                line.putheader(name.replace("_", "-"), value)
            line.endheaders(body)
            answer = line.getresponse()
            return answer.status, answer.read()
        finally:
            line.close()


def serve_here(folder: Path) -> None:
    """Serve until this process is ended; each forward pass is a byte in a file."""
    from concept_cam import passes

    real = passes.trace

    def trace(*values: Any, **named: Any) -> Any:
        with (folder / "passes").open("ab") as kept:
            kept.write(b".")
        return real(*values, **named)

    passes.trace = trace
    page = build_demo(world.localizer(vocabulary=SPECIES), plates=True, limits=LIMITS)
    sys.stdout.write(f"{serve(page, limits=LIMITS, block=False)}\n")
    sys.stdout.flush()
    page.block_thread()


@contextmanager
def open_page(folder: Path) -> Iterator[Served]:
    environment = {
        **os.environ,
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    command = [sys.executable, "-W", "ignore", __file__, "--serve", str(folder)]
    (folder / "work").mkdir()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, cwd=folder / "work", stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            address = process.stdout.readline().strip()
            assert address, (folder / "said").read_text()
            yield Served(address, folder / "gradio")
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_page(tmp_path_factory.mktemp("served")) as found:
        yield found


# ---- without gradio -----------------------------------------------------------------------------------------------------


def test_without_gradio_the_command_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    monkeypatch.setattr("concept_cam.demo.extra.find_spec", lambda name: None)
    assert run("demo").line() == "concept-cam: To open the demo: pip install 'concept-cam[demo]'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vocabulary", "nowhere.txt"), "nowhere.txt"),
        (("--method", "nonsense"), "nonsense"),
        (("--port", "0"), "--port"),
        (("--max-pixels", "0"), "--max-pixels"),
        (("--max-size", "0"), "--max-size"),
        (("--pretrained", "w.pt"), "needs a --model"),
    ],
)
def test_mistakes_of_the_command_are_one_line(run: Run, options: tuple[str, ...], message: str, monkeypatch):  # noqa: F811
    monkeypatch.setattr("concept_cam.demo.extra.find_spec", lambda name: name)
    assert message in run("demo", *options).line()


# ---- for scripts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(served: Served, tmp_path: Path) -> Iterator[Any]:
    from gradio_client import Client

    found = Client(served.address, verbose=False, download_files=tmp_path / "got")
    yield found
    found.close()


class TestScripts:
    pytestmark = served_slowly

    def test_there_is_one_endpoint(self, client: Any):
        assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/localize"]
        assert not client.view_api(return_format="dict")["unnamed_endpoints"]

    def test_the_files_are_those_that_localize_writes(self, client: Any, tmp_path: Path):
        from gradio_client import handle_file

        path = saved(tmp_path, "a finch.png", png(plate()))
        summary, files = client.predict(
            handle_file(path), "ember finch", ["frost finch"], 0.6, "class_stream", api_name="/localize"
        )
        own = world.localizer(vocabulary=SPECIES)
        localize_images(own, [Path(path)], tmp_path / "own", "ember finch", "frost finch", strength=0.6)
        assert sorted(Path(file).name for file in files) == sorted(file.name for file in (tmp_path / "own").iterdir())
        for file in map(Path, files):
            expected = tmp_path / "own" / file.name
            if file.suffix == ".png":
                assert file.read_bytes() == expected.read_bytes()
            elif file.suffix == ".json":
                about, known = json.loads(file.read_text()), json.loads(expected.read_text())
                assert (about.pop("image"), Path(known.pop("image")).name) == ("a finch.png", "a finch.png")
                assert about == known
                assert summary["boxes"] == known["boxes"]
            else:
                assert np.array_equal(Localization.load(file).map, Localization.load(expected).map)

    def test_what_is_not_given_has_a_default(self, client: Any, tmp_path: Path):
        from gradio_client import handle_file

        summary, _ = client.predict(handle_file(saved(tmp_path, "a.png", png(plate()))), api_name="/localize")
        assert summary["comparison"]["target"] == "ember finch"
        assert summary["comparison"]["references"] == ["frost finch"]
        assert summary["comparison"]["strength"] == 0.6

    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_hostile_upload_is_refused_in_one_line(self, client: Any, name: str, tmp_path: Path):
        from gradio_client import handle_file

        make, message = HOSTILE[name]
        with pytest.raises(Exception) as caught:  # noqa: PT011  (gradio's classes say nothing)
            client.predict(handle_file(saved(tmp_path, name, make())), "ember finch", api_name="/localize")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)

    @pytest.mark.parametrize("name", UNUSUAL)
    def test_an_unusual_upload_is_read_as_everywhere(self, client: Any, name: str, tmp_path: Path):
        from gradio_client import handle_file

        path = saved(tmp_path, name, UNUSUAL[name]())
        found = world.localizer(vocabulary=SPECIES)(path, "ember finch", "frost finch")
        summary, files = client.predict(handle_file(path), "ember finch", ["frost finch"], api_name="/localize")
        assert summary["peak"] == pytest.approx(found.peak())
        (drawn,) = (read_image(file) for file in files if file.endswith("-overlay.png"))
        assert drawn.tobytes() == overlay(found, read_image(path), legend=True).tobytes()

    def test_a_question_that_cannot_be_answered_is_one_line(self, client: Any, tmp_path: Path):
        from gradio_client import handle_file

        file = handle_file(saved(tmp_path, "a.png", png(plate())))
        for values, message in (
            (("zebra", []), "zebra"),
            (("ember finch", ["ember finch"]), "among its own references"),
            (("ember finch", ["frost finch"], -1), "-1"),
            (("ember finch", ["frost finch"], 0.6, "rise"), "rise"),
        ):
            with pytest.raises(Exception, match=message):
                client.predict(file, *values, api_name="/localize")

    def test_a_large_upload_ends_at_the_door(self, served: Served, client: Any, tmp_path: Path):
        from gradio_client import handle_file

        before = sum(file.stat().st_size for file in served.folder.rglob("*") if file.is_file())
        with pytest.raises(Exception, match=r"exceeds the maximum|413"):
            client.predict(handle_file(saved(tmp_path, "large.png", bytes(5_000_000))), api_name="/localize")
        assert sum(file.stat().st_size for file in served.folder.rglob("*") if file.is_file()) <= before + 100_000

    def test_the_script_of_the_page_works(self, served: Served, tmp_path: Path):
        script, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "demo.md").read_text(), re.S)
        saved(tmp_path, "finch.png", png(plate()))
        script = script.replace("http://127.0.0.1:7860", served.address)
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "'ember finch': 0." in done.stdout
        assert "finch-overlay.png" in done.stdout

    def test_the_page_in_python_and_the_space_are_served(self, tmp_path: Path):
        _, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "demo.md").read_text(), re.S)
        space = ROOT / "examples" / "space"
        run_space = f"import runpy; runpy.run_path({str(space / 'app.py')!r})['main']('127.0.0.1', 7861, False)"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(tmp_path)}
        for script in (code, run_space):
            with socket.create_server(("127.0.0.1", 0)) as free:  # other tests serve pages from 7860 on
                port = free.getsockname()[1]
            assert "7861" in script
            look = f"import urllib.request as u; assert b'concept-cam' in u.urlopen('http://127.0.0.1:{port}/').read()"
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                f"{script.replace('7861', str(port))}\n{look}; import os; os._exit(0)",
            ]
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

    def test_the_command_is_stopped_by_an_interrupt_and_says_what_is_wrong_with_a_port(self, served: Served, tmp_path: Path):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-W", "ignore", "-m", "concept_cam", "demo", "--port", str(urlsplit(served.address).port)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert re.fullmatch(r"concept-cam: The demo cannot listen on 127\.0\.0\.1:\d+: .*\n", done.stderr)
        nowhere = [*command[:-2], "--host", "nowhere.invalid"]
        done = subprocess.run(nowhere, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        with pytest.raises(OptionError, match="no IPv6"):
            serve(None, host="::1")
        assert re.fullmatch(r"concept-cam: The demo cannot listen on nowhere\.invalid.*\n", done.stderr)
        command[-2:] = ["--host", "0.0.0.0"]
        with subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout.readline().startswith("the page is at http://")
                process.send_signal(signal.SIGINT)
                assert process.wait(120) == 130
            finally:
                process.kill()
            note, interrupted = process.stderr.read().splitlines()
        assert note.startswith("concept-cam: note: --host 0.0.0.0 opens the page to other machines")
        assert interrupted == "concept-cam: interrupted; the page is closed."
        assert not list(tmp_path.glob("concept-cam-demo-*"))


# ---- nothing outside ----------------------------------------------------------------------------------------------------

SECRET = "a secret of this machine"


class TestOutside:
    pytestmark = served_slowly

    def test_no_file_outside_the_folder_can_be_read(self, served: Served, tmp_path: Path):
        inside, secret = served.folder / "a" / "shown.txt", tmp_path / "secret.txt"
        inside.parent.mkdir(parents=True)
        inside.write_text("for all")
        secret.write_text(SECRET)
        (served.folder / "a" / "link.txt").symlink_to(secret)
        for beside in (served.folder.parent / "beside.txt", served.folder.parent / "work" / "secret.txt"):
            beside.write_text(SECRET)
        up = "../" * 12
        status, content = served.ask(f"/gradio_api/file={inside}")
        assert (status, content) == (200, b"for all")  # so that a refusal means something
        for path in (
            str(secret),
            "secret.txt",
            "./secret.txt",
            f"{served.folder}/../beside.txt",
            f"{served.folder}/%2e%2e/beside.txt",
            f"{served.folder}/..%2fbeside.txt",
            f"{served.folder}/%252e%252e/beside.txt",
            f"{served.folder}/a/..\\..\\beside.txt",
            f"{served.folder}/a/shown.txt/../../../beside.txt",
            f"{served.folder}/a/shown.txt%00/../../../beside.txt",
            f"{up}etc/passwd",
            "/etc/passwd",
            "//etc/passwd",
            "%2fetc%2fpasswd",
            f"file://{secret}",
            "/proc/self/environ",
            f"{ROOT}/pyproject.toml",
            f"{Path(sys.executable)}",
        ):
            for start in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/", "/"):
                status, content = served.ask(f"{start}{path}")
                assert status in (403, 404, 400, 422, 405), (start, path, status)
                assert SECRET.encode() not in content
                assert b"root:" not in content

    def test_a_file_that_was_not_uploaded_is_no_image(self, served: Served, client: Any, tmp_path: Path):
        secret = saved(tmp_path, "secret.png", png(plate()))
        (endpoint,) = (one["id"] for one in client.config["dependencies"] if one["api_name"] == "localize")
        for path in (secret, "/etc/passwd", f"{served.folder}/../secret.png", "http://127.0.0.1:1/a.png", f"file://{secret}"):
            data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "ember finch", ["frost finch"], 0.6, "class_stream"]
            body = json.dumps({"data": data, "fn_index": endpoint, "session_hash": "abcdefg"}).encode()
            status, content = served.ask("/gradio_api/queue/join", "POST", body, content_type="application/json")
            if status == 200:
                status, content = served.ask("/gradio_api/queue/data?session_hash=abcdefg")
                assert b'"success":false' in content.replace(b" ", b"")
            else:
                assert status == 400
            assert b"root:" not in content

    def test_addresses_are_not_fetched(self, served: Served):
        with socket.create_server(("127.0.0.1", 0)) as trap:
            trap.settimeout(0.5)
            address = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
            file = {"path": address, "meta": {"_type": "gradio.FileData"}}
            body = json.dumps({"data": [file, file, [], 0.6, ""], "fn_index": 0, "session_hash": "x"}).encode()
            for path in (f"/gradio_api/file={address}", f"/gradio_api/proxy={address}", f"/gradio_api/file={address[:5]}"):
                assert served.ask(path)[0] in (403, 404)
            for path in ("queue/join", "call/localize", "run/localize", "api/localize"):
                assert served.ask(f"/gradio_api/{path}", "POST", body, content_type="application/json")[0] in (400, 404)
            with pytest.raises(TimeoutError):
                trap.accept()

    def test_uploads_and_downloads_are_deleted(self, tmp_path: Path):
        saved(tmp_path, "finch.png", png(plate()))
        script = f"""
import os, time
from pathlib import Path
from gradio_client import Client, handle_file
from concept_cam import world
from concept_cam.demo import blocks, build_demo, serve

blocks._SWEPT, blocks._OLD = 1, 10
page = build_demo(world.localizer(vocabulary={SPECIES[:3]!r}))
client = Client(serve(page, block=False), verbose=False, download_files="got")
client.predict(handle_file("finch.png"), api_name="/localize")
files = lambda: [file for file in Path("kept").rglob("*") if file.is_file() and file.stat().st_size]
assert len(files()) == 5, files()
end = time.monotonic() + 120
while files() and time.monotonic() < end:
    time.sleep(0.5)
assert not files(), files()
os._exit(0)
"""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(tmp_path / "kept")}
        command = [sys.executable, "-W", "ignore", "-c", script]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_another_host_is_refused(self, served: Served):
        assert served.ask("/", host="evil.example")[0] == 403

    def test_the_command_listens_on_loopback_alone_and_leaves_nothing(self, tmp_path: Path):
        psutil = pytest.importorskip("psutil")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "concept_cam", "demo"]
        with subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                line = process.stdout.readline()
                assert re.fullmatch(r"the page is at http://127\.0\.0\.1:\d+/ \(Ctrl-C closes it\)\n", line), line
                assert list(tmp_path.glob("concept-cam-demo-*"))
                own = psutil.Process(process.pid)
                sockets = [one for each in (own, *own.children(recursive=True)) for one in each.net_connections(kind="inet")]
                listening = {one.laddr.ip for one in sockets if one.status == "LISTEN"}
                assert listening == {"127.0.0.1"}
                assert {one.raddr.ip for one in sockets if one.raddr} <= {"127.0.0.1"}
                process.send_signal(signal.SIGTERM)
                assert process.wait(120) == 143
            finally:
                process.kill()
            assert process.stderr.read() == ""
        assert not list(tmp_path.glob("concept-cam-demo-*"))


# ---- in a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Any]:
    """Opens the page for a visitor; at the end nobody else was asked for anything, and nothing complained."""
    asked, complaints, contexts = set(), [], []

    def call(width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.add(request.url.split("?")[0]))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(served.address)
        page.locator("#figure img").wait_for()
        return page

    yield call
    for context in contexts:
        context.close()
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(served.address).netloc
    }
    assert [said for said in complaints if said != "Method not implemented."] == []  # what gradio says after each upload


def shown(page: Any) -> str:
    return page.locator("#figure img").get_attribute("src")


def changes(page: Any, act: Any) -> str:
    """The new map, once an action has changed it."""
    before = shown(page)
    act()
    page.wait_for_function("before => document.querySelector('#figure img')?.src !== before", arg=before)
    return shown(page)


def set_strength(page: Any, value: float) -> None:
    page.locator("#strength input[type=range]").fill(str(value))


def upload(page: Any, path: str) -> None:
    page.locator("#upload input[type=file]").set_input_files(path)


class TestBrowser:
    pytestmark = served_slowly

    def test_a_visitor_uploads_slides_and_presses(self, visit: Any, served: Served, tmp_path: Path):
        page = visit()
        changes(page, lambda: upload(page, saved(tmp_path, "jay.png", png(plate("royal jay", 1, 384)))))
        served.forget()
        maps = {changes(page, lambda value=value: set_strength(page, value)) for value in (0.0, 1.0, 2.0)}
        assert len(maps) == 3
        assert "strength 2" in page.locator("#figure figcaption").inner_text()
        page.locator("#figure img").click(position={"x": 80, "y": 80})
        page.locator("#place table").first.wait_for()
        assert page.locator("#place table").first.locator("tbody tr").count() == 6
        assert page.locator("#figure .cross").count() == 1
        page.get_by_role("button", name="3 nearest").click()
        page.wait_for_function("document.querySelectorAll('#references .token').length === 3")
        assert served.forget() == 0
        page.get_by_role("button", name="Make files").click()
        page.locator("#files a[download]").first.wait_for()
        with page.expect_download() as download:
            page.locator("#files a[download]").first.click()
        width, height = read_image(download.value.path()).size
        assert width == 384 < height  # with its legend
        assert served.forget() == 0

    def test_the_method_that_is_not_linear_waits_for_the_button(self, visit: Any, served: Served):
        page = visit()
        page.locator("#method input").click()
        page.get_by_role("option", name="layer_cam").click()
        page.locator("#note .notice").wait_for()
        assert "layer_cam is not linear" in page.locator("#note").inner_text()
        served.forget()
        changes(page, lambda: page.get_by_role("button", name="Show the map").click())
        assert served.forget() >= 1
        assert page.locator("#note .notice").count() == 0

    def test_two_visitors_see_their_own_images(self, visit: Any, tmp_path: Path):
        first, second = visit(), visit(380, "dark")
        names = {}
        for page, name in ((first, "royal jay"), (second, "misty heron")):
            path = saved(tmp_path, f"{name}.png", png(plate(name, 2, 384)))
            changes(page, lambda page=page, path=path: upload(page, path))
            names[page] = shown(page)
        assert names[first] != names[second]
        for page in (first, second):
            changes(page, lambda page=page: set_strength(page, 1.5))
        back = [changes(page, lambda page=page: set_strength(page, 0.6)) for page in (first, second)]
        assert back == [names[first], names[second]]

    @pytest.mark.parametrize("name", ["svg.svg", "text.jpg", "bomb.png", "wide.png"])
    def test_a_hostile_upload_is_a_line_on_the_page(self, visit: Any, name: str, tmp_path: Path):
        page, before = visit(), None
        before = shown(page)
        upload(page, saved(tmp_path, name, HOSTILE[name][0]()))
        page.locator("#note .notice").wait_for()
        assert HOSTILE[name][1] in page.locator("#note").inner_text()
        assert "\n" not in page.locator("#note").inner_text().strip()
        assert shown(page) == before

    def test_names_are_texts(self, visit: Any):
        page = visit()
        page.locator("#target input").fill("<img src=x onerror=document.title='taken'> ${document.title='taken'} {{x}}")
        page.locator("#target input").press("Enter")
        page.locator("#note .notice").wait_for()
        assert page.title() != "taken"
        assert page.locator("#note img").count() == 0

    def test_it_works_with_the_keyboard_alone(self, visit: Any):
        page = visit()
        page.locator("button.map").focus()
        for key in ("ArrowLeft", "ArrowUp", "ArrowUp"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.locator("#place table").first.wait_for()
        cross = page.locator("#figure .cross").get_attribute("style")
        assert page.evaluate("document.activeElement.className") == "map"
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_function("before => document.querySelector('.cross').getAttribute('style') !== before", arg=cross)
        changes(page, lambda: page.locator("#strength input[type=range]").press("ArrowRight"))

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [380, 1280])
    def test_it_fits_a_telephone_and_a_desk(self, visit: Any, width: int, scheme: str):
        page = visit(width, scheme)
        assert overflow(page) <= 0
        box = page.locator("#figure img").bounding_box()
        assert box["width"] >= 280
        for role in ("button", "slider", "listbox"):
            for one in page.get_by_role(role).all():
                assert one.evaluate("e => e.innerText || e.ariaLabel || e.title || e.labels?.length || e.closest('label')"), (
                    role
                )


def main(folder: Path) -> None:
    """Images of the page, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as kept, open_page(Path(kept)) as served, chromium() as browser:
        for width, scheme in ((1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.goto(served.address)
            page.locator("#figure img").wait_for()
            page.screenshot(path=folder / f"start-{width}-{scheme}.png", full_page=True)
            page.locator("#figure img").click(position={"x": 120, "y": 140})
            page.locator("#place table").first.wait_for()
            page.get_by_role("button", name="Make files").click()
            page.locator("#files a[download]").first.wait_for()
            page.screenshot(path=folder / f"place-{width}-{scheme}.png", full_page=True)
            upload(page, saved(Path(kept), "svg.png", HOSTILE["svg.png"][0]()))
            page.locator("#note .notice").wait_for()
            page.screenshot(path=folder / f"refused-{width}-{scheme}.png", full_page=True)
            context.close()


if __name__ == "__main__":
    serve_here(Path(sys.argv[2])) if sys.argv[1] == "--serve" else main(Path(sys.argv[1]))

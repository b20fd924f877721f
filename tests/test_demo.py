"""The demo without its server: what it answers is what the library answers, within its limits; and the gate before it."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
import timm
import torch
from clis import embedded  # noqa: F401  (a fixture)
from PIL import Image
from zoo.shake import shaken

from concept_cam import Localization, Localizer, against, nearest, world, wrap
from concept_cam.demo import Limits
from concept_cam.demo.desk import Controls, Desk
from concept_cam.demo.downloads import tidy
from concept_cam.demo.explainer import Explainer, Wanted
from concept_cam.demo.figure import escaped, notice
from concept_cam.demo.gate import Gate
from concept_cam.demo.place import Place
from concept_cam.demo.upload import Upload
from concept_cam.demo.verdict import Verdict
from concept_cam.demo.view import Views
from concept_cam.drawing import overlay
from concept_cam.errors import ConceptCamError, ImageError, OptionError
from concept_cam.images import read_image

SPECIES = tuple(world.species())
LIMITS = Limits(max_bytes=3_000_000, max_pixels=4_000_000, images=3)
FINCH = ("ember finch", ["frost finch"], 0.6, "class_stream")


def plate(name: str = "ember finch", seed: int = 3, size: int = 192) -> Image.Image:
    return world.draw_species(name, seed, size).image


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# ---- hostile and unusual files ------------------------------------------------------------------------------------------


def huge(width: int, height: int) -> bytes:
    """A small PNG file that says it has so many pixels, and has them: rows of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))

    packer, rows = zlib.compressobj(9), bytearray()
    for _ in range(height):
        rows += packer.compress(bytes(1 + (width + 7) // 8))
    rows += packer.flush()
    head = pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", bytes(rows)) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "svg.svg": (lambda: SVG, "not an image in a known format"),
    "svg.png": (lambda: SVG, "not an image in a known format"),
    "text.jpg": (lambda: b"this is a text\n" * 9, "not an image in a known format"),
    "empty.png": (lambda: b"", "the file is empty"),
    "cut.png": (lambda: png(plate())[:900], "seems damaged"),
    "wide.png": (lambda: huge(60_000, 70), "60000 x 70 pixels, but this page takes at most 4,000,000"),
    "bomb.png": (lambda: huge(30_000, 30_000), "pixels"),
    "side.png": (lambda: huge(70_000, 1), "at most 65535 on a side"),
    "page.html": (lambda: b"<script>alert(1)</script>", "not an image in a known format"),
}


def turned() -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6
    plate().crop((0, 0, 192, 120)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def animated() -> bytes:
    stream = io.BytesIO()
    plate().save(stream, "GIF", save_all=True, append_images=[plate(seed=4), plate(seed=5)])
    return stream.getvalue()


def in_cmyk() -> bytes:
    stream = io.BytesIO()
    plate().convert("CMYK").save(stream, "JPEG")
    return stream.getvalue()


def in_16_bits() -> bytes:
    return png(Image.fromarray(np.asarray(plate().convert("L")).astype(np.uint16) * 257))


UNUSUAL = {"turned.jpg": turned, "animated.gif": animated, "cmyk.jpg": in_cmyk, "grey16.png": in_16_bits}


def saved(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_refused_in_one_line(name: str, tmp_path: Path):
    make, message = HOSTILE[name]
    with pytest.raises(ImageError) as caught:
        Upload.of(saved(tmp_path, name, make()), LIMITS).image()
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_large_file_is_not_read(tmp_path: Path):
    with pytest.raises(ImageError, match="has 4,000,000 bytes, but this page takes at most 3,000,000"):
        Upload.of(saved(tmp_path, "large.png", bytes(4_000_000)), LIMITS)


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_upload_is_read_as_everywhere(name: str, tmp_path: Path):
    path = saved(tmp_path, name, UNUSUAL[name]())
    found, expected = Upload.of(path, LIMITS).image(), read_image(path)
    assert (found.mode, found.size) == ("RGB", expected.size)
    assert found.tobytes() == expected.tobytes()


# ---- the desk, without gradio -------------------------------------------------------------------------------------------


@dataclass
class Counted:
    """Forward passes of a model."""

    passes: int = 0

    def forget(self) -> int:
        found, self.passes = self.passes, 0
        return found


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    return world.localizer(vocabulary=SPECIES)


@pytest.fixture
def counted(localizer: Localizer, monkeypatch: pytest.MonkeyPatch) -> Counted:
    from concept_cam import passes

    found, real = Counted(), passes.trace

    def trace(*values: Any, **named: Any) -> Any:
        found.passes += 1
        return real(*values, **named)

    monkeypatch.setattr(passes, "trace", trace)
    return found


@pytest.fixture
def desk(localizer: Localizer) -> Desk:
    return Desk(localizer, LIMITS)


def opened(desk: Desk, folder: Path, image: Image.Image | None = None, target: str | None = "ember finch") -> Controls:
    controls = Controls(None, target, ["frost finch"], 0.6, "class_stream")
    answer = desk.open_upload(saved(folder, "finch.png", png(image or plate())), controls)
    return replace(controls, key=answer.key, target=answer.target, references=answer.references)


def test_a_strength_and_a_reference_take_no_forward_pass_and_another_method_takes_one(
    desk: Desk, counted: Counted, localizer: Localizer, tmp_path: Path
):
    controls = opened(desk, tmp_path)
    assert counted.forget() == 1
    figures = [desk.slide(replace(controls, strength=strength)).figure for strength in (0.0, 0.3, 0.6, 1.0, 2.0)]
    assert len(set(figures)) == 5
    desk.follow(replace(controls, references=["willow finch"]))
    desk.retarget(replace(controls, target="frost finch", references=["ember finch"]))
    desk.choose("rivals", controls)
    desk.look_at(0.4, 0.4, controls)
    assert counted.forget() == 0
    other = replace(controls, method="hires_cam")
    answer = desk.show(other)
    assert counted.forget() == 1
    desk.slide(replace(other, key=answer.key, strength=1.0))
    assert counted.forget() == 0
    held = replace(controls, key=answer.key, method="legrad")
    assert "legrad is not linear in the direction" in desk.slide(held).note
    assert counted.forget() == 0
    assert desk.show(held).figure
    assert counted.forget() >= 1
    with pytest.raises(OptionError, match="legrad is not linear"):
        desk.look_at(0.4, 0.4, held)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["class_stream", "hires_cam", "legrad"])
def test_a_result_is_that_of_the_localizer(desk: Desk, method: str, tmp_path: Path):
    controls = replace(opened(desk, tmp_path), method=method)
    if method != "class_stream":
        controls = replace(controls, key=desk.show(controls).key or controls.key)
    result, upload, image = desk.result(controls)
    expected = world.localizer(vocabulary=SPECIES, method=method)(plate(), "ember finch", "frost finch")
    torch.testing.assert_close(result.map, expected.map, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.base_map, expected.base_map, rtol=1e-4, atol=1e-6)
    assert result.comparison.references == ("frost finch",)
    assert upload.name == "finch.png"
    assert overlay(result, image).size == (192, 192)


@pytest.mark.slow
def test_without_a_target_the_predicted_name_is_compared_with_the_runner_up(desk: Desk, tmp_path: Path):
    controls = opened(desk, tmp_path, target=None)
    assert (controls.target, controls.references) == ("ember finch", ["frost finch"])


@pytest.mark.slow
def test_a_target_that_the_page_suggested_is_suggested_anew_for_the_next_image(desk: Desk, tmp_path: Path):
    drawn = desk.open_plate(Controls(None, "", [], 0.6, "class_stream"))
    assert (drawn.target, drawn.references) == ("ember finch", ["frost finch"])
    path = saved(tmp_path, "jay.png", png(plate("royal jay")))
    controls = Controls(drawn.key, drawn.target, drawn.references, 0.6, "class_stream")
    jay = desk.open_upload(path, controls)
    assert jay.target == "royal jay"
    own = desk.open_upload(path, replace(controls, key=jay.key, target="ember finch"))
    assert (own.target, own.references) == ("ember finch", ["frost finch"])
    assert desk.open_upload(path, replace(controls, key=own.key)).target == "ember finch"


@pytest.mark.slow
def test_references_are_suggested_by_their_similarity_and_chosen_by_a_button(desk: Desk, localizer: Localizer, tmp_path: Path):
    controls = replace(opened(desk, tmp_path), references=[])
    bank = localizer.bank(SPECIES)
    suggested = desk.retarget(replace(controls, target="royal jay")).suggested
    assert suggested[:3] == list(bank.neighbours("royal jay", 3))
    assert desk.choose("nearest", controls).references == list(bank.neighbours("ember finch", 3))
    field = desk.views.get(controls.key).field
    scores = bank.scores(field.embedding[None])[0]
    assert desk.choose("rivals", controls).references == list(bank.ranked(scores, "ember finch", 3))


@pytest.mark.slow
def test_a_place_lists_the_concepts_with_most_evidence_there(desk: Desk, localizer: Localizer, tmp_path: Path):
    controls = opened(desk, tmp_path, plate().crop((0, 0, 192, 120)))
    view, bank = desk.views.get(controls.key), localizer.bank(SPECIES)
    result = desk.explainer.from_field(view.field, bank, controls.wanted())
    rows, cols = result.map.shape
    x, y = view.field.placement.locate(3, 5, (rows, cols))
    at = Place.of(view.field, bank, result, ((x + 1) / 192, (y + 1) / 120))
    assert at.point == pytest.approx((x, y))
    maps = view.field(bank)[:, 3, 5]
    assert [name for name, _ in at.concepts] == [SPECIES[k] for k in maps.argsort(descending=True).tolist()[:6]]
    assert at.concepts[0][1] == pytest.approx(float(maps.max()) / result.base.strongest)
    difference = maps[SPECIES.index("ember finch")] - maps[SPECIES.index("frost finch")]
    assert at.references == (("frost finch", pytest.approx(float(difference) / result.base.strongest)),)
    with pytest.raises(OptionError, match="did not see this place"):
        Place.of(view.field, bank, result, (0.01, 0.5))
    answer = desk.look_at(0.5, 0.5, controls)
    assert answer.place.count("<tr>") == 1 + 6 + 1 + 1
    assert 'class="cross"' in answer.figure


@pytest.mark.parametrize("place", [(None, 0.5), ("0.5", 0.5), (float("nan"), 0.5), (1.01, 0.5), ([0.5], 0.5), (-0.1, 0.2)])
def test_what_is_no_place_is_refused(desk: Desk, place: tuple[object, object]):
    with pytest.raises(OptionError, match="no place"):
        desk.look_at(*place, Controls("0" * 32, *FINCH))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", [], 0.6), "no target"),
        ((None, None, 0.6), "no target"),
        (("a" * 201, [], 0.6), "more than 200 letters"),
        (("a", ["b" * 201], 0.6), "more than 200 letters"),
        (("a", [str(k) for k in range(21)], 0.6), "21 references"),
        (("a", "b", 0.6), "a list of texts"),
        ((3, [], 0.6), "is a text"),
        (("a", [{}], 0.6), "a list of texts"),
        (("a", [], "1"), "expected a number"),
        (("a", [], None), "expected a number"),
        (("a", [], True), "expected a number"),
    ],
)
def test_what_is_no_question_is_refused(given: tuple[Any, ...], message: str):
    with pytest.raises(ConceptCamError, match=message):
        Wanted.of(*given)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [-1, float("nan")])
def test_a_strength_that_is_none_is_refused(desk: Desk, strength: float, tmp_path: Path):
    with pytest.raises(ConceptCamError, match="strength"):
        desk.slide(replace(opened(desk, tmp_path), strength=strength))


@pytest.mark.slow
def test_an_unknown_word_or_method_is_one_line(desk: Desk, tmp_path: Path):
    controls = opened(desk, tmp_path)
    with pytest.raises(ConceptCamError, match="zebra"):
        desk.retarget(replace(controls, target="zebra"))
    with pytest.raises(OptionError, match="There is no method 'rise' here"):
        desk.show(replace(controls, method="rise"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_a_question_that_fails_loses_no_image(desk: Desk, tmp_path: Path):
    controls = opened(desk, tmp_path)
    other = next(name for name in desk.explainer.live if name != str(controls.method))
    with pytest.raises(ConceptCamError, match="among its own references"):
        desk.show(replace(controls, method=other, references=[controls.target]))
    assert desk.show(replace(controls, method=other)).figure  # the key is as it was
    assert desk.slide(controls).figure
    found = desk.open_upload(saved(tmp_path, "jay.png", png(plate("royal jay"))), replace(controls, target="zebra"))
    assert "zebra" in found.note
    assert found.figure
    assert desk.slide(replace(controls, key=found.key, target="royal jay")).figure


@pytest.mark.slow
def test_the_views_of_all_visitors_are_bounded(desk: Desk, tmp_path: Path):
    first = opened(desk, tmp_path)
    others = [opened(desk, tmp_path) for _ in range(LIMITS.images - 1)]
    assert desk.slide(first).figure
    newest = opened(desk, tmp_path)
    with pytest.raises(ImageError, match="This image was dropped"):
        desk.slide(others[0])  # used least recently
    for controls in (first, *others[1:], newest):
        assert desk.slide(controls).figure
    again = desk.open_upload(saved(tmp_path, "jay.png", png(plate("royal jay"))), first)
    with pytest.raises(ImageError, match="dropped"):
        desk.slide(first)  # its place has the new one
    assert desk.slide(replace(first, key=again.key)).figure
    desk.views.drop(again.key)
    with pytest.raises(ImageError, match="dropped"):
        desk.views.get(again.key)
    with pytest.raises(ImageError, match="no image yet"):
        Views(1).get(None)


@pytest.mark.slow
def test_visitors_at_once_get_their_own_answers(desk: Desk, tmp_path: Path):
    strengths = [k / 10 for k in range(8)]
    visitors = [opened(desk, tmp_path, plate(name)) for name in ("ember finch", "royal jay", "misty heron")]
    alone = [[desk.slide(replace(one, strength=strength)).figure for strength in strengths] for one in visitors]
    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(desk.slide, replace(one, strength=strength)) for strength in strengths for one in visitors]
    found = [task.result().figure for task in tasks]
    assert [found[k::3] for k in range(3)] == alone


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no more like:UserWarning")
def test_a_classifier_is_served_among_its_classes(tmp_path: Path):
    model = shaken(lambda: timm.create_model("test_vit", num_classes=4)).float()
    desk = Desk(Localizer(wrap(model, classes=["ant", "bee", "wasp", "fly"])), LIMITS)
    controls = opened(desk, tmp_path, target="")
    assert {controls.target, *controls.references} < {"ant", "bee", "wasp", "fly"}
    assert len(desk.choose("nearest", controls).references) == 3
    with pytest.raises(ConceptCamError, match="moth"):
        desk.retarget(replace(controls, target="moth"))


@pytest.mark.slow
def test_the_verdict_says_who_scores_who_is_similar_and_where(desk: Desk, localizer: Localizer):
    image = plate(size=384)
    (field,) = localizer.fields([image])
    bank = localizer.bank(SPECIES)

    def of(target: str, selector: Any, strength: float = 1.0) -> str:
        result = field.localize(bank, target, selector, strength=strength)
        return " ".join(Verdict.of(result, field, bank, SPECIES).sentences)

    text = of("ember finch", against("frost finch"))
    assert "Of the 48 names of the vocabulary, 'ember finch' scores highest" in text
    assert "The reference 'frost finch' has the similarity 0.96 (cosine)" in text
    assert "against the references is strongest at the" in text or "against the references is strongest in the" in text
    text = of("royal jay", nearest(3), 0.0)
    assert "'ember finch' scores highest" in text
    assert re.search(r"\d+ score higher than the target 'royal jay'", text)
    assert "is the most similar" in text
    assert "no references: this is the base map" in of("ember finch", None, 0.0)


@pytest.mark.slow
def test_the_verdict_on_references_that_are_not_similar(localizer: Localizer):
    (field,) = localizer.fields([plate()])
    bank = localizer.bank(SPECIES)
    least = SPECIES[int(bank.similarities("ember finch").argmin())]
    with pytest.warns(UserWarning, match="no more like"):
        result = field.localize(bank, "ember finch", against(least))
    assert "comparing helps only against similar names" in " ".join(Verdict.of(result, field, bank, SPECIES).sentences)


@pytest.mark.slow
def test_where_no_place_is_evidence_the_verdict_says_so(localizer: Localizer):
    (field,) = localizer.fields([plate()])
    bank = localizer.bank(SPECIES)
    result = field.localize(bank, "ember finch", against("frost finch"))
    evidence = replace(result.evidence, grid=-result.map.abs() - 1)
    none: Localization = replace(result, evidence=evidence)
    assert "No place is evidence" in Verdict.of(none, field, bank, SPECIES).sentences[-1]


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "${alert(1)}", "{{constructor}}", "a`b", '"quoted"', "a\nb\\"]
)
def test_texts_are_neither_html_nor_template(text: str):
    for shown in (escaped(text), notice(text).partition(">")[2].removesuffix("</p>")):
        assert not set(shown) & set('<>"{}$`\\\n')


@pytest.mark.slow
def test_a_model_without_a_vocabulary_takes_texts(embedded, tmp_path: Path):  # noqa: F811
    desk = Desk(Localizer(embedded, templates="world"), LIMITS)
    path = saved(tmp_path, "finch.png", png(plate()))
    bare = desk.open_upload(path, Controls(None, "", [], 0.6, "class_stream"))
    assert "name a target" in bare.figure
    controls = Controls(bare.key, "red crown", [], 0.6, "class_stream")
    assert "this is the base map" in desk.show(controls).words
    assert desk.show(replace(controls, references=["blue crown"])).words
    with pytest.raises(OptionError, match="There is no vocabulary"):
        desk.choose("nearest", controls)


@pytest.mark.slow
def test_a_localizer_of_a_method_that_is_not_linear_is_served_too(tmp_path: Path):
    desk = Desk(world.localizer(vocabulary=SPECIES, method="legrad"), LIMITS)
    assert desk.explainer.first == "legrad"
    assert desk.explainer.methods[0] != "legrad"
    controls = replace(opened(desk, tmp_path), method="legrad")
    assert desk.show(controls).figure
    assert Explainer(world.localizer(method="hires_cam")).first == "hires_cam"


def test_what_gradio_leaves_empty_is_deleted(tmp_path: Path):
    (tmp_path / "old").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("full/a.png", "kept"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "empty").write_bytes(b"")
    tidy(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    tidy(tmp_path, age=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "kept"]
    tidy(tmp_path / "nowhere")


def test_limits_are_numbers_above_zero():
    with pytest.raises(OptionError, match="max_pixels is 0; expected 1 or more"):
        Limits(max_pixels=0)


# ---- the gate -----------------------------------------------------------------------------------------------------------


def passed(*given: Any, **named: Any) -> int:
    """The status of a request: 200 if the gate lets it through, 0 if it answers nothing."""
    return answered(*given, **named).get("status", 0)


def answered(
    path: str, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None, kind: str = "http"
) -> dict[str, Any]:
    """The first message of the answer to a request."""
    import asyncio

    sent: list[dict[str, Any]] = []
    pieces = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if method == "POST" and not path.endswith("/upload"):
            assert (await receive())["body"] == body
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": kind, "path": path, "method": method, "headers": pairs}
    asyncio.run(Gate(app, 1000, ("127.0.0.1", "localhost"))(scope, receive, send))
    return sent[0] if sent else {}


OPEN = ("/", "/config", "/theme.css", "/assets/a.js", "/static/fonts/a.woff2", "/gradio_api/info", "/gradio_api/queue/data")
SHUT = (
    "/gradio_api/file=https://example.org/a.png",
    "/gradio_api/file=http:/example.org",
    "/gradio_api/proxy=https://example.org",
    "/gradio_api/component_server",
    "/gradio_api/vibe-edit",
    "/gradio_api/run-history/connect",
    "/gradio_api/process_recording",
    "/gradio_api/deep_link",
    "/gradio_api/stream/a",
    "/gradio_api/run/localize",
    "/gradio_api/custom_component/1/client/component/a.js",
    "/monitoring",
    "/login",
    "/dev/reload",
    "/anything",
)


def test_the_gate_opens_what_the_page_needs_and_nothing_else():
    assert {path: passed(path) for path in OPEN} == dict.fromkeys(OPEN, 200)
    assert {path: passed(path) for path in SHUT} == dict.fromkeys(SHUT, 404)
    assert passed("/", kind="websocket") == 0


def test_the_browser_is_forbidden_to_ask_other_hosts():
    policy = dict(answered("/")["headers"])[b"content-security-policy"].decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["connect-src"] == rules["form-action"] == "'self'"
    assert not re.search(r"\*|https?:", policy)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "", "127.0.0.1.evil.example"])
def test_the_gate_answers_to_this_machine_alone(host: str):
    assert passed("/", headers={"host": host}) == 403
    assert passed("/", headers={"host": "localhost:99"}) == 200


JOIN = "/gradio_api/queue/join"


@pytest.mark.parametrize(
    "path", ["http://example.org/a.png", "https://example.org", " https://a.b", "file:///etc/passwd", "//a.b"]
)
def test_the_gate_refuses_addresses_as_files(path: str):
    body = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 3}).encode()
    assert passed(JOIN, "POST", body) == 400


def test_the_gate_bounds_what_is_sent():
    assert passed(JOIN, "POST", json.dumps({"data": [{"path": "/tmp/a/b.png"}, "http://is.a/text"]}).encode()) == 200
    assert passed(JOIN, "POST", b"{") == 400
    assert passed(JOIN, "POST", b"[" * 100_000 + b"]" * 100_000) == 400
    assert passed(JOIN, "POST", b'"' + b"a" * 1_000_000 + b'"') == 413
    upload = "/gradio_api/upload"
    assert passed(upload, "POST") == 411
    assert passed(upload, "POST", headers={"content-length": "101001"}) == 413
    assert passed(upload, "POST", headers={"content-length": "-1"}) == 411
    assert passed(upload, "POST", headers={"content-length": "1000"}) == 200

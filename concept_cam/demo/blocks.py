"""The page: its controls, and what each does."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.demo.desk import SUGGESTED, Answer, Controls, Desk
from concept_cam.demo.downloads import tidy, write_downloads
from concept_cam.demo.extra import gradio
from concept_cam.demo.figure import notice
from concept_cam.demo.limits import Limits
from concept_cam.errors import ConceptCamError
from concept_cam.localizer import Localizer

if TYPE_CHECKING:
    import gradio as gr

WAITING = 32
"""Requests that wait at most; others are told to try again."""

AT_ONCE = 2
"""Requests of one kind that are worked on at once."""

_SWEPT, _OLD = 60, 600
"""Seconds between two sweeps of uploads and downloads, and the age at which they are deleted."""

_ASIDE = {"api_visibility": "private", "show_progress": "hidden"}


def build_demo(localizer: Localizer, *, plates: bool = False, limits: Limits | None = None) -> gr.Blocks:
    """Build the page on which images are uploaded and compared; ``serve`` opens it.

    Args:
        localizer: model, vocabulary, templates and the method to begin with.
        plates: whether birds of the embedded world can be drawn as examples; one is there at the start.
        limits: of uploads, and of what is kept.

    Raises:
        OptionError: gradio is not installed.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.demo import build_demo, serve
        >>> page = build_demo(world.localizer(vocabulary=world.species()), plates=True)  # doctest: +SKIP
        >>> serve(page)  # doctest: +SKIP
    """
    found = gradio()
    desk = Desk(localizer, limits or Limits())
    page = found.Blocks(
        title="concept-cam", analytics_enabled=False, delete_cache=(_SWEPT, _OLD), fill_width=True, mode="concept-cam"
    )
    with page:
        parts = _Parts(found, desk, plates)
        _connect(found, page, desk, parts, plates)
        _connect_downloads(found, desk, parts)
    page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE)
    return page


class _Parts:
    """The parts of the page, in their order."""

    def __init__(self, found: Any, desk: Desk, plates: bool) -> None:
        explainer, limits = desk.explainer, desk.limits
        names = list(explainer.vocabulary[:SUGGESTED])
        methods = [(name if name in explainer.live else f"{name} (takes a pass)", name) for name in explainer.methods]
        self.key = found.State(None, delete_callback=desk.views.drop)
        found.Markdown(_HEAD)
        with found.Row():
            with found.Column(scale=2, min_width=280):
                megabytes = f"{limits.max_bytes / 1e6:g} MB, {limits.max_pixels / 1e6:g} million pixels"
                self.upload = found.File(label=f"Image (at most {megabytes})", height=150, elem_id="upload")
                self.plate = found.Button("Draw a bird as an example", size="sm", visible=plates, elem_id="plate")
                self.note = found.HTML("", elem_id="note", js_on_load=None)
                self.target = found.Dropdown(
                    names, value="", label="Target: the concept to look for", allow_custom_value=True, elem_id="target"
                )
                self.references = found.Dropdown(
                    names,
                    value=[],
                    multiselect=True,
                    label="References: similar concepts to compare with",
                    info="the most similar first",
                    allow_custom_value=True,
                    elem_id="references",
                )
                with found.Row(visible=len(names) > 1):
                    self.nearest = found.Button("3 nearest", size="sm", min_width=80, elem_id="nearest")
                    self.rivals = found.Button("3 rivals", size="sm", min_width=80, elem_id="rivals")
                self.method = found.Dropdown(methods, value=explainer.first, label="Method", elem_id="method")
                self.show = found.Button("Show the map", variant="primary", elem_id="show")
            with found.Column(scale=5, min_width=300):
                with found.Row():
                    with found.Column(min_width=280):
                        self.figure = found.HTML("", elem_id="figure", js_on_load=_asset("figure.js"))
                        self.strength = found.Slider(
                            0,
                            2,
                            0.6,
                            step=0.05,
                            label="Strength: 0 is the base map, 1 the full difference",
                            elem_id="strength",
                        )
                    with found.Column(min_width=280):
                        self.base = found.HTML("", elem_id="base", js_on_load=None)
                found.HTML(_LEGEND, js_on_load=None)
                self.words = found.HTML("", elem_id="words", js_on_load=None)
                self.place = found.HTML("", elem_id="place", js_on_load=None)
                self.make = found.Button("Make files to download", size="sm", elem_id="make")
                self.files = found.File(
                    label="Files", file_count="multiple", interactive=False, visible=False, elem_id="files"
                )
        self.summary = found.JSON(label="summary", visible=False)
        self.script = found.Button(visible=False)

    @property
    def controls(self) -> list[Any]:
        """What a question is made of, in the order of ``Controls``."""
        return [self.key, self.target, self.references, self.strength, self.method]

    @property
    def outputs(self) -> list[Any]:
        """What an answer changes."""
        return [self.key, self.figure, self.base, self.words, self.place, self.note, self.target, self.references, self.files]

    def updates(self, found: Any, answer: Answer) -> dict[Any, Any]:
        """The parts that an answer changes, with what they show."""
        names = ("key", "figure", "base", "words", "place", "target")
        new = {getattr(self, name): value for name in names if (value := getattr(answer, name)) is not None}
        new[self.note] = notice(answer.note) if answer.note else ""
        if answer.figure is not None:
            new[self.files] = found.update(value=None, visible=False)
        changed = {"value": answer.references, "choices": answer.suggested}
        if changed := {name: value for name, value in changed.items() if value is not None}:
            new[self.references] = found.update(**changed)
        return new


def _connect(found: Any, page: Any, desk: Desk, parts: _Parts, plates: bool) -> None:
    """Say what each control does."""

    def answered(make: Callable[..., Answer]) -> Callable[..., dict[Any, Any]]:
        """The function with the values of the controls last; an error is a line on the page."""

        def call(*values: object) -> dict[Any, Any]:
            own, controls = values[:-5], Controls(*values[-5:])  # type: ignore[arg-type]
            try:
                return parts.updates(found, make(*own, controls))
            except ConceptCamError as error:
                return {parts.note: notice(error)}

        return call

    def at_place(*values: Any) -> dict[Any, Any]:
        *controls, event = values
        data = event._data if isinstance(event._data, dict) else {}
        return answered(desk.look_at)(data.get("x"), data.get("y"), *controls)

    def placed(key: Any, target: Any, references: Any, strength: Any, method: Any, event: Any) -> dict[Any, Any]:
        return at_place(key, target, references, strength, method, event)

    placed.__annotations__ = {"event": found.EventData}  # by which gradio knows what to give
    slow: dict[str, Any] = {"outputs": parts.outputs, "api_visibility": "private", "show_progress": "minimal"}
    live: dict[str, Any] = {"outputs": parts.outputs, **_ASIDE}
    folder = Path(found.utils.get_upload_folder())

    def open_upload(path: str | None, controls: Controls) -> Answer:
        tidy(folder)
        return desk.open_upload(path, controls)

    parts.upload.upload(answered(open_upload), [parts.upload, *parts.controls], **slow)
    parts.plate.click(answered(desk.open_plate), parts.controls, **slow)
    parts.show.click(answered(desk.show), parts.controls, **slow)
    parts.target.input(answered(desk.retarget), parts.controls, **live)
    parts.references.input(answered(desk.follow), parts.controls, **live)
    parts.method.input(answered(desk.follow), parts.controls, **slow)
    parts.strength.input(answered(desk.slide), parts.controls, trigger_mode="always_last", **live)
    parts.nearest.click(answered(lambda controls: desk.choose("nearest", controls)), parts.controls, **live)
    parts.rivals.click(answered(lambda controls: desk.choose("rivals", controls)), parts.controls, **live)
    parts.figure.place(placed, parts.controls, trigger_mode="always_last", **live)
    if plates:
        page.load(answered(desk.open_plate), parts.controls, **slow)


def _connect_downloads(found: Any, desk: Desk, parts: _Parts) -> None:
    """Say how files are made, on the page and for scripts."""
    folder = Path(found.utils.get_upload_folder())

    def make(*values: object) -> dict[Any, Any]:
        try:
            paths = write_downloads(folder, *desk.result(Controls(*values)))  # type: ignore[arg-type]
        except ConceptCamError as error:
            return {parts.note: notice(error)}
        return {parts.files: found.update(value=list(map(str, paths)), visible=True), parts.note: ""}

    def localize(image: str | None, target: str, references: list[str], strength: float, method: str) -> tuple[Any, Any]:
        try:
            tidy(folder)
            result, upload, pixels = desk.localize(image, Controls(None, target, references, strength, method))
            paths = write_downloads(folder, result, upload, pixels)
        except ConceptCamError as error:
            raise found.Error(str(error), print_exception=False) from error
        return json.loads(paths[-1].read_text("utf-8")), list(map(str, paths))

    parts.make.click(make, parts.controls, [parts.files, parts.note], api_visibility="private", show_progress="minimal")
    given = [parts.upload, *parts.controls[1:]]
    parts.script.click(localize, given, [parts.summary, parts.files], api_name="localize")


def _asset(name: str) -> str:
    return files("concept_cam.demo").joinpath(name).read_text("utf-8")


_HEAD = (
    "# concept-cam\n"
    "Where in this image is the evidence for this concept, and not for that similar one? Choose an image, a target and "
    "references; the map follows the strength. Press on the image to see which concepts have most evidence there."
)

_LEGEND = (
    '<p class="legend"><span class="ramp" aria-hidden="true"></span> weak to strong evidence for the target; each map has its '
    "own scale. Grey: no evidence for the target. Dark: the model did not see it. The ring is the peak.</p>"
)

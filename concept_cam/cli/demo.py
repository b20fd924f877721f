"""``concept-cam demo``: a page on which images are uploaded and compared."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from concept_cam.cli import options
from concept_cam.cli.encoders import Asked
from concept_cam.cli.given import check_texts
from concept_cam.cli.terminal import complain, say

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOPPED = "the page is closed."


def demo(
    vocabulary: options.Vocabulary = None,
    method: options.UsualMethod = None,
    model: options.Model = None,
    pretrained: options.Pretrained = None,
    classes: options.Classes = None,
    site: options.Site = None,
    fit: options.Fit = None,
    size: options.Size = None,
    templates: options.Templates = None,
    device: options.Device = "cpu",
    host: Annotated[
        str,
        typer.Option(
            help="Where the page listens. Other machines can reach it only if you name another host, such as 0.0.0.0."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="The port of the page.  [default: the first free one from 7860]")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=125_000_000, help="The pixels of an uploaded image at most.")
    ] = 25_000_000,
    max_size: Annotated[int, typer.Option(min=1, max=1000, help="The size of an uploaded file at most, in MB.")] = 20,
) -> None:
    """Open a page on which images are uploaded and compared, until Ctrl-C.

    Needs the extra demo: pip install 'concept-cam[demo]'. The page is for this machine alone, unless --host says otherwise.
    """
    from concept_cam.demo import Limits, build_demo, serve
    from concept_cam.demo.extra import check_extra
    from concept_cam.demo.serve import LOOPBACK
    from concept_cam.methods import method_named

    chosen = None if method is None else method_named(method)
    check_texts(vocabulary=vocabulary)
    given = Asked(model, pretrained, classes, device, site, fit, size, templates)
    limits = Limits(max_bytes=max_size * 1_000_000, max_pixels=max_pixels)
    # The page says it, in its own words.
    warnings.filterwarnings("ignore", message=".*: no more like ", category=UserWarning)
    check_extra()  # before a model is loaded
    backbone = given.load()
    suited = given.preset.suiting(backbone)
    localizer = given.localizer(backbone, vocabulary or suited.vocabulary or (), suited.templates, chosen)
    with TemporaryDirectory(prefix="concept-cam-demo-") as folder, _stopped() as stop:
        os.environ["GRADIO_TEMP_DIR"] = folder  # by default all pages of a machine share one
        page = build_demo(localizer, plates=given.preset.draws, limits=limits)
        address = serve(page, host=host, port=port, limits=limits, block=False)
        if host not in LOOPBACK:
            complain(f"note: --host {host} opens the page to other machines, without a password and without encryption.")
        say(f"the page is at {address} (Ctrl-C closes it)")
        stop.wait()
        page.close(verbose=False)


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that a signal sets, so that the folder of uploads is deleted before the command ends.

    Raises:
        KeyboardInterrupt: it was SIGINT.
        Exit: it was another, with 128 and its number.
    """
    event, heard = threading.Event(), list[int]()

    def hear(number: int, _: object) -> None:
        heard.append(number)
        event.set()

    kept = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            kept[number] = signal.signal(number, hear)
    try:
        yield event
    finally:
        for number, before in kept.items():
            signal.signal(number, before)
    if signal.SIGINT in heard:
        raise KeyboardInterrupt(_STOPPED)
    if heard:
        raise typer.Exit(128 + heard[0])

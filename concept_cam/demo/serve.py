"""The server: gradio's own, within limits, for this machine alone unless it is told otherwise."""

from __future__ import annotations

import socket
from importlib.resources import files
from typing import TYPE_CHECKING

from concept_cam.demo.extra import gradio
from concept_cam.demo.gate import Gate
from concept_cam.demo.limits import Limits
from concept_cam.errors import OptionError, reason

if TYPE_CHECKING:
    import gradio as gr

LOOPBACK = ("127.0.0.1", "localhost")
"""Hosts that no other machine can reach."""


def serve(
    demo: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, limits: Limits | None = None, block: bool = True
) -> str:
    """Open a page that ``build_demo`` made, and return its address.

    Nothing is shared, counted or fetched from elsewhere. Of gradio's routes those alone are open that the page needs.

    Args:
        demo: the page.
        host: where it listens; by default for this machine alone.
        port: by default the first that is free from 7860.
        limits: those that the page was built with.
        block: return only when the server is stopped.

    Raises:
        OptionError: gradio is not installed, or it cannot listen there.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.demo import build_demo, serve
        >>> page = build_demo(world.localizer(vocabulary=["ember finch", "frost finch"]))  # doctest: +SKIP
        >>> serve(page, port=7860)  # doctest: +SKIP
    """
    if ":" in host:
        raise OptionError(f"The host is {host}; gradio takes no IPv6 addresses. Give a name or an IPv4 address.")
    found, known = gradio(), limits or Limits()
    from starlette.middleware import Middleware

    allowed = LOOPBACK if host in LOOPBACK else ()
    plain = [found.themes.Font(name) for name in ("system-ui", "sans-serif")]
    fixed = [found.themes.Font(name) for name in ("ui-monospace", "monospace")]
    theme = found.themes.Default(primary_hue="blue", font=plain, font_mono=fixed)
    # gradio's own are too pale to read
    theme.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")
    theme.set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
    try:
        # gradio would try each of a hundred ports of a host that does not exist.
        family = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port or 0), family=family).close()
        _, address, _ = demo.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            max_file_size=known.max_bytes,
            allowed_paths=[found.utils.get_upload_folder()],
            app_kwargs={"middleware": [Middleware(Gate, max_bytes=known.max_bytes, hosts=allowed)]},
            state_session_capacity=1000,
            theme=theme,
            css=files("concept_cam.demo").joinpath("demo.css").read_text("utf-8"),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
        )
    except OSError as error:
        where = f"{host}:{port}" if port else f"{host}, ports 7860 to 7959"
        raise OptionError(f"The demo cannot listen on {where}: {reason(error)}. Choose another --port or --host.") from error
    if block:
        demo.block_thread()
    return str(address)

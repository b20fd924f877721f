"""What of gradio's server may be reached: the page and its own requests, and nothing that fetches, proxies or edits."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, final

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_PAGE = r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?|/(assets|static|svelte)/.+"
_API = (
    r"/gradio_api/(info/?|app_id/?|upload|upload_progress|startup-events|reset/?|cancel|heartbeat/\w+"
    r"|queue/(join|data)|call/\w+(/\w+)?|file=(?!\w+:).+|theme\.css)"
)
_ALLOWED = re.compile(f"({_PAGE}|{_API})")
_UPLOAD = "/gradio_api/upload"
_ADDRESS = re.compile(r"\s*[A-Za-z][\w+.-]+:|\s*//")

_BODY = 1_000_000
"""Bytes of a request at most, uploads aside: it holds names and numbers."""

_FORM = 100_000
"""Bytes of an upload at most besides its file."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'self'"
)
"""The browser asks nobody else for anything. Gradio writes scripts and styles into its page."""


@final
class Gate:
    """Stands before gradio's server, as ASGI middleware.

    It answers for requests that the page has no need of: 404 for other routes, among them those that fetch an address for the
    visitor; 413 for a body that is too large; 400 for a body that names an address as a file, which gradio would fetch; 403
    for a request to another host than this one, if the page is for this machine alone.

    Args:
        app: what it stands before.
        max_bytes: of an uploaded file.
        hosts: the names by which this machine may be asked; empty for any.
    """

    def __init__(self, app: App, max_bytes: int, hosts: tuple[str, ...] = ()) -> None:
        self._app, self._hosts = app, hosts
        self._upload = max_bytes + _FORM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hosts and _host(headers.get("host", "")) not in self._hosts:
            await _answer(send, 403, "this page is for the machine that it runs on")
        elif not _ALLOWED.fullmatch(scope["path"]):
            await _answer(send, 404, "there is no such page")
        elif scope["method"] == "POST" and scope["path"] == _UPLOAD:
            length = headers.get("content-length", "")
            if not length.isdecimal():
                await _answer(send, 411, "the length of the upload is not given")
            elif int(length) > self._upload:
                await _answer(send, 413, f"the file is larger than {self._upload - _FORM:,} bytes; make it smaller first")
            else:
                await self._app(scope, receive, _guarded(send))
        elif scope["method"] == "POST":
            await self._checked(scope, receive, _guarded(send))
        else:
            await self._app(scope, receive, _guarded(send))

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request of names and numbers, once all of it is here and was looked at."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > _BODY:
                await _answer(send, 413, f"the request is larger than {_BODY:,} bytes")
                return
        try:
            fetches = _fetches(json.loads(body)) if body else False
        except (ValueError, RecursionError):
            await _answer(send, 400, "the request is no JSON")
            return
        if fetches:
            await _answer(send, 400, "an address is no file; upload the file itself")
            return
        sent = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)


def _fetches(value: object) -> bool:
    """Whether something in a request is a file that lies at an address."""
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and _ADDRESS.match(path) is not None) or any(map(_fetches, value.values()))
    return isinstance(value, list) and any(map(_fetches, value))


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    return re.sub(r":\d+$", "", header.strip().lower())


def _guarded(send: Send) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            more = ((b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer"))
            message = {**message, "headers": [*message.get("headers", ()), *more, (b"x-content-type-options", b"nosniff")]}
        await send(message)

    return guarded


async def _answer(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

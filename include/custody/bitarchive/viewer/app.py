"""The web server of the viewer: commands, then the current index, then pywb; whoever asks is told apart.

As a proxy it serves pages by their own URLs; the chain is that of the old system: command host (and there unknown
commands are errors), observer of missing URLs, archive. A page comes from pywb, never from a replay of our own.
"""

from __future__ import annotations

import base64
import html
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from custody.bitarchive.index.lookup import Lookup
from custody.bitarchive.viewer import COMMAND_HOSTS
from custody.bitarchive.viewer.commands import Answer, Commands, WrongParameter
from custody.bitarchive.viewer.tunnel import authorization_of
from custody.faults import Fault, FaultKind

_KEPT_HEADERS = ("content-type", "content-encoding", "content-language", "location", "memento-datetime")
_ORIGINAL = "x-archive-orig-"


def make_app(commands: Commands, pywb_url: str, certificate: Path | None = None) -> Starlette:
    """The application.

    :param pywb_url: where pywb listens, as seen from here.
    :param certificate: of the viewer's authority, handed out at ``/certificate.pem`` for browsers.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            app.state.client = client
            yield

    async def serve(request: Request) -> Response:
        host, url, path = _asked_for(request)
        user = _user_of(request)
        if host is not None and host not in COMMAND_HOSTS:
            return await _page(request.app.state.client, commands, pywb_url, user, url)
        if certificate is not None and path == "/certificate.pem":
            return FileResponse(certificate, media_type="application/x-x509-ca-cert")
        return await run_in_threadpool(_command, commands, request, user, path)

    return Starlette(routes=[Route("/{rest:path}", serve, methods=["GET", "HEAD"])], lifespan=lifespan)


def _asked_for(request: Request) -> tuple[str | None, str, str]:
    """Host (None: the viewer itself, not as a proxy), URL and path of a request."""
    raw = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    own = request.scope.get("server") or ("", 0)
    named = request.headers.get("host", "")
    if raw.startswith(("http://", "https://")):
        parts = urlsplit(raw)
        named, raw = parts.netloc, parts.path or "/"
    host = named.rpartition(":")[0] if named.rpartition(":")[2].isdigit() else named
    is_own = host in {own[0], "localhost", "127.0.0.1", "[::1]"} and named.endswith(f":{own[1]}")
    url = f"{request.scope['scheme']}://{named}{raw}" + (f"?{query}" if query else "")
    return (None if is_own or not host else host.lower()), url, raw


def _user_of(request: Request) -> str:
    """Who asks: the name given to the proxy, else the address."""
    said = authorization_of(request.scope)
    if said is None:
        said = request.headers.get("proxy-authorization", "")
    kind, _, text = said.partition(" ")
    if kind.lower() == "basic":
        try:
            return "name:" + base64.b64decode(text, validate=True).decode().partition(":")[0]
        except ValueError:
            pass
    return f"address:{request.client.host if request.client else ''}"


def _command(commands: Commands, request: Request, user: str, path: str) -> Response:
    name = path.strip("/")
    if name not in commands.by_name:
        known = ", ".join(commands.by_name)
        return PlainTextResponse(f"Unknown command {name[:60]!r}; known are: {known}\n", 404)
    query = request.scope["query_string"].decode("latin-1")
    parameters = parse_qs(query, keep_blank_values=True, max_num_fields=10_000)
    try:
        answer = commands.run(name, user, parameters, request.headers.get("range", ""))
        return _response(answer, is_head=request.method == "HEAD")
    except WrongParameter as wrong:
        return PlainTextResponse(f"{name}: {wrong}\n", 400)
    except Fault as fault:
        return PlainTextResponse(f"{fault}\n", _status_of(fault))


def _status_of(fault: Fault) -> int:
    if fault.kind is FaultKind.CONFIG:
        return 416 if fault.subject.startswith("Range") else 404
    return 503 if fault.kind.is_worth_a_retry else 500


def _response(answer: Answer, *, is_head: bool) -> Response:
    if answer.location is not None:
        return RedirectResponse(answer.location, answer.status)
    if answer.stream is None:
        return PlainTextResponse(answer.text or "", answer.status)
    headers = dict(answer.headers)
    if is_head:
        return Response(None, answer.status, headers)
    first = next(iterator := iter(answer.stream), b"")  # a fault at the beginning is an answer of its own
    return StreamingResponse(iterate_in_threadpool(_again(first, iterator)), answer.status, headers)


def _again(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


async def _page(client: httpx.AsyncClient, commands: Commands, pywb_url: str, user: str, url: str) -> Response:
    """A page of the current index, by pywb; what is not there is noted."""
    state = commands.sessions.read(user)
    timestamp = await run_in_threadpool(_newest, Path(state.index), url) if state.index else None
    if timestamp is None:
        await run_in_threadpool(_note, commands, user, url)
        return _not_found(url)
    address = f"{pywb_url}/{state.collection}/{timestamp}id_/{url}"
    try:
        answer = await client.send(client.build_request("GET", address), stream=True)
    except httpx.HTTPError as error:
        return PlainTextResponse(f"pywb at {pywb_url} does not answer ({type(error).__name__})\n", 502)
    headers = {}
    for name, value in answer.headers.items():
        plain = name.lower().removeprefix(_ORIGINAL)
        if plain in _KEPT_HEADERS:
            headers[plain] = value
    return StreamingResponse(_relayed(answer), answer.status_code, headers)


async def _relayed(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for block in answer.aiter_raw():
            yield block
    finally:
        await answer.aclose()


def _newest(index: Path, url: str) -> str | None:
    try:
        with Lookup(index) as lookup:
            hits = lookup.find(url)
    except FileNotFoundError:
        return None
    return hits[-1].timestamp if hits else None


def _note(commands: Commands, user: str, url: str) -> None:
    if commands.sessions.read(user).recording:
        with commands.sessions.change(user) as state:
            state.note_missing(url)


def _not_found(url: str) -> Response:
    page = f"<!DOCTYPE html><title>Not found</title><p>Can't find URL: {html.escape(url)}</p>\n"
    return Response(page, 404, media_type="text/html")

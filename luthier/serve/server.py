"""The HTTP server: who may look, and which address shows what."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from luthier.errors import LuthierError, StudyError
from luthier.serve.live import Live, Part, message
from luthier.serve.pages import KINDS, POLICY, asset, problem, shell, studies_part
from luthier.store import open_store
from luthier.text import plain, public_url

BEAT = 10.0  # seconds between two signs of life to a browser
MOST = 64  # browsers that are told of changes at once


class Server:
    """A live page over a store, served from a thread of this process until it is closed. Also a context manager.

    Args:
        store: A path (SQLite), a URL, or an open store. It is only read.
        host: The address to listen at. Any but this machine's own needs a token, which is made if none is given.
        port: The port; 0 takes one that is free.
        token: Token that a browser must present, once, as ``?token=…``.
        every: Seconds between two looks at a study that is on screen.

    Raises:
        StoreError: If there is no such store.
        StudyError: If the port is taken, or the address is none of this machine.

    Examples:
        >>> import luthier as lt
        >>> with lt.serve.Server(lt.open_store(), port=0) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self, store: Any, host: str = "127.0.0.1", port: int = 8080, token: str | None = None, every: float = 1.0
    ) -> None:
        self._own = not hasattr(store, "attach")
        self.store = open_store(store, read_only=True) if self._own else store
        self.every, self.host = every, host
        self.token = token or (None if _is_loopback(host) else secrets.token_urlsafe(24))
        self.room = threading.BoundedSemaphore(MOST)
        self._studies: dict[str, Live] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        try:
            self._http = _Http((host, port), _Handler)
        except (OSError, OverflowError) as error:
            if self._own:
                self.store.close()
            raise StudyError(
                f"{host}:{port} cannot be listened at ({getattr(error, 'strerror', None) or error})",
                where="serve",
                remedy="Give another port, or 0 for any that is free.",
            ) from error
        self._http.server = self
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, name="luthier serve", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address to open, with the token where one is needed."""
        name = f"[{self.host}]" if ":" in self.host else self.host or "0.0.0.0"
        return f"http://{name}:{self.port}/" + (f"?token={quote(self.token)}" if self.token else "")

    @property
    def place(self) -> str:
        """The store as a page names it."""
        return public_url(self.store.url).removeprefix("sqlite:///")

    def close(self) -> None:
        """End the server, and close the store if it was opened here."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        if self._own:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def live(self, name: str) -> Live:
        """The study of a name.

        Raises:
            StoreError: If there is none.
        """
        with self._lock:
            if name not in self._studies:
                self._studies[name] = Live(self.store, name)
            return self._studies[name]

    def forget(self, name: str) -> None:
        """Read a study from its beginning at the next look: it may have been deleted and made anew."""
        with self._lock:
            self._studies.pop(name, None)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    server: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "luthier", ""
    timeout = 30  # seconds for a request to come
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: an address may hold the token."""

    def do_GET(self) -> None:
        server = self.server.server
        asked = urlsplit(self.path)
        if not self._may_look(server, asked.query):
            return
        if server.token and "token" in parse_qs(asked.query):  # from here on the cookie says it: no history keeps it
            self._send(303, b"", "text/plain", Location=asked.path, Set_Cookie=self._cookie(server))
            return
        parts = [unquote(part, errors="replace") for part in asked.path.split("/")[1:]]
        try:
            self._answer(server, parts)
        except KeyError:
            self._page(404, problem("There is no such page", plain(asked.path)))
        except LuthierError as error:
            self._page(404, problem("This cannot be shown", str(error)))

    def _answer(self, server: Server, parts: list[str]) -> None:
        match parts:
            case [""]:
                self._page(200, shell("Studies"))
            case ["events"]:
                self._events(lambda: studies_part(server.place, server.store.studies()))
            case ["assets", _, name]:
                self._send(
                    200,
                    asset(name),
                    KINDS[name.rpartition(".")[2]],
                    Cache_Control="private, max-age=31536000, immutable",
                )
            case ["study", name]:
                server.live(name)
                self._page(200, shell(name, "/"))
            case ["study", name, "events"]:
                self._events(lambda: server.live(name).parts(), lambda: server.forget(name))
            case ["study", name, "trial", number] if number.isdecimal() and len(number) < 19:
                server.live(name).parts(int(number))
                self._page(200, shell(f"{name} · trial {number}", "/"))
            case ["study", name, "trial", number, "events"] if number.isdecimal() and len(number) < 19:
                self._events(lambda: server.live(name).parts(int(number)), lambda: server.forget(name))
            case _:
                raise KeyError(self.path)

    def _events(self, look: Callable[[], list[Part]], forget: Callable[[], None] = lambda: None) -> None:
        """Tell of parts that have changed, until the browser leaves."""
        server = self.server.server
        if not server.room.acquire(blocking=False):
            self._page(503, problem("Too many browsers", f"More than {MOST} look at this store."))
            return
        try:
            self._head(200, "text/event-stream", Cache_Control="no-store", Connection="close")
            seen: dict[str, str] = {}
            spoken = 0.0
            while not server.closing.is_set():
                kind, text = "message", None
                try:
                    parts = look()
                    text = message(parts, seen)
                    seen = {part.id: part.mark for part in parts}
                except LuthierError as error:
                    kind, text, seen = "trouble", json.dumps(plain(error)), {}
                    forget()
                now = time.monotonic()
                if text is None and now - spoken > BEAT:
                    kind, text = "alive", "1"
                if text is not None:
                    self.wfile.write(f"event: {kind}\ndata: {text}\n\n".encode())
                    self.wfile.flush()
                    spoken = now
                server.closing.wait(server.every)
        finally:
            server.room.release()

    # -- who may look -----------------------------------------------------------------------------------------------

    def _may_look(self, server: Server, query: str) -> bool:
        if server.token is None:
            # a page elsewhere whose name was made to point here would ask under that name
            if _is_loopback(_host(self.headers.get("Host", ""))):
                return True
            self._page(403, problem("Not under this name", "This server answers to localhost alone."))
            return False
        given = parse_qs(query).get("token", [""])[0] or self._brought(server)
        if hmac.compare_digest(given.encode("utf-8", "replace"), server.token.encode()):
            return True
        self._page(
            401, problem("A token is needed", "Open the address that luthier serve has printed: it ends in ?token=…")
        )
        return False

    def _brought(self, server: Server) -> str:
        """The token in the cookie, or as a bearer of the header."""
        bearer = self.headers.get("Authorization", "")
        if bearer.startswith("Bearer "):
            return bearer[7:].strip()
        with contextlib.suppress(CookieError):
            found = SimpleCookie(self.headers.get("Cookie", "")).get(f"luthier-{server.port}")
            return found.value if found else ""
        return ""

    def _cookie(self, server: Server) -> str:
        return f"luthier-{server.port}={server.token}; HttpOnly; SameSite=Strict; Path=/"

    # -- answers ----------------------------------------------------------------------------------------------------

    def _page(self, status: int, text: str) -> None:
        self._send(status, text.encode("utf-8", "replace"), "text/html; charset=utf-8", Cache_Control="no-store")

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self._head(status, kind, Content_Length=str(len(body)), **headers)
        self.wfile.write(body)

    def _head(self, status: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    name = header.rpartition(":")[0] if not header.endswith("]") and ":" in header else header
    return name.strip("[]")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

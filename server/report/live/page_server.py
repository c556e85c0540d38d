"""HTTP server of the page of a run: on the loopback interface, one page behind a key, GET only."""

import hmac
import secrets
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedkd.errors import SettingsError
from fedkd.server.report.live.live_page import LivePage

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
"""Names by which a browser may ask. Another name that leads here is a page of somebody else's,
whose scripts would read this one (DNS rebinding)."""
REQUEST_SECONDS = 10.0
"""For which one connection may be silent."""
MAX_CONNECTIONS = 32
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine alone.

    Args:
        port: 0 for any that is free.

    Raises:
        SettingsError: the port is taken, or not allowed.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        why = error.strerror if isinstance(error, OSError) else "expected 0 to 65535"
        raise SettingsError(
            f"cannot serve the page on {LOOPBACK}:{port}: {why}; choose another port"
        ) from None
    return listening


def new_key() -> str:
    """A key for the page's address: other users of this machine reach the port as well."""
    return secrets.token_urlsafe(12)


def address(listening: socket.socket, key: str) -> str:
    """Where the page is."""
    return f"http://{LOOPBACK}:{listening.getsockname()[1]}/{key}/"


class PageServer(ThreadingHTTPServer):
    """Serves one page until `shutdown`.

    Args:
        listening: socket, which is closed at the end.
        page: what is served.
        key: the page is at ``/KEY/``, and nothing is anywhere else.
    """

    daemon_threads = True

    def __init__(self, listening: socket.socket, page: LivePage, key: str) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.page, self.key = page, key
        self.finished_served = threading.Event()
        """Set once the page of the finished run was sent."""
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "fedkd", ""
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        page, tag = self._allowed_page()
        if not page:
            return
        if self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", tag)
        else:
            self._answer(HTTPStatus.OK, page, tag)
        if b"<main data-finished>" in page:
            self.server.finished_served.set()

    def _allowed_page(self) -> tuple[bytes, str]:
        """The page and its tag; empty where the request was refused."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0].lower()
        if host not in HOSTS:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"ask for 127.0.0.1 or localhost\n")
        elif not hmac.compare_digest(
            self.path.encode("utf-8", "replace"), f"/{self.server.key}/".encode()
        ):
            self._answer(HTTPStatus.NOT_FOUND, b"the page is at the address that was printed\n")
        else:
            return self.server.page.current()
        return b"", ""

    def _answer(self, status: HTTPStatus, content: bytes, tag: str = "") -> None:
        self.send_response(status)
        kind = "text/html" if status == HTTPStatus.OK else "text/plain"
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if tag:
            self.send_header("ETag", tag)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse without repeating anything of the request; other methods than GET are 405."""
        refused = HTTPStatus.METHOD_NOT_ALLOWED if code == 501 else HTTPStatus(code)
        self.close_connection = True
        self._answer(refused, b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name
        """The key stands in every request, and belongs in no log."""

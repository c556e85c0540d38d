"""The page of a run as it is now: waiting, running or finished; rendered anew when it changed."""

import hashlib
import threading
import time
from html import escape
from pathlib import Path

from fedkd.errors import DataError
from fedkd.server.report.live.refresh_script import REFRESH_SCRIPT
from fedkd.server.report.live.running_record import is_finished, load_running
from fedkd.server.report.page import render, source_hash
from fedkd.server.report.records.run_folder import EVENTS, RESULT, load_run
from fedkd.server.report.templates.stylesheet import CSS

WORK_SHARE = 0.1
"""At most this share of the time is spent on rendering: the run needs the processor."""

_WAITING = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
 script-src {hash}; connect-src 'self'">
<title>{name}</title><style>{css}</style></head>
<body><main><header><div class="eyebrow">{name}</div><h1>{heading}</h1>
<p>{text}</p></header></main><script>{script}</script></body></html>
"""


class LivePage:
    """Renders the page of one run, for several threads.

    Args:
        folder: of the run; it may not be there yet.
        work_share: share of the time that may be spent on rendering, in (0, 1].
    """

    def __init__(self, folder: Path, work_share: float = WORK_SHARE) -> None:
        self.folder = folder
        self._work_share = work_share
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self._not_before = 0.0
        self._page = b""

    def current(self) -> tuple[bytes, str]:
        """The page in UTF-8, and a tag that differs where the page does."""
        with self._lock:
            now, state = time.monotonic(), self._file_state()
            # The last page, of the finished run, is worth any work.
            if state != self._seen and (now >= self._not_before or is_finished(self.folder)):
                self._page = self._render().encode("utf-8", errors="replace")
                self._seen = state
                took = time.monotonic() - now
                self._not_before = time.monotonic() + took * (1 / self._work_share - 1)
            return self._page, f'"{hashlib.sha256(self._page).hexdigest()[:32]}"'

    def _file_state(self) -> tuple[object, ...]:
        """What changes whenever the page may."""
        found: list[object] = []
        for name in (EVENTS, RESULT):
            try:
                stat = (self.folder / name).stat()
                found.append((stat.st_size, stat.st_mtime_ns))
            except OSError:
                found.append(None)
        return tuple(found)

    def _render(self) -> str:
        try:
            if is_finished(self.folder):
                return render(load_run(self.folder), script=REFRESH_SCRIPT)
            if (running := load_running(self.folder)) is not None:
                return render(*running, script=REFRESH_SCRIPT)
        except (DataError, OSError) as error:
            return self._waiting("The page cannot be made", str(error))
        return self._waiting(
            "Nothing was asked yet",
            "Institutions connect, or teachers are trained. This page refreshes itself.",
        )

    def _waiting(self, heading: str, text: str) -> str:
        return _WAITING.format(
            hash=source_hash(REFRESH_SCRIPT),
            name=escape(self.folder.resolve().name),
            heading=escape(heading),
            text=escape(text),
            css=CSS,
            script=REFRESH_SCRIPT,
        )

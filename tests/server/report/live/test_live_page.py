"""The page of a run that goes on: what it shows, who gets it, and how it refreshes in a browser."""

import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedkd.errors import SettingsError
from fedkd.server.report.live.background_server import live_page
from fedkd.server.report.live.live_page import LivePage
from fedkd.server.report.live.page_server import PageServer, address, listen, new_key
from fedkd.server.report.records.event_schema import parse_event
from fedkd.server.report.records.run_folder import RunFolder
from fedkd.server.report.run_progress import LONGEST_PAUSE, run_progress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
CONFIG = {"questions": {"budget": 1000}, "student": {"steps": 400}}


def teacher(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": "cnn",
        "samples_asked": 0,
        "samples_pulled_back": 0,
        "bytes_received": 0,
        "bytes_sent": 0,
        "refusals": 0,
        "epsilon": None,
        "delta": None,
        "class_counts": [3, 0, 40],
    }


def begun(**changes: Any) -> dict[str, Any]:
    return {
        "student": {"model": "cnn"},
        "ensemble": {},
        "teachers": [teacher("North"), teacher("South <b>")],
        "method": "cudfkd",
        "engine": "hub",
        "seed": 0,
        "student_steps": 0,
        "generator_steps": 0,
        "seconds": 0.0,
        "config": CONFIG,
        "versions": {"fedkd": "0"},
        **changes,
    }


def start(path: Path) -> RunFolder:
    folder = RunFolder.create(path)
    folder.append_event({"kind": "started", "result": begun()})
    return folder


def go_on(folder: RunFolder, asked: int, step: int) -> None:
    folder.append_event({"kind": "asked", "asked": asked, "origin": "pink", "entropy": 0.9})
    folder.append_event({"kind": "trained", "step": step, "asked": asked, "loss": 0.5})


def finish(folder: RunFolder) -> None:
    folder.write_result(begun(student={"accuracy": 0.875}, student_steps=400))


@contextmanager
def served(folder: Path, work_share: float = 1.0) -> Iterator[tuple[PageServer, str]]:
    listening, key = listen(0), new_key()
    with PageServer(listening, LivePage(folder, work_share), key) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server, address(listening, key)
        finally:
            server.shutdown()
            thread.join()


def answer(
    where: str, path: str | None = None, method: str = "GET", **headers: str
) -> tuple[int, str, dict[str, str]]:
    port = int(where.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path or "/" + where.split("/", 3)[3], headers=headers)
    heard = connection.getresponse()
    text = heard.read().decode()
    connection.close()
    return heard.status, text, dict(heard.getheaders())


def test_a_page_waits_then_shows_what_is_known_then_the_report(tmp_path: Path) -> None:
    page = LivePage(tmp_path / "run", work_share=1.0)
    assert b"Nothing was asked yet" in page.current()[0], "there is no folder yet"
    folder = start(tmp_path / "run")
    go_on(folder, 250, 100)
    folder.append_event({"kind": "scored", "step": 100, "asked": 250, "accuracy": 0.625})
    with (folder.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "asked", "as')  # a line that is being written
    text, tag = page.current()
    shown = text.decode()
    assert "62.5%" in shown
    assert "250 of 1,000" in shown
    assert "100 of 400" in shown
    assert "South &lt;b&gt;" in shown
    assert "South <b>" not in shown
    assert "<main data-finished>" not in shown
    assert page.current() == (text, tag)
    (folder.path / "events.jsonl").write_text(
        (folder.path / "events.jsonl").read_text().rsplit("\n", 1)[0] + "\n"
    )
    finish(folder)
    final, other = page.current()
    assert b"<main data-finished>" in final
    assert b"87.5%" in final
    assert other != tag


def test_malformed_events_are_told_and_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("{\n")
    assert b"The page cannot be made" in LivePage(tmp_path).current()[0]


def test_rendering_takes_a_share_of_the_time(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    page = LivePage(folder.path, work_share=1e-6)
    first = page.current()
    go_on(folder, 10, 5)
    assert page.current() == first, "the run needs the processor"
    finish(folder)
    assert page.current() != first, "the last page is worth it"


def test_only_a_get_of_the_key_by_a_local_name_is_answered(tmp_path: Path) -> None:
    start(tmp_path / "run")
    (tmp_path / "run" / "secret.txt").write_text("secret")
    with served(tmp_path / "run") as (server, where):
        status, text, headers = answer(where)
        assert status == 200
        assert "One student from two teachers" in text
        assert headers["Cache-Control"] == "no-store"
        assert answer(where, **{"If-None-Match": headers["ETag"]})[:2] == (304, "")
        assert answer(where, Host="localhost:9")[0] == 200, "a port may be forwarded"
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
            assert answer(where, Host=host)[0] == 421
        key = server.key
        others = ("/", "/secret.txt", f"/{key}", f"/{key}/../secret.txt", f"/{key}/secret.txt")
        for path in (*others, f"/{key}x/", "/%2e%2e/secret.txt"):
            status, text, _ = answer(where, path)
            assert status == 404
            assert "secret" not in text
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"):
            assert answer(where, method=method)[0] == 405


def test_a_port_that_is_taken_is_an_error_before_anything_starts() -> None:
    with listen(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(SettingsError, match=f":{port}: .*choose another port"):
            listen(port)
        with pytest.raises(SettingsError), live_page(Path("nowhere"), port, "fedkd"):
            pass


def test_the_time_left_is_estimated_from_the_latest_steps() -> None:
    def event(kind: str, at: float, **facts: object) -> Any:
        return parse_event({"kind": kind, "time": at, **{"asked": 0, **facts}}, "here")

    slow = [event("trained", 10.0 * n, step=10 * n, loss=1.0) for n in range(1, 6)]
    fast = [event("trained", 50.0 + n, step=50 + 10 * n, loss=1.0) for n in range(1, 16)]
    progress = run_progress([*slow, *fast], CONFIG)
    assert (progress.step, progress.steps) == (200, 400)
    assert progress.seconds_left == pytest.approx(20.0), "a tenth of a second a step, 200 steps"
    assert run_progress(slow[:1], CONFIG).seconds_left is None
    asked = [event("asked", 2.0 * n, asked=100 * n, origin="pink") for n in range(1, 6)]
    first = run_progress(asked, CONFIG)
    assert first.seconds_left is None, "no student step was taken"
    assert first.question_seconds_left == pytest.approx(10.0), "50 samples a second, 500 samples"
    assert run_progress([], CONFIG).step_share == 0.0
    paused = [*slow, event("trained", 1e6, step=60, loss=1.0)]
    assert run_progress(paused, CONFIG).seconds == pytest.approx(40.0 + LONGEST_PAUSE)
    back = [slow[0], event("trained", 5.0, step=20, loss=1.0)]
    assert run_progress(back, CONFIG).seconds == 0.0, "a clock that was set back"
    old = [parse_event({"kind": "trained", "step": 1, "asked": 1, "loss": 1.0}, "here")] * 2
    assert run_progress(old, CONFIG).seconds_left is None


def test_a_child_serves_while_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with live_page(tmp_path / "run", 0, "fedkd"):
        found = re.search(r"live page at (\S+)", capsys.readouterr().err)
        assert found is not None
        where = found[1]
        assert "Nothing was asked yet" in answer(where)[1]
        finish(start(tmp_path / "run"))
        assert "<main data-finished>" in answer(where)[1]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            answer(where)
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the child goes on after the last page was fetched")


def test_watch_prints_where_the_page_is(tmp_path: Path) -> None:
    finish(start(tmp_path / "run"))
    command = [sys.executable, "-m", "fedkd.simulations.cli", "watch", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            where = process.stdout.readline().decode().strip()
            scheme, _, host, path, rest = where.split("/")
            assert (scheme, rest) == ("http:", "")
            assert host.startswith("127.0.0.1:")
            assert re.fullmatch(r"[\w-]{16}", path)
            assert "87.5%" in answer(where)[1]
        finally:
            process.terminate()


def in_chromium(*arguments: str) -> str:
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    heard = subprocess.run(
        [CHROMIUM, *flags, *arguments], capture_output=True, timeout=120, check=True
    )
    return heard.stdout.decode()


@needs_browser
def test_an_open_page_becomes_the_report(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    go_on(folder, 250, 100)
    with served(folder.path) as (server, where):
        page = server.page

        class Then(LivePage):
            """The run goes on as soon as the browser has its page, and ends at its next look."""

            looks = 0

            def current(self) -> tuple[bytes, str]:
                self.looks += 1
                if self.looks == 3:
                    go_on(folder, 1000, 400)
                    finish(folder)
                return page.current()

        server.page = Then(folder.path)
        seen = in_chromium("--virtual-time-budget=20000", "--dump-dom", where)
    assert server.page.looks >= 3
    assert "87.5%" in seen
    assert "data-finished" in seen
    assert "The run goes on" not in seen, "the part that says so was replaced"


@needs_browser
def test_no_plot_is_cut_on_a_telephone_and_dark_pages_are_dark(tmp_path: Path) -> None:
    folder = start(tmp_path / "run")
    go_on(folder, 250, 100)
    go_on(folder, 500, 200)
    finish(folder)
    (tmp_path / "page.html").write_bytes(LivePage(folder.path).current()[0])
    measure = """<body><iframe src="page.html" style="width:WIDTHpx;height:3000px"></iframe>
    <pre id="found"></pre><script>
    onload = () => {
      const page = document.querySelector("iframe").contentDocument;
      const shown = [...page.querySelectorAll("figure svg")].filter((svg) => svg.clientWidth);
      const edges = shown.map((svg) => svg.getBoundingClientRect().right);
      const ground = page.defaultView.getComputedStyle(page.body).backgroundColor;
      document.querySelector("#found").textContent = JSON.stringify({
        count: shown.length, right: Math.max(...edges), ground: ground,
        scroll: page.documentElement.scrollWidth});
    };</script>"""
    found = {}
    for width, scheme in ((400, 0), (1280, 1)):
        (tmp_path / "frame.html").write_text(measure.replace("WIDTH", str(width)))
        seen = in_chromium(
            "--allow-file-access-from-files",
            f"--blink-settings=preferredColorScheme={scheme}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        )
        text = re.search(r'<pre id="found">(.*?)</pre>', seen)
        assert text is not None
        found[width, scheme] = json.loads(text[1])
    for (width, scheme), facts in found.items():
        assert facts["count"] >= 3
        assert facts["right"] <= width
        assert facts["scroll"] <= width
        assert facts["ground"] == ("rgb(20, 24, 31)", "rgb(255, 255, 255)")[scheme]

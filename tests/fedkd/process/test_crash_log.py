"""An exception that nobody expected is one line, and its traceback a file of its owner's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "fedkd": "fedkd.simulations.cli",
    "fedkd-client": "fedkd.client.cli",
    "fedkd-server": "fedkd.server.cli",
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_an_unexpected_exception_is_one_line_and_a_log_file(command: str, tmp_path: Path) -> None:
    module = COMMANDS[command]
    program = (
        f"import sys, {module} as cli\n"
        "def fail(*args, **kwargs): raise RuntimeError('Overflow when\\nunpacking')\n"
        "cli.app = fail\nsys.argv = ['x']\ncli.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{command}: unexpected RuntimeError: Overflow when unpacking; ")
    log = Path(re.findall(r"the traceback is in (\S+);", line)[0])
    assert "in fail" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600

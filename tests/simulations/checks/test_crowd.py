"""A small crowd on one hub, with the command and its processes as in the large one."""

import json
import subprocess
import sys
from pathlib import Path

from fedkd.simulations.checks.crowd import MOST_MEMORY_GB

SECONDS = 150.0
"""Six processes import torch on a loaded machine."""


def test_every_institution_of_a_crowd_answers_every_question(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedkd.simulations.checks.crowd", "--streams", "40"]
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [*command, "--questions", "5", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert (figures["answers"], figures["absent"]) == (200, 0)
    assert 0 < figures["hub_idle_gb"] <= figures["hub_peak_gb"] <= MOST_MEMORY_GB
    assert 0 < figures["question_seconds_p50"] <= figures["question_seconds_p99"]
    assert figures["hub_cpu_seconds"] > 0
    assert "40 streams, joined in" in done.stdout


def test_a_number_that_cannot_be_is_refused() -> None:
    command = [sys.executable, "-m", "fedkd.simulations.checks.crowd", "--streams", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 2
    assert "must be 1 or more" in done.stderr

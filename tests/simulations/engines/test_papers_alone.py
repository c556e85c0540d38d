"""Papers with one institution that releases what they read: from end to end, and resumed."""

import json
from pathlib import Path

import pytest

from fedkd.experiment import Experiment, load_experiment
from fedkd.server.report.records.loop_events import loop_events
from fedkd.simulations import run as runs
from fedkd.simulations.engines.local import LocalInstitutions

FEATURES = 'policy.signals=["logits", "bn_gap", "features"]'
PAPERS = ("cmi", "hidfd", "pre_dfkd")


def small(paper: str, count: int, *further: str) -> Experiment:
    short = (
        f"institutions.count={count}",
        "institutions.partition=iid",
        "institutions.epochs=1",
        "questions.budget=128",
        "questions.batch=16",
        "student.steps=20",
        FEATURES,
        *further,
    )
    return load_experiment(f"digits-{paper}", short)


class StopError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("paper", PAPERS)
def test_a_run_with_one_institution_is_the_papers_and_resumes_bit_for_bit(
    paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    runs.run(small(paper, 1), "local", whole)
    result = json.loads((whole / "result.json").read_text())
    assert ("features" in result["signals_asked"]) == (paper != "pre_dfkd")
    assert len(result["teachers"]) == 1
    plain, requests = LocalInstitutions.answer, 0

    def answer(self, request):  # type: ignore[no-untyped-def]
        nonlocal requests
        requests += 1
        if requests == 8:
            raise StopError
        return plain(self, request)

    monkeypatch.setattr(LocalInstitutions, "answer", answer)
    with pytest.raises(StopError):
        runs.run(small(paper, 1), "local", pieces, checkpoint=0.001)
    runs.resume(pieces)
    students = [(path / "student.safetensors").read_bytes() for path in (whole, pieces)]
    assert students[0] == students[1]
    assert loop_events(pieces) == loop_events(whole) != []


@pytest.mark.parametrize("paper", ["cmi", "hidfd"])  # which ask for features where one is alone
def test_several_institutions_that_release_as_much_are_asked_for_less(
    paper: str, tmp_path: Path
) -> None:
    runs.run(small(paper, 2), "local", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert "features" not in result["signals_asked"]

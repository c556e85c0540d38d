"""What the page says of each institution, and what its guarantees come to together."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.privacy import parallel_composition
from fedkd.server.report.formatting import epsilon_delta
from fedkd.server.report.institutions.institution_section import (
    combined_guarantee,
    factor,
    institution_sections,
    summed_guarantee,
)
from fedkd.server.report.page import build_report
from fedkd.server.report.records.result_schema import TeacherRecord, parse_result
from fedkd.server.report.records.run_folder import RunFolder

PROMISE = {
    "epsilon": 3.0,
    "delta": 1e-5,
    "steps": 600,
    "noise_multiplier": 1.5,
    "sampling_rate": 0.05,
    "clipping": 1.0,
    "unit": "one training image",
    "adjacency": "add or remove",
    "mechanism": "DP-SGD",
    "accountant": "prv",
    "version": 1,
}


def teacher(name: str, epsilon: float | None = None, **changes: Any) -> dict[str, Any]:
    guaranteed = epsilon is not None
    return {
        "name": name,
        "model": "cnn",
        "accuracy": 0.8,
        "samples_asked": 6400,
        "samples_pulled_back": 0,
        "bytes_received": 2_000_000,
        "bytes_sent": 5_000_000,
        "refusals": 0,
        "epsilon": epsilon,
        "delta": 1e-5 if guaranteed else None,
        "mechanism": "DP-SGD, one training image (add or remove)" if guaranteed else None,
        "guarantee": {**PROMISE, "epsilon": epsilon} if guaranteed else None,
        "classes": ["cat", "dog"],
        "class_counts": None if guaranteed else [30, 12],
        "signals": ["logits"],
        "questions": 100,
        "pull_back": False,
        "tells_scores": False,
        "sample_cap": 10_000,
        **changes,
    }


def result(*teachers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "student": {"accuracy": 0.9},
        "ensemble": {"accuracy": 0.95},
        "teachers": list(teachers),
        "classes": ["cat", "dog"],
        "method": "cudfkd",
        "signals_asked": ["logits"],
        "engine": "local",
        "seed": 0,
        "student_steps": 100,
        "generator_steps": 0,
        "seconds": 1.0,
        "config": {},
        "versions": {},
        **changes,
    }


def page(path: Path, told: dict[str, Any], *events: dict[str, Any]) -> str:
    folder = RunFolder.create(path / "run")
    for event in events:
        folder.append_event(event)
    folder.write_result(told)
    return build_report(folder.path).read_text(encoding="utf-8")


def parts(html: str) -> Iterator[str]:
    """Visible text of each institution's part."""
    for section in re.findall(r'<details class="section">.*?</details>', html, flags=re.DOTALL):
        yield " ".join(re.sub(r"<[^>]+>", " ", section).replace("&#39;", "'").split())


def test_a_promise_is_told_with_all_that_it_rests_on(tmp_path: Path) -> None:
    (text,) = parts(page(tmp_path, result(teacher("north", 3.0))))
    for words in (
        "6,400 samples in 100 questions; its policy answers at most 10,000",
        "Signals class scores (logits)",
        "Over the run took part throughout",
        "Classes 2: cat, dog",
        "Class counts not released",
        "Scores of the student not released",
        "2.0\xa0MB from it, 5.0\xa0MB to it".replace("\xa0", " "),
        "ε = 3, δ = 1e-5",
        "at most 20.1 times likelier",
        "but for a chance of 1e-5",
        "What is protected one training image",
        "differ by one unit: add or remove",
        "DP-SGD, 600 noisy steps, each unit in a step with a chance of 0.05, clipped to 1, "
        "noise of 1.5 times that; ε by the accountant prv",
        "The teacher itself was trained with noise",
        "Other models of the same data that stand in no ledger of its own.",
        "The choice of settings",
        "how long it took",
        "that it takes part, its name, its classes",
        "The coordinator cannot check it.",
    ):
        assert words in text.replace("\xa0", " "), words


def test_no_promise_is_said_plainly_and_claims_nothing(tmp_path: Path) -> None:
    (text,) = parts(page(tmp_path, result(teacher("north"))))
    assert "It guarantees no differential privacy" in text
    assert "Class counts released: 42 training images in all" in text
    for words in ("ε", "What the claim covers", "likelier"):
        assert words not in text


def test_what_was_told_before_without_a_promise_is_said(tmp_path: Path) -> None:
    for unpromised in (0, 1200):
        north = teacher("north", 3.0, guarantee={**PROMISE, "unpromised": unpromised})
        (part,) = parts(page(tmp_path / str(unpromised), result(north)))
        said = "1,200 images were answered without any guarantee" in " ".join(part.split())
        assert said == bool(unpromised)


def test_noise_on_answers_is_not_said_to_cover_the_teacher(tmp_path: Path) -> None:
    noisy = teacher("north", 3.0, mechanism="discrete Gaussian")
    noisy["guarantee"] = {"mechanism": "discrete Gaussian", "unit": "the data set"}
    (text,) = parts(page(tmp_path, result(noisy)))
    assert "The teacher itself was trained with noise" not in text
    assert "What was released by this mechanism" in text


def test_who_came_and_went_is_told_with_reasons(tmp_path: Path) -> None:
    def asked(samples: int) -> dict[str, Any]:
        return {"kind": "asked", "asked": samples, "origin": "pink"}

    def lost(name: str) -> dict[str, Any]:
        return {"kind": "lost", "name": name, "reason": "over its cap"}

    html = page(
        tmp_path,
        result(teacher("north", refusals=2), teacher("south")),
        asked(64),
        lost("north"),
        asked(128),
        {"kind": "returned", "name": "north"},
        lost("north"),
        {"kind": "banned", "name": "south", "reason": "answered <twice>"},
    )
    north, south = parts(html)
    assert (
        "did not answer after sample 64; answered again after sample 128; "
        "did not answer after sample 128" in north
    )
    assert "Refusals 2; when it did not answer: over its cap (2 times)" in north
    assert "was banned after sample 128" in south
    assert "answered &lt;twice&gt;" in south


def test_answer_times_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    timed = teacher("slow", answer_seconds_median=0.0123, answer_seconds_p90=2.5)
    html = page(tmp_path / "hub", result(timed, teacher("new")))
    assert html.count("12\N{NO-BREAK SPACE}ms") == 2
    assert html.count("2.5\N{NO-BREAK SPACE}s") == 2
    assert "not measured" in html
    assert "Nine in ten" in html
    assert "Nine in ten" not in page(tmp_path / "local", result(teacher("one")))


def test_a_record_from_before_promises_were_kept_still_has_a_page(tmp_path: Path) -> None:
    told = result(teacher("north", 3.0), teacher("south", 2.0))
    del told["signals_asked"]
    for old in told["teachers"]:
        for key in ("guarantee", "questions", "pull_back", "tells_scores", "sample_cap", "classes"):
            del old[key]
    html = page(tmp_path, told)
    north, _ = parts(html)
    assert "DP-SGD, one training image (add or remove)" in north
    assert "What is protected not recorded by itself" in north
    assert "The teacher itself was trained with noise" in north
    assert "How steadily" not in html
    assert "for every training image that lies" not in html
    assert "ε = 5, δ = 2e-5" in html


def records(*teachers: dict[str, Any]) -> tuple[TeacherRecord, ...]:
    return parse_result(result(*teachers), "here").teachers


def test_promises_are_the_largest_side_by_side_and_the_sum_where_data_overlap() -> None:
    told = [(3.0, 1e-5), (1.0, 1e-5), (2.5, 1e-5)]
    found = combined_guarantee(records(*(teacher(str(i), e) for i, (e, _) in enumerate(told))))
    assert found is not None
    assert found.parallel == epsilon_delta(*parallel_composition(told)) == "ε = 3, δ = 1e-5"
    assert found.summed == "ε = 6.5, δ = 3e-5"
    assert found.unit == "training image"


@pytest.mark.parametrize(
    "second",
    [
        teacher("south"),
        teacher("south", 2.0, guarantee={**PROMISE, "adjacency": "replace one"}),
        teacher("south", 2.0, guarantee={**PROMISE, "unit": "one patient"}),
        teacher("south", 2.0, guarantee=None),
    ],
)
def test_promises_that_do_not_go_together_are_not_put_together(second: dict[str, Any]) -> None:
    alike = records(second, {**second, "name": "west"})
    replaced = second["guarantee"] and second["guarantee"]["adjacency"] == "replace one"
    assert not replaced or combined_guarantee(alike) is None
    both = records(teacher("north", 3.0), second)
    assert combined_guarantee(both) is None
    assert summed_guarantee(both) == ("" if second["epsilon"] is None else "ε = 5, δ = 2e-5")
    assert combined_guarantee(both[:1]) is None


@given(st.floats(1e-3, 1e3))
def test_a_bound_is_never_written_smaller_than_it_is(epsilon: float) -> None:
    written = float(epsilon_delta(epsilon, None).removeprefix("ε = "))
    assert epsilon * (1 - 1e-9) <= written <= epsilon * 1.0011


@pytest.mark.parametrize(
    ("epsilon", "own", "both"),
    [
        (5e-324, "ε = 1e-300", "ε = 1e-300"),
        (1e300, "ε = 1e+300", "ε = ∞"),
        (1e308, "ε = ∞", "ε = ∞"),
    ],
)
def test_a_page_holds_any_bound_that_an_earlier_release_recorded(
    epsilon: float, own: str, both: str, tmp_path: Path
) -> None:
    told = [teacher("north", epsilon), teacher("south", epsilon)]
    assert own in page(tmp_path, result(*told))
    assert summed_guarantee(records(*told)).startswith(both)


def test_a_factor_is_readable_at_any_epsilon() -> None:
    assert [factor(e) for e in (0.1, 1.0, 8.0)] == ["1.11", "2.72", "2,981"]
    assert factor(1e6) == "e^1e+06, beyond any use"


def test_a_page_of_many_institutions_stays_folded(tmp_path: Path) -> None:
    many = [teacher(f"institution {i}", 2.0) for i in range(60)]
    html = page(tmp_path, result(*many))
    assert len(list(parts(html))) == 60
    assert "<details open" not in html
    assert 'href="#institution-60"' in html
    assert 'id="institution-60"' in html
    told = parse_result(json.loads(json.dumps(result(*many))), "here")
    assert math.isclose(institution_sections(told, ())[59].number, 60)

"""Questions stop once agreement on held-back samples no longer rises; student steps do not."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.core.device import CPU
from fedkd.errors import SettingsError
from fedkd.loop import Plan, Progress
from fedkd.methods import cudfkd
from fedkd.procedural import build_priors
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.student.early_stopping import EarlyStopping
from tests.support.gated_institutions import GatedInstitutions, linear, run

SCORES = st.lists(st.floats(0, 1), max_size=30)
PLAN = Plan(640, 16, steps=40, student_batch=8, held_back=0.3, stop=2)


def heard(patience: int | None, scores: list[float | None]) -> tuple[EarlyStopping, list[int]]:
    stopping = EarlyStopping(patience)
    return stopping, [at for at, score in enumerate(scores) if stopping.hear(score)]


def test_stops_after_so_many_scores_without_a_better_one() -> None:
    scores: list[float | None] = [0.5, 0.6, 0.6, 0.55, 0.7, 0.7, None, 0.69, 0.2, 0.9]
    assert heard(2, scores)[1] == [3]
    assert heard(3, scores)[1] == [8]
    assert heard(4, scores)[1] == []
    assert heard(None, scores)[1] == []


@given(SCORES, st.integers(1, 5))
def test_by_the_definition_and_for_good(scores: list[float], patience: int) -> None:
    stopping, stops = heard(patience, list(scores))
    first = next(
        (
            at
            for at in range(patience, len(scores))
            if max(scores[at - patience + 1 : at + 1]) <= max(scores[: at - patience + 1])
        ),
        None,
    )
    assert stops == ([] if first is None else [first])
    assert stopping.stopped == (first is not None)


@given(SCORES, SCORES)
def test_a_restored_one_goes_on_the_same(before: list[float], after: list[float]) -> None:
    one, _ = heard(2, list(before))
    other = EarlyStopping(2)
    other.restore(one.state())
    assert [one.hear(score) for score in after] == [other.hear(score) for score in after]


@pytest.mark.parametrize("held_back", [0.0, 0.3])
def test_what_cannot_be_is_refused(held_back: float) -> None:
    with pytest.raises(SettingsError, match="held back"):
        Plan(64, stop=0 if held_back else 1, held_back=held_back)


@pytest.mark.parametrize(
    ("steps", "asking", "count"), [(40, 0.6, 12), (12_000, 0.1, 2), (7, 1.0, 7), (0, 0.6, 0)]
)
def test_a_patience_that_could_never_stop_is_refused(steps: int, asking: float, count: int) -> None:
    """Evaluations are counted in a run; the last of them stops it at the earliest."""
    plan = Plan(5000, 1, steps=steps, asking=asking)
    assert plan.evaluations_while_asking == pytest.approx(count, abs=1)
    heard = plan.evaluations_while_asking
    for stop in range(1, heard):
        assert replace(plan, stop=stop).stop == stop
    with pytest.raises(SettingsError, match=rf"could never stop: .* with {heard} evaluations"):
        replace(plan, stop=max(1, heard))


@pytest.mark.parametrize("batch", [16, 64, 320, 50])
def test_as_many_evaluations_are_heard_as_the_plan_says(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float | None] = []

    def hear(self: EarlyStopping, score: float | None) -> bool:
        heard.append(score)
        return False

    monkeypatch.setattr(EarlyStopping, "hear", hear)
    plan = Plan(640, batch, steps=40, student_batch=8, held_back=0.3)
    run(cudfkd(), plan)
    assert len(heard) == plan.evaluations_while_asking > 1


def test_a_run_saves_questions_and_takes_all_its_steps() -> None:
    whole, _ = run(cudfkd(), Plan(640, 16, steps=40, student_batch=8, held_back=0.3))
    stopped, events = run(cudfkd(), PLAN)
    assert (whole.asked, whole.saved) == (640, 0)
    assert 0 < stopped.saved == 640 - stopped.asked
    assert stopped.student_steps == whole.student_steps == 40
    (event,) = [each for each in events if each.kind == "stopped"]
    assert stopped.asked - 16 <= int(str(event.facts["asked"])) <= stopped.asked
    scores = [
        float(str(e.facts["agreement"]))
        for e in events[: events.index(event) + 1]
        if e.kind == "held_back"
    ]
    assert max(scores[-2:]) <= max(scores[:-2], default=-math.inf)


@pytest.mark.parametrize("overlap", [True, False])
def test_every_driver_stops_at_the_same_question(overlap: bool) -> None:
    expected, told = run(cudfkd(), PLAN)
    institutions, events = GatedInstitutions(), list[Progress]()
    parts = Ingredients(
        linear(99), cudfkd(), PLAN, build_priors("noise"), overlap=overlap, compute=CPU
    )
    coordinator = Coordinator(
        parts,
        list(institutions.cards),
        lambda request: (institutions.put(request), {}),
        events.append,
    )
    assert coordinator.finish().asked == expected.asked
    assert [(e.kind, e.facts) for e in events] == [(e.kind, e.facts) for e in told]

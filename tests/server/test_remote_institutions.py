"""Who joins late takes part where its teacher agrees with the run's, and else is told why."""

import threading
from dataclasses import replace

import pytest

from fedkd.client.sessions.agent import Agent
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.models import build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Ask, Card, Column, NamedTask, Number, Signal
from fedkd.server.coordinator import Ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.remote_institutions import RemoteInstitutions, teacher_mismatch
from tests.support.hub_clients import IMAGES, QUICK, SOON, TOKEN, agents, card, honest_answer

COLUMNS = (Column("age", 0.0, 99.0), Column("dose", 0.0, 5.0))
COST, DAYS = Number("cost", "EUR", 0.0, 100.0), Number("days", "d", 0.0, 9.0)


def patients(name: str, *numbers: Number) -> Card:
    logits = frozenset({Signal.LOGITS})
    return Card(name, len(numbers), (1, 1, 2), logits, columns=COLUMNS, numbers=numbers)


TEACHERS = [patients("north", COST), patients("south", COST, DAYS)]


@pytest.mark.parametrize(
    ("late", "says"),
    [
        (patients("late", COST), None),
        (patients("late", replace(DAYS, error=1.0)), None),
        (patients("late", replace(COST, unit="cent")), "give cost another unit or range"),
        (patients("late", replace(DAYS, high=99.0)), "late and south give days another unit"),
        (replace(patients("late", COST), columns=COLUMNS[::-1]), "differ in column 0"),
        (
            replace(patients("late"), classes=1, class_names=("cost",)),
            "late predicts classes and north numbers",
        ),
        (patients("late", Number("weight")), "late knows weight"),
    ],
)
def test_a_late_joiner_reads_and_predicts_what_the_run_was_built_for(
    late: Card, says: str | None
) -> None:
    why = teacher_mismatch(late, TEACHERS)
    assert (why is None) == (says is None)
    assert (says or "") in (why or "")
    assert "\n" not in (why or "")


@pytest.mark.parametrize(
    "other",
    [
        {"numbers": tuple(Number(str(place)) for place in range(5))},
        {"classes": 2, "tasks": (NamedTask("0", ("1", "2")),)},
    ],
    ids=["numbers", "tasks"],
)
def test_a_late_joiner_of_another_kind_is_not_asked(hub: Hub, other: dict[str, object]) -> None:
    plan = Plan(budget=16, batch=4, steps=4, student_batch=4)
    run = Ingredients(build_network("mlp", 5, (3, 2, 2), 0), cudfkd(), plan, build_priors("pink"))
    served = list[str]()
    with agents(hub, north=honest_answer):
        participants = RemoteInstitutions(hub, run, hub.wait_for(1, SOON), SOON)
        unlike = replace(card("late"), **other)  # type: ignore[arg-type]
        late = Agent(hub.address, TOKEN, unlike, honest_answer, reconnect=QUICK)
        thread = threading.Thread(target=lambda: served.append(late.serve()))
        thread.start()
        hub.wait_for(2, SOON)
        assert participants.answer(Ask(IMAGES))[0].keys() == {"north"}
        thread.join(SOON)
    assert "late predicts" in served[0]
    assert [each.name for each in participants.cards] == ["north"]

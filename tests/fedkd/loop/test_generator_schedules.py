"""Schedules of a generator follow its own questions, those of the student its steps."""

from typing import Any

import pytest

import fedkd
from fedkd.loop import distil, drive
from fedkd.methods import make
from fedkd.models import build_network
from fedkd.procedural import build_priors

SHAPE, CLASSES = (1, 8, 8), 4


def weights(asking: float, **arguments: Any) -> list[float]:
    """The adversarial weight of each generator step of a run."""
    teachers = fedkd.InProcess({"a": build_network("cnn", CLASSES, SHAPE, 1)}, SHAPE, CLASSES)
    student = build_network("mlp", CLASSES, SHAPE, 2)
    method = make("cudfkd", {"gradient": "pull_back", "latent": 8, **arguments})
    plan = fedkd.Plan(budget=640, batch=16, steps=80, asking=asking)
    told: list[float] = []

    def watch(progress: Any) -> None:
        if progress.kind == "generated":
            told.append(progress.facts["weights"]["adversarial_kl"])

    loop = distil(student, method, teachers.cards, plan, build_priors("pink"), watch=watch)
    drive(loop, teachers.answer)
    return told


@pytest.mark.parametrize("asking", [0.2, 0.6, 1.0])
def test_the_ramp_ends_with_the_questions_however_soon_they_end(asking: float) -> None:
    ramped = weights(asking)
    assert len(ramped) == 40
    assert ramped[:10] == [0.0] * 10
    assert ramped[20] == pytest.approx(31.0)
    assert ramped[30:] == [62.0] * 10


def test_a_generator_that_begins_late_has_its_whole_ramp() -> None:
    ramped = weights(0.6, warm_up=0.5, adversarial_stop=5.0)
    assert ramped[0] == 0.0
    assert ramped[-1] == 5.0
    assert ramped[len(ramped) // 2] == pytest.approx(2.5, abs=0.8)

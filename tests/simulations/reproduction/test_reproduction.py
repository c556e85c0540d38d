"""Reproductions: regimes as data, rounds as a paper has them, resumption, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.core.device import CPU
from fedkd.errors import SettingsError
from fedkd.methods import make
from fedkd.models import ModuleTeacher, build_network
from fedkd.simulations import cli
from fedkd.simulations.reproduction import reproduction
from fedkd.simulations.reproduction.direct_training import DirectTraining
from fedkd.simulations.reproduction.question_training import QuestionTraining
from fedkd.simulations.reproduction.regime import Regime, known_regimes, load_regime
from fedkd.simulations.reproduction.reproduction import _open, lines_of, reproduce
from fedkd.simulations.reproduction.teacher_training import TeacherSettings, train_until

SHAPE, K = (1, 16, 16), 10
DIGITS = ("data.name=digits", "data.mean=[0.3]", "data.deviation=[0.4]", "data.side=16")
SMALL = (*DIGITS, "share=1.0", "generator.batch=8", "student.batch=8", "teacher.epochs=1")


def small(name: str, rounds: int, *more: str) -> Regime:
    return load_regime(name, [*SMALL, f"rounds={rounds}", "generator.width=4", *more])


def training_of(regime: Regime, seed: int = 0) -> DirectTraining:
    teacher = ModuleTeacher(build_network(regime.teacher.model, K, SHAPE, seed), K)
    student = build_network(regime.student.model, K, SHAPE, seed + 1)
    method = make(regime.method, regime.arguments)
    return DirectTraining(regime, method, teacher, student, SHAPE, seed, CPU)


def test_there_are_regimes() -> None:
    assert {"cudfkd", "dafl", "dfad", "zskt"} <= set(known_regimes())


def test_a_student_begins_when_most_images_are_there() -> None:
    training = training_of(small("deepinversion", 4, "share=1.0", "student.begins=0.6"))
    taken = []
    while not training.done:
        training.round()
        taken.append(training.student_steps)
    steps = training.regime.student.steps
    assert taken == [0, 0, steps, 2 * steps]
    assert training.progress == 1.0


BY_QUESTIONS = [name for name in known_regimes() if load_regime(name).questions is not None]


@pytest.mark.parametrize("name", [n for n in known_regimes() if n not in BY_QUESTIONS])
def test_a_regime_names_its_method_and_trains_generator_and_student(name: str) -> None:
    regime = small(name, 2, "share=1.0")
    assert regime.differs, "what is not as in the paper is said"
    assert (regime.published is None) == (not regime.published_of)
    training = training_of(regime)
    before = [weight.clone() for weight in training.student.parameters()]
    steps = 0
    while not training.done:
        training.round()
        steps = training.source.steps
    assert steps > 0
    assert training.student_steps > 0
    after = training.student.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def by_questions(name: str, seed: int = 0) -> QuestionTraining:
    regime = small(name, 4, "student.steps=20", "questions.share=0.5")
    assert regime.questions is not None
    teacher = ModuleTeacher(build_network(regime.teacher.model, K, SHAPE, 0), K)
    student, method = build_network("lenet5", K, SHAPE, 1), make(regime.method, regime.arguments)
    return QuestionTraining(regime, regime.questions, method, teacher, student, SHAPE, seed, CPU)


def test_rounds_of_a_regime_by_questions_are_those_of_its_plan() -> None:
    regime = small("dip_kd", 10, "student.steps=30", "questions.share=0.7")
    assert regime.questions is not None
    teacher = ModuleTeacher(build_network(regime.teacher.model, K, SHAPE, 0), K)
    student, method = build_network("lenet5", K, SHAPE, 1), make(regime.method, regime.arguments)
    training = QuestionTraining(regime, regime.questions, method, teacher, student, SHAPE, 0, CPU)
    seen = []
    while not training.done:
        training.round()
        seen.append(training.rounds)
    assert seen == [*range(1, 11)]
    assert training.student_steps == 90


def test_a_method_that_trains_several_students_is_no_regime() -> None:
    regime = small("dafl", 2)
    method = make("disguide", {})
    teacher = ModuleTeacher(build_network("lenet5", K, SHAPE, 0), K)
    with pytest.raises(SettingsError, match="further parts of the student"):
        DirectTraining(regime, method, teacher, build_network("lenet5", K, SHAPE, 1), SHAPE, 0, CPU)


@pytest.mark.parametrize("name", BY_QUESTIONS)
def test_a_regime_by_questions_asks_first_and_then_learns(name: str) -> None:
    assert load_regime(name).differs
    training = by_questions(name)
    before = [weight.clone() for weight in training.student.parameters()]
    for _ in range(2):
        training.round()
    assert training.samples == 2 * 8
    assert training.student_steps == 0
    while not training.done:
        training.round()
    assert (training.samples, training.student_steps) == (2 * 8, 2 * 20)
    after = training.student.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_regime_by_questions_goes_on_alike_from_any_round() -> None:
    whole = by_questions("dip_kd")
    while not whole.done:
        whole.round()
    for rounds in (1, 5):
        first, second = by_questions("dip_kd"), by_questions("dip_kd")
        for _ in range(rounds):
            first.round()
        second.restore(first.state())
        while not second.done:
            second.round()
        assert second.rounds == whole.rounds
        one, other = (t.student.state_dict() for t in (whole, second))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_regime_by_questions_takes_the_loops_optimiser_alone() -> None:
    regime = small("dip_kd", 4, "student.optimiser=sgd")
    teacher = ModuleTeacher(build_network("lenet5", K, SHAPE, 0), K)
    assert regime.questions is not None
    with pytest.raises(SettingsError, match="has adam, cosine and kept"):
        QuestionTraining(
            *(regime, regime.questions, make("dip_kd", {}), teacher),
            *(build_network("lenet5", K, SHAPE, 1), SHAPE, 0, CPU),
        )


def test_one_institution_in_this_process_gives_a_method_its_papers_form(tmp_path: Path) -> None:
    settings = [*SMALL, "rounds=1", "generator.width=4", "generator.steps=2", "student.steps=1"]
    result = reproduce("cmi", 0, tmp_path / "cmi", [*settings, "arguments.steps_per_batch=2"])
    assert result["samples"] == 2 * 8 + 2 * 8, "a view of each image was asked about too"


def test_samples_are_all_that_the_teacher_answered() -> None:
    training = training_of(small("dfad", 3))
    training.round()
    assert training.samples == 8 + 5 * 8
    same = training_of(small("dafl", 3))
    same.round()
    assert same.samples == 8, "the student learns from the generator's own batch"
    often = training_of(small("zskt", 3))
    often.round()
    assert (often.samples, often.student_steps) == (8, 10), "ten steps, all on the same images"


def test_a_student_step_has_fresh_images_and_the_same_has_those_of_the_generator() -> None:
    training = training_of(small("dfad", 3))
    training.round()
    one, other = (training.fresh(8)[0] for _ in "ab")
    assert not torch.equal(one, other)
    same = training_of(small("dafl", 3))
    same.round()
    assert same.last is not None
    assert same._images(same)[0] is same.last.images


def test_a_run_in_two_calls_ends_with_the_same_student_as_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: tuple[str, int, tuple[str, ...]] = ("cudfkd", 3, ())
    settings = [*SMALL, "rounds=4", "generator.width=4", "teacher.model=cnn"]
    whole = reproduce(given[0], given[1], tmp_path / "whole", settings)
    monkeypatch.setattr(reproduction, "CHECKPOINT_INTERVAL", -1.0)
    rounds, last = {"left": 2}, DirectTraining.round

    def stopping(self: DirectTraining) -> None:
        if not rounds["left"]:
            raise KeyboardInterrupt
        rounds["left"] -= 1
        last(self)

    monkeypatch.setattr(DirectTraining, "round", stopping)
    with pytest.raises(KeyboardInterrupt):
        reproduce(given[0], given[1], tmp_path / "pieces", settings)
    rounds["left"] = 2
    pieces = reproduce(given[0], given[1], tmp_path / "pieces", settings)
    states = [(tmp_path / n / reproduction.STATE) for n in ("whole", "pieces")]
    one, other = (reproduction.read(state).tensors for state in states)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole["figure"], whole["samples"]) == (pieces["figure"], pieces["samples"])
    assert reproduce(given[0], given[1], tmp_path / "pieces", settings) == pieces
    with pytest.raises(SettingsError, match="other settings"):
        reproduce("cudfkd", 4, tmp_path / "pieces", settings)


def test_the_command_writes_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures" / "dfad.json"
    overrides = [word for each in (*SMALL, "rounds=2") for word in ("--set", each)]
    words = ["dfad", "--seed", "1", "--out", str(tmp_path / "run"), "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["fedkd", "reproduce", *words, *overrides])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    result: dict[str, Any] = json.loads(file.read_text())
    assert {"method", "figure", "published", "teacher", "samples", "seconds"} <= result.keys()
    assert (result["method"], result["published"], result["seed"]) == ("dfad", 98.3, 1)
    assert result["samples"] == 2 * 6 * 8
    out = capsys.readouterr().out
    for line in lines_of(result):
        assert line.split()[0] in out


def test_a_schedule_of_the_rate() -> None:
    student = small("cudfkd", 2).student
    rate = student.rate(100)
    assert rate(0) == pytest.approx(2e-3)
    assert rate(50) == pytest.approx(1e-3)
    drops = student.model_copy(update={"schedule": "drops", "drops": (0.5, 0.8)}).rate(100)
    assert [drops(s) / 2e-3 for s in (49, 50, 80)] == pytest.approx([1.0, 0.1, 0.01])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean dafl"):
        load_regime("daff")
    with pytest.raises(SettingsError, match="unknown key"):
        load_regime("dafl", ["student.stpes=3"])
    with pytest.raises(SettingsError, match="trains no generator"):
        training_of(small("dafl", 2, "method=feddf", "arguments={}"))
    with pytest.raises(SettingsError, match="needs bn_gap"):
        training_of(small("cudfkd", 2, "teacher.model=lenet5"))


def test_a_teacher_is_told_of_its_progress(tmp_path: Path) -> None:
    data = reproduction.padded(reproduction.open_data("digits", None), 16)
    assert data.shape == SHAPE
    assert int(data.test_images[:, :, :4].max()) == 0
    shares: list[float] = []
    network = build_network("cnn", K, SHAPE, 0)
    train_until(
        *(network, data, TeacherSettings(1, 256, 0.05), CPU, tmp_path / "t", float("inf")),
        progress=shares.append,
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_teachers_are_shifted_where_those_of_the_paper_are() -> None:
    for name in known_regimes():
        regime = load_regime(name)
        cifar = 4 if name.endswith("-cifar10") else 2  # small: as MNIST stands for CIFAR-10
        expected = 0 if regime.teacher.model == "lenet5" else cifar
        assert regime.teacher.shift == expected, name


def test_regimes_of_any_precision_share_a_teacher(tmp_path: Path) -> None:
    settings = (*SMALL, "rounds=1")
    float32 = reproduce("dfad", 0, tmp_path / "a", [*settings, "precision=float32"])
    bfloat16 = reproduce("dfad", 0, tmp_path / "other" / "b", [*settings, "precision=bfloat16"])
    assert float32["teacher"] == bfloat16["teacher"]
    teachers = [*tmp_path.glob(".teachers/*"), *tmp_path.glob("other/.teachers/*")]
    assert len(teachers) == 2
    assert teachers[0].read_bytes() == teachers[1].read_bytes()


def test_settings_can_be_chosen_without_the_test_images(tmp_path: Path) -> None:
    regime = small("dfad", 1)
    ours = _open(small("dfad", 1, "data.scored=training"))
    assert torch.equal(ours.test_labels, _open(regime).train_labels)
    assert torch.equal(ours.train_images, _open(regime).train_images)
    test = reproduce("dfad", 0, tmp_path / "a", [*SMALL, "rounds=1"])
    training = reproduce("dfad", 0, tmp_path / "b", [*SMALL, "rounds=1", "data.scored=training"])
    assert (test["scored"], training["scored"]) == ("test", "training")
    assert test["teacher"] != training["teacher"]
    assert len([*tmp_path.glob(".teachers/*")]) == 1, "one teacher, whatever it is scored on"

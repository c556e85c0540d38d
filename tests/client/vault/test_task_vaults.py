"""Vaults of institutions that label different tasks: one of them, or several at once."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.institution import Institution, owner_institution
from fedkd.client.institution.from_config import evaluate_student
from fedkd.client.institution.from_object import brought_institution
from fedkd.client.monitoring.terminal_formatting import format_card
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.attributes import attribute_labels
from fedkd.data.datasets import open_data
from fedkd.errors import DataError, SettingsError
from fedkd.models import build_network
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Ask, NamedTask, Reply, Signal

DATA = open_data("digits-attributes")
ODD, LARGE, HOLE = DATA.tasks
SHORT = SupervisedSettings(epochs=2)
SETS = (("odd",), ("hole", "large"))


def vault(index: int, **changes: object) -> TrainedVault:
    settings = {"model": "mlp", "training": SHORT, "tasks": SETS, **changes}
    return TrainedVault(Assets("digits-attributes", index=index, count=2, **settings))  # type: ignore[arg-type]


def test_digits_have_attributes() -> None:
    assert attribute_labels(torch.arange(10)).T.tolist() == [
        [0, 1] * 5,
        [0] * 5 + [1] * 5,
        [1, 0, 0, 0, 0, 0, 1, 0, 1, 1],
    ]
    assert [task.name for task in DATA.tasks] == ["odd", "large", "hole"]
    assert DATA.train_labels.shape == (1437, 3)


def test_an_institution_labels_its_own_tasks() -> None:
    north, south = vault(0), vault(1)
    assert (north.tasks, south.tasks) == ((ODD,), (HOLE, LARGE))
    assert north.training_samples.labels.ndim == 1
    assert south.training_samples.labels.shape[1] == 2
    assert len(north.training_samples.labels) + len(south.training_samples.labels) == 1437
    counts = south.class_counts
    assert counts is not None
    assert sum(counts[:2]) == sum(counts[2:]) == len(south.training_samples.labels)
    assert north.teacher.classes == 2
    assert south.teacher.classes == 4


def test_a_teacher_of_two_tasks_learns_both() -> None:
    own = vault(1, training=SupervisedSettings(epochs=12))
    counts = own.task_counts(_Asked(own))
    assert counts is not None
    assert counts["all_rows"] == [180]
    assert min(counts["task_right"]) > 150
    assert counts["all_right"][0] <= min(counts["task_right"])
    with pytest.raises(DataError, match="lacks one"):
        own.task_counts(_Asked(own), LARGE.output_names + ODD.output_names)


class _Asked(nn.Module):
    def __init__(self, of: TrainedVault) -> None:
        super().__init__()
        self._teacher = of.teacher

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._teacher.ask(x, frozenset({Signal.LOGITS}))[Signal.LOGITS]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": (("even",),)}, "tasks name 'even'; the data have odd, large, hole"),
        ({"labels": (("0",),)}, "takes neither labels"),
        ({"task": "odd"}, "takes neither labels"),
        ({"partition": "dirichlet"}, "these data have several tasks"),
        ({"model": "sklearn:SVC", "tasks": ()}, "takes one task"),
        ({"dp_training": DpSgdSettings(3.0), "tasks": ()}, "takes one task"),
        ({"data": "digits"}, "one task, whose classes are all there is"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    data = str(changes.pop("data", "digits-attributes"))
    settings = {"model": "mlp", "tasks": SETS, "training": SHORT, **changes}
    own = TrainedVault(Assets(data, count=2, **settings))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=words):
        own.check_model()


@pytest.mark.parametrize("reduced", [{"labels": True}, {"top_k": 1}, {"rounding": 2}])
def test_what_is_coarsened_is_coarsened_in_each_task(reduced: dict[str, int]) -> None:
    own = vault(1)
    coarse = Institution("south", own, Policy(**reduced)).answer(Ask(DATA.test_images[:20]))
    exact = Institution("south", own, Policy()).answer(Ask(DATA.test_images[:20]))
    assert isinstance(coarse, Reply)
    assert isinstance(exact, Reply)
    for at in (slice(0, 2), slice(2, 4)):
        one, other = (r.signals[Signal.LOGITS][:, at].float() for r in (coarse, exact))
        assert torch.equal(one.argmax(1), other.argmax(1))
        if "labels" in reduced:
            assert len(one.sort(1).values.unique(dim=0)) == 1


def test_noise_hides_one_task() -> None:
    policy = Policy(mode="local-dp", budget=Budget(8.0), samples=10)
    with pytest.raises(SettingsError, match="this teacher answers 2 at once"):
        Institution("south", vault(1), policy)


def test_the_owner_reads_tasks_on_the_card_and_scores_a_student(tmp_path: Path) -> None:
    (tmp_path / "north.toml").write_text(
        'name = "north"\n[teacher]\nmodel = "mlp"\nepochs = 1\ntask = "digit"\n'
        '[data]\nsource = "digits"\n[policy]\nsignals = ["logits"]\nsamples = 10\n'
        '[connection]\nserver = "127.0.0.1:1"\ninsecure = true\n'
    )
    config = load_owner_config(tmp_path / "north.toml")
    card = owner_institution(config).card
    assert card.tasks == (NamedTask("digit", tuple("0123456789")),)
    assert card.class_names is None
    assert "tasks of its teacher, with their classes" in format_card(card)
    assert "digit: 0, 1, 2, 3" in format_card(card)
    network = build_network("mlp", 12, (1, 8, 8), 0)
    names = [*card.tasks[0].output_names, *ODD.output_names]
    notes = {"student": "mlp", "classes": 12, "shape": "1x8x8", "class_names": json.dumps(names)}
    student = tmp_path / "student.safetensors"
    student.write_bytes(save(network.state_dict(), {"fedkd": json.dumps(notes)}))
    scores = evaluate_student(config, student)
    assert isinstance(scores, dict)
    assert set(scores) == {"samples", "digit"}


def test_a_brought_teacher_names_its_tasks() -> None:
    network = build_network("mlp", 4, (1, 8, 8), 0)
    tasks = {"odd": ["even", "odd"], "hole": ["open", "closed"]}
    card = brought_institution("north", network, Policy(), shape=(1, 8, 8), classes=tasks).card
    assert [task.name for task in card.tasks] == ["odd", "hole"]
    assert card.classes == 4
    with pytest.raises(SettingsError, match="mend the tasks"):
        brought_institution("n", network, Policy(), shape=(1, 8, 8), classes={"odd": ["odd"]})

"""Yardsticks: on the partition of the experiment, by Flower's own strategy, with plain formulas."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from flwr.app import Error, Message
from torch import Tensor, nn

from fedkd.client.institution import simulated_assets
from fedkd.client.vault.local_data import open_local_data
from fedkd.errors import QuorumLost, SettingsError
from fedkd.experiment import load_experiment, parse_experiment
from fedkd.models import build_network
from fedkd.simulations.baselines import __main__ as command
from fedkd.simulations.baselines.distillation import average, public_images
from fedkd.simulations.baselines.fedavg import averaged, client_app, run_fedavg
from fedkd.simulations.baselines.federation import bytes_of, federation_of
from tests.support.flower_nodes import LocalGrid, allow_messages  # sets Flower's variables first

SMALL = parse_experiment(
    {
        "name": "small",
        "institutions": {"count": 2, "epochs": 2, "models": ["mlp"]},
        "questions": {"budget": 256, "batch": 32},
        "student": {"model": "mlp", "steps": 40},
    }
)
SETTINGS = SMALL.model_dump_json()


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_messages(monkeypatch)


def test_institutions_have_the_images_of_the_experiment() -> None:
    federation = federation_of(SETTINGS)
    for index in range(2):
        images, labels = federation.share(index)
        vault = open_local_data(simulated_assets(SMALL, index))
        assert torch.equal(images, vault.images)
        assert torch.equal(labels, vault.labels)


def test_average_is_weighted_by_images() -> None:
    networks = [nn.Linear(2, 3), nn.Linear(2, 3)]
    mean = average(networks, [30, 10], nn.Linear(2, 3)).state_dict()
    one, other = (network.state_dict() for network in networks)
    for key in mean:
        assert torch.allclose(mean[key], 0.75 * one[key] + 0.25 * other[key])


def test_averaged_by_flowers_strategy() -> None:
    """Rounds of real messages learn; nothing else of ours takes part."""
    federation = federation_of(SETTINGS)
    grid, heard = LocalGrid(client_app, 2, limited=False), []
    untrained = federation.test_accuracy(federation.network())
    accuracy, weights = averaged(
        *(grid, federation, SETTINGS, 3, 2), lambda n, score: heard.append((n, score)), 0.0, 2
    )
    assert grid.sent == ["train"] * 6
    assert [n for n, score in heard if score is not None] == [2, 3]
    assert accuracy > untrained + 0.3
    network = federation.network()
    network.load_state_dict(dict(weights))
    assert federation.test_accuracy(network) == accuracy


def test_averaging_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Stopped after a round, it ends with the weights of a run that was never stopped."""
    federation, file = federation_of(SETTINGS), tmp_path / "fedavg.safetensors"

    def run(told: Callable[[int, float | None], None], kept: Path | None) -> Mapping[str, Tensor]:
        grid = LocalGrid(client_app, 2, limited=False)
        return averaged(grid, federation, SETTINGS, 3, 1, told, 0.0, 3, kept)[1]

    def stop(done: int, score: float | None) -> None:
        if done == 1:
            raise KeyboardInterrupt

    whole = run(lambda done, score: None, None)
    with pytest.raises(KeyboardInterrupt):
        run(stop, file)
    heard: list[int] = []
    resumed = run(lambda done, score: heard.append(done), file)
    assert heard == [1, 2, 3]
    for name, weights in whole.items():
        assert torch.equal(resumed[name], weights), name
    with pytest.raises(SettingsError, match="checkpoint of other rounds; delete"):
        run_fedavg("x", SETTINGS, 4, 1, lambda done, score: None, checkpoint=file)
    with pytest.raises(SettingsError, match="checkpoint of other epochs, epsilon; delete"):
        run_fedavg("x", SETTINGS, 3, 2, lambda done, score: None, 3.0, checkpoint=file)


def test_private_rounds_learn_less_than_others() -> None:
    """The negative control of the noise: at a tiny epsilon nothing is learned."""
    federation = federation_of(SETTINGS)
    found = {}
    for epsilon in (0.3, 1000.0):
        grid = LocalGrid(client_app, 2, limited=False)
        found[epsilon] = averaged(
            *(grid, federation, SETTINGS, 1, 8), lambda n, score: None, epsilon, 1
        )[0]
    assert found[0.3] < 0.35 < found[1000.0]


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 8)])
def test_public_images_fit(shape: tuple[int, int, int]) -> None:
    images = public_images("digits", None, shape, 20)
    assert images.shape == (20, *shape)
    assert images.dtype == torch.uint8
    assert images.max() > 200


def test_a_table_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    small = ["institutions.count=2", "institutions.epochs=2", "student.steps=40"]
    sets = [part for each in [*small, "questions.budget=256"] for part in ("--set", each)]
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "digits", *sets, "--public", "digits", "--only", "central,once", "--json", str(file)],
    )
    assert command.main() == 0
    stored = json.loads(file.read_text())
    rows = stored["rows"]
    assert [row["name"] for each in rows.values() for row in each] == [
        "central training",
        "FedAvg, one round",
        "FedDF on public images, one round",
    ]
    assert rows["central"][0]["bytes_sent"] == 0
    network = build_network("cnn", 10, (1, 8, 8), 0)
    assert rows["once"][0]["bytes_sent"] == 2 * 2 * bytes_of(network)
    rows["central"][0]["accuracy"] = 0.125
    file.write_text(json.dumps(stored))
    capsys.readouterr()
    assert command.main() == 0
    assert "12.50%" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--set", "seed=7"])
    assert command.main() == 1
    assert "has rows of other settings" in capsys.readouterr().err


class FailingGrid(LocalGrid):
    """One of its institutions has crashed."""

    def send_and_receive(self, messages, **rest):  # type: ignore[no-untyped-def]
        first, *others = messages
        lost = Message(Error(0, "out of memory"), reply_to=first)
        return [lost, *super().send_and_receive(others, **rest)]


def test_an_institution_that_fails_ends_the_averaging() -> None:
    """Flower's own strategy goes on with the others, or with the weights as they were."""
    federation = federation_of(SETTINGS)
    grid = FailingGrid(client_app, 2, limited=False)
    with pytest.raises(QuorumLost, match=r"round 1: 1 of 2 institutions trained.*out of memory"):
        averaged(grid, federation, SETTINGS, 3, 1, lambda n, score: None, 0.0, 1)


def test_batch_norm_is_refused_before_a_private_round() -> None:
    settings = SMALL.model_copy(
        update={"student": SMALL.student.model_copy(update={"model": "cnn"})}
    )
    with pytest.raises(SettingsError, match="cannot be trained by DP-SGD"):
        run_fedavg("x", settings.model_dump_json(), 1, 1, lambda n, score: None, 3.0)


@pytest.mark.parametrize("given", ['labels=[["0","1"],["2","3"]]', "present=[0]", "embedding=8"])
def test_institutions_that_differ_in_more_than_images_are_refused(given: str) -> None:
    experiment = load_experiment("digits", [f"institutions.{given}"])
    with pytest.raises(SettingsError, match=f"institutions.{given.split('=')[0]}: baselines"):
        federation_of(experiment.model_dump_json())

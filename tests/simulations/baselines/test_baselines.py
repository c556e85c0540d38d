"""Baselines: on the partition of the experiment, by Flower's own strategy, with plain formulas."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from torch import Tensor, nn

from fedkd.client.institution import simulated_assets
from fedkd.client.vault.local_data import open_local_data
from fedkd.errors import QuorumLost, SettingsError
from fedkd.experiment import load_experiment, parse_experiment
from fedkd.models import build_network
from fedkd.simulations.baselines import __main__ as command
from fedkd.simulations.baselines.distillation import average, public_images, run_fedkd
from fedkd.simulations.baselines.fedavg import FedAvgSettings, averaged, client_app, run_fedavg
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
        grid, FedAvgSettings(SETTINGS, 3, 2), lambda n, score: heard.append((n, score)), every=2
    )
    assert grid.sent == ["train"] * 6
    assert [n for n, score in heard if score is not None] == [2, 3]
    assert accuracy > untrained + 0.3
    network = federation.network()
    network.load_state_dict(dict(weights))
    assert federation.test_accuracy(network) == accuracy


def test_averaging_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Stopped after a round, it ends with the weights of a run that was never stopped."""
    file, settings = tmp_path / "fedavg.safetensors", FedAvgSettings(SETTINGS, 3, 1)

    def run(told: Callable[[int, float | None], None], kept: Path | None) -> Mapping[str, Tensor]:
        grid = LocalGrid(client_app, 2, limited=False)
        return averaged(grid, settings, told, 3, kept)[1]

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
        run_fedavg("x", replace(settings, rounds=4), lambda n, score: None, checkpoint=file)
    other = replace(settings, epochs=2, epsilon=3.0)
    with pytest.raises(SettingsError, match="checkpoint of other epochs, epsilon; delete"):
        run_fedavg("x", other, lambda n, score: None, checkpoint=file)


def test_private_rounds_learn_less_than_others() -> None:
    """The negative control of the noise: at a tiny epsilon nothing is learned."""
    found = {}
    for epsilon in (0.3, 1000.0):
        grid = LocalGrid(client_app, 2, limited=False)
        settings = FedAvgSettings(SETTINGS, 1, 8, epsilon)
        found[epsilon] = averaged(grid, settings, lambda n, score: None, 1)[0]
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
    grid = FailingGrid(client_app, 2, limited=False)
    with pytest.raises(QuorumLost, match=r"round 1: 1 of 2 institutions trained.*out of memory"):
        averaged(grid, FedAvgSettings(SETTINGS, 3, 1), lambda n, score: None, 1)


def test_batch_norm_is_refused_before_a_private_round() -> None:
    settings = SMALL.model_copy(
        update={"student": SMALL.student.model_copy(update={"model": "cnn"})}
    )
    chosen = FedAvgSettings(settings.model_dump_json(), 1, 1, 3.0)
    with pytest.raises(SettingsError, match="cannot be trained by DP-SGD"):
        run_fedavg("x", chosen, lambda n, score: None)


@pytest.mark.parametrize("given", ['labels=[["0","1"],["2","3"]]', "present=[0]", "embedding=8"])
def test_institutions_that_differ_in_more_than_images_are_refused(given: str) -> None:
    experiment = load_experiment("digits", [f"institutions.{given}"])
    with pytest.raises(SettingsError, match=f"institutions.{given.split('=')[0]}: baselines"):
        federation_of(experiment.model_dump_json())


def test_a_seed_orders_the_batches_of_each_round() -> None:
    """Of the same weights, another seed makes others by the order alone, and the same does not."""
    weights = []
    for seed in (0, 1, 1):
        settings = SMALL.model_copy(update={"seed": seed}).model_dump_json()
        federation = federation_of(settings)
        network = federation_of(SETTINGS).network()  # which depends on the seed, too
        message = Message(
            RecordDict(
                {
                    "arrays": ArrayRecord(network.state_dict()),
                    "config": ConfigRecord(
                        {
                            "settings": json.dumps(asdict(FedAvgSettings(settings, 2, 1))),
                            "rounds-before": 0,
                            "server-round": 1,
                        }
                    ),
                }
            ),
            dst_node_id=100,
            message_type="train",
        )
        assert federation.experiment.seed == seed
        reply = LocalGrid(client_app, 2, limited=False).deliver(message)
        weights.append(reply.content.array_records["arrays"].to_torch_state_dict())
    first, other, again = (torch.cat([w.flatten() for w in each.values()]) for each in weights)
    assert not torch.equal(first, other)
    assert torch.equal(other, again)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rounds", "0"], "1 or more, got '0'"),
        (["--private-rounds", "-1"], "1 or more, got '-1'"),
        (["--epochs", "two"], "1 or more, got 'two'"),
        (["--epsilon", "0"], "above 0, got '0'; without privacy it is --only fedavg"),
        (["--epsilon", "nan"], "above 0, got 'nan'"),
        (["--only", "fedavg,nothing"], "unknown row nothing; choose of central, fedavg"),
        (["--only", "central", "--json", "no-such-folder/rows.json"], "no such folder; make it"),
    ],
)
def test_arguments_out_of_range_are_refused_before_any_work(
    given: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "digits", "--public", "digits", *given])
    with pytest.raises(SystemExit):
        command.main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", [(0, 1, None), (1, 0, None), (1, 1, 0.0), (1, 1, math.inf)])
def test_settings_out_of_range(given: tuple[int, int, float | None]) -> None:
    with pytest.raises(SettingsError, match="got"):
        FedAvgSettings(SETTINGS, *given)


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str
) -> tuple[int, str, str]:
    """Exit status, and what it wrote."""
    monkeypatch.setattr(sys, "argv", ["x", *given])
    status = command.main()
    return status, *capsys.readouterr()


def test_half_a_file_of_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"of": {"exp')
    status, _, error = run_command(
        *(monkeypatch, capsys, "digits", "--only", "central", "--json", str(file))
    )
    assert status == 1
    assert "is no JSON" in error
    assert "delete it or give another --json" in error
    assert file.read_text() == '{"of": {"exp'


def test_rows_of_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of classes, by a network for tables; numbers and several tasks are no task of a baseline."""
    status, out, _ = run_command(monkeypatch, capsys, "breast-cancer", "--only", "central")
    assert status == 0
    assert float(out.split("central training")[1].split("%")[0]) > 85
    for name, sets, labels in [
        ("friedman", [], "numbers"),
        ("digits", ["institutions.data=digits-attributes"], "several tasks"),
    ]:
        given = [name, *(part for each in sets for part in ("--set", each)), "--only", "central"]
        status, _, error = run_command(monkeypatch, capsys, *given)
        assert status == 1
        assert f"are {labels}: baselines train" in error
    given = ["breast-cancer", "--only", "once", "--public", "digits"]
    status, _, error = run_command(monkeypatch, capsys, *given)
    assert status == 1
    assert "is a table" in error


def test_the_row_of_fedkd_says_what_was_released_and_promised(tmp_path: Path) -> None:
    """Epsilon is the largest of all guarantees, and none where one institution has none."""
    sets = ["institutions.count=2", "institutions.epochs=2", "questions.budget=96"]
    sets += ["questions.batch=32", "student.steps=20", "student.model=mlp"]
    plain = run_fedkd(
        federation_of(load_experiment("digits", sets).model_dump_json()),
        *(tmp_path / "plain", lambda done: None),
    )
    assert (plain.sees, plain.epsilon) == ("of synthetic samples: class scores", None)
    assert plain.bytes_sent > 0
    private = run_fedkd(
        federation_of(load_experiment("digits-dp", sets).model_dump_json()),
        *(tmp_path / "private", lambda done: None),
    )
    assert private.epsilon == pytest.approx(8, rel=0.05)
    pulled = run_fedkd(
        federation_of(load_experiment("digits-dense", sets).model_dump_json()),
        *(tmp_path / "pulled", lambda done: None),
    )
    assert "gradients of samples" in pulled.sees
    assert "gaps to batch-norm statistics" in pulled.sees

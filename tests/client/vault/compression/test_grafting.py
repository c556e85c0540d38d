"""Adapters fold away exactly, a grafted network keeps what the teacher knows, and is charged."""

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fedkd.client.cli import app
from fedkd.client.config.owner_config import OwnerConfig, load_owner_config
from fedkd.client.institution import Institution, owner_institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.compression.few_shot_grafting import _augmented, few_images
from fedkd.client.vault.compression.grafting import PartlyNarrow, stages
from fedkd.client.vault.compression.network_blocks import (
    copy_kept_channels,
    folded,
    graft_blocks,
    kept_channels,
    output_products,
    reconstructing_channels,
    split_into_blocks,
)
from fedkd.client.vault.compression.settings import ShrinkSettings
from fedkd.client.vault.shrunk_vault import ShrunkVault
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.vault_settings import Assets
from fedkd.core.augmentation import Augmentation
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.models import WIDTHS, ModuleTeacher, Network, build_network, narrow_network
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Ask, Reply, Signal, as_float

SHAPE = (1, 8, 8)
DIGITS = open_data("digits")
PRIVATE = DpSgdSettings(2.0, 1e-4, epochs=2, sampling_rate=0.2, accountant="rdp")


def randomised(network: nn.Module) -> nn.Module:
    """Weights and statistics that a training might have left, so that no layer is the identity."""
    rng = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "norm.bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / 4)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["cnn", "cnn-groupnorm", "resnet9-narrow", "resnet18"])
def test_adapters_fold_exactly(name: str) -> None:
    wide, narrow = build_network(name, 10, SHAPE, 0), narrow_network(name, 10, SHAPE, 0.25, 1)
    assert isinstance(wide, Network)
    randomised(wide), randomised(narrow)
    blocks = graft_blocks(wide, narrow, SHAPE, kept_channels(wide, narrow, 2))
    for adapter in (block.after for block in blocks):
        nn.init.normal_(adapter.weight, std=0.3)
    *_, whole = stages(wide, blocks)
    x = torch.rand(6, *SHAPE)
    with torch.no_grad():
        expected = whole.network.logits(x)
        answers = folded(narrow, blocks, wide.head).eval()(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-4)


def test_channels_and_adapters_reconstruct_the_teachers_outputs() -> None:
    wide, narrow = build_network("cnn", 10, SHAPE, 0), narrow_network("cnn", 10, SHAPE, 0.5, 1)
    assert isinstance(wide, Network)
    randomised(wide)
    first = split_into_blocks(wide)[0]
    convolution = first[1]
    assert isinstance(convolution, nn.Conv2d)
    with torch.no_grad():  # eight channels, each twice: half of them say all
        convolution.weight[1::2] = convolution.weight[::2]
        for tensor in first[2].state_dict().values():
            if tensor.dim():
                tensor[1::2] = tensor[::2]
    x = torch.rand(32, *SHAPE)
    products = output_products(wide, [x[:16], x[16:]])
    kept = reconstructing_channels(wide, narrow, 0, products)
    assert sorted((kept[16] // 2).tolist()) == list(range(8)), "one of each pair"
    blocks = graft_blocks(wide, narrow, SHAPE, kept, products)
    with torch.no_grad():
        h = first(x)
        torch.testing.assert_close(blocks[0].after(h[:, kept[16]]), h, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", WIDTHS)
def test_every_network_with_a_narrower_form_has_blocks(name: str) -> None:
    wide, narrow = build_network(name, 3, SHAPE, 0), narrow_network(name, 3, SHAPE, 0.5, 0)
    assert isinstance(wide, Network)
    kept = kept_channels(wide, narrow, 0)
    copy_kept_channels(wide, narrow, kept)
    assert len(graft_blocks(wide.eval(), narrow.eval(), SHAPE, kept)) >= 3
    assert sum(p.numel() for p in narrow.parameters()) < 0.3 * sum(
        p.numel() for p in wide.parameters()
    )


def test_the_loss_compares_logits_and_grafted_outputs_by_direction_and_length() -> None:
    wide, narrow = build_network("cnn", 10, SHAPE, 0), narrow_network("cnn", 10, SHAPE, 0.5, 1)
    assert isinstance(wide, Network)
    wide.eval(), narrow.eval()
    blocks = graft_blocks(wide, narrow, SHAPE, kept_channels(wide, narrow, 0))
    x = torch.rand(4, *SHAPE)
    network = PartlyNarrow(wide, [(1, blocks[1])])
    with torch.no_grad():
        loss = (network(x) - network.targets(x)).square().sum(1)
        normalisation, body = wide.body  # three blocks of four layers, as the architecture says
        assert isinstance(body, nn.Sequential)
        h = body[:4](normalisation(x))
        reached, adapted = body[4:8](h), blocks[1](h)
        output = wide.head(body[8:](adapted))
        directions = [nn.functional.normalize(z, dim=1) for z in (wide(x), output)]
        expected = (directions[0] - directions[1]).square().sum(1)
        expected += (reached - adapted).square().sum((1, 2, 3)) / reached.square().sum((1, 2, 3))
    torch.testing.assert_close(loss, expected)


def test_a_few_images_of_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2, 1])
    places = few_images(labels, 2, 0)
    assert labels[places].tolist() == [0, 0, 1, 2, 2]
    assert len(set(places.tolist())) == 5


def test_grafting_keeps_more_than_plain_distillation() -> None:
    short = SupervisedSettings(epochs=5)
    vault = ShrunkVault(Assets(training=short), ShrinkSettings(images=2, steps=40, last_steps=100))
    original = vault.original.teacher
    assert isinstance(original, ModuleTeacher)
    scores = {}
    for name, network in (
        ("teacher", original.module),
        ("shrunk", vault.teacher.module),  # type: ignore[attr-defined]
        ("plain", vault.distilled(mixed=False)),
    ):
        right, examples = vault.score(network)
        scores[name] = right / examples
    assert scores["shrunk"] >= 0.8
    assert scores["shrunk"] >= scores["plain"] + 0.05


# --- an owner's file


def owner(folder: Path, teacher: str = "", policy: str = "") -> Path:
    (folder / "owner.toml").write_text(
        f"""
        name = "north"
        [teacher]
        epochs = 1
        {teacher}
        [data]
        source = "digits"
        count = 4
        [policy]
        signals = ["logits"]
        samples = 100
        {policy}
        """
    )
    return folder / "owner.toml"


def charged(config: OwnerConfig, kind: str) -> list[str]:
    with closing(Ledger.anchored(config.state.ledger)) as ledger:
        return [row.decision for row in ledger.entries() if row.kind == kind]


def test_the_narrower_one_answers_under_the_same_ledger(tmp_path: Path) -> None:
    run, ask = CliRunner(), Ask(DIGITS.test_images[:5])
    before = load_owner_config(owner(tmp_path))
    wide = owner_institution(before)
    first = wide.answer(ask)
    assert isinstance(first, Reply)

    path = owner(tmp_path, "[teacher.shrunk]\nsteps = 10\nlast_steps = 10")
    made = run.invoke(app, ["shrink", str(path), "--compare", "--json"])
    assert made.exit_code == 0, made.output
    report = json.loads(made.output)
    assert report["shrunk"]["weights"] < 0.3 * report["teacher"]["weights"]
    assert report["shrunk"]["examples"] == report["distilled_mixed"]["examples"] == 90
    weights = tmp_path / "state" / "teacher" / "shrunk" / "teacher.safetensors"
    written = weights.stat().st_mtime_ns
    shown = run.invoke(app, ["card", str(path), "--json"])
    assert json.loads(shown.output)["classes"] == 10
    assert weights.stat().st_mtime_ns == written, "it is cached"

    small = owner_institution(load_owner_config(path))
    assert small.teacher_fingerprint != wide.teacher_fingerprint
    again = small.answer(ask)
    assert isinstance(again, Reply)
    assert not torch.equal(first.signals[Signal.LOGITS], again.signals[Signal.LOGITS])
    assert small.totals["asked"] == 10, "another teacher's answer is no repeat"
    assert isinstance(small.answer(ask), Reply)
    assert small.totals["asked"] == 10


@pytest.mark.parametrize(
    ("teacher", "policy", "text"),
    [
        ('model = "lenet5"\n[teacher.shrunk]', "", "has no narrower form; those that have one"),
        ('model = "sklearn:SVC"\n[teacher.shrunk]', "", "has no narrower form"),
        ("", "", r"has no \[teacher.shrunk\]"),
        ("[teacher.shrunk]\nwidth = 1.5", "", "teacher.shrunk.width"),
        (
            "voters = 3\n[teacher.shrunk]",
            'mode = "pate"\n[policy.budget]\nepsilon = 9.0',
            "3 voters cannot be shrunk",
        ),
        (
            "[teacher.private]\nepsilon = 1.0\n[teacher.shrunk]",
            'mode = "dp-teacher"',
            "so both are private or neither",
        ),
    ],
)
def test_what_cannot_be_shrunk_is_refused_first(
    tmp_path: Path, teacher: str, policy: str, text: str
) -> None:
    run = CliRunner().invoke(app, ["shrink", str(owner(tmp_path, teacher, policy))])
    assert isinstance(run.exception, SettingsError)
    assert re.search(text, str(run.exception)), str(run.exception)
    assert not (tmp_path / "state" / "teacher").exists()


# --- with differential privacy


@pytest.fixture
def private_vault() -> ShrunkVault:
    assets = Assets(count=8, model="cnn-groupnorm", dp_training=PRIVATE)
    return ShrunkVault(assets, ShrinkSettings(dp_training=replace(PRIVATE, epsilon=3.0)))


def test_both_private_trainings_are_charged_and_promised_together(
    private_vault: ShrunkVault,
) -> None:
    policy = Policy(mode="dp-teacher", budget=Budget(5.0, 2e-4))
    with closing(Ledger(None)) as ledger:
        card = Institution("north", private_vault, policy, ledger).card
        rows = [row for row in ledger.entries() if row.kind == "training"]
    assert [(row.decision, row.epsilon) for row in rows] == [("answered", 2.0), ("answered", 3.0)]
    assert card.guarantee is not None
    own = private_vault.guarantee
    assert own is not None
    assert own.steps == PRIVATE.steps
    assert 2.5 < own.epsilon <= 3.0
    assert card.guarantee.epsilon == pytest.approx(own.epsilon + 2.0)


def test_a_budget_for_one_of_them_charges_neither(private_vault: ShrunkVault) -> None:
    policy = Policy(mode="dp-teacher", budget=Budget(4.0, 2e-4))
    with closing(Ledger(None)) as ledger:
        with pytest.raises(SettingsError, match=r"epsilon 2 at delta 0\.0001 and epsilon 3"):
            Institution("north", private_vault, policy, ledger)
        assert [row.decision for row in ledger.entries()] == ["refused", "refused"]


def test_a_network_with_batch_norm_is_not_shrunk_privately() -> None:
    vault = ShrunkVault(Assets(dp_training=PRIVATE), ShrinkSettings(dp_training=PRIVATE))
    with pytest.raises(SettingsError, match="batch norm"):
        vault.check_model()


def test_mixtures_are_sums_and_blobs_of_other_images() -> None:
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(16)
    images = black_and_white.view(-1, 1, 1, 1).expand(-1, *SHAPE)
    settings = ShrinkSettings(augmentation=Augmentation())
    mixed = next(_augmented(images, settings, torch.Generator().manual_seed(0), mixed=True))
    shifted = next(_augmented(images, settings, torch.Generator().manual_seed(0), mixed=False))
    spread = mixed.flatten(1).std(1)
    assert int((spread[:16] > 0.05).sum()) >= 8  # blobs of another image lie in it
    assert not spread[16:].any()  # those are sums alone
    assert bool(((mixed[16:] > 0.01) & (mixed[16:] < 0.99)).any())
    assert set(shifted.unique().tolist()) == {0.0, 1.0}


def test_the_last_steps_bring_the_narrow_network_nearer_to_the_teacher() -> None:
    short, apart = SupervisedSettings(epochs=5), list[float]()
    for last_steps in (0, 200):
        settings = ShrinkSettings(steps=5, last_steps=last_steps)
        vault = ShrunkVault(Assets(training=short), settings)
        original, shrunk = vault.original.teacher, vault.teacher
        assert isinstance(original, ModuleTeacher)
        assert isinstance(shrunk, ModuleTeacher)
        x = as_float(vault._data.images)
        with torch.no_grad():
            wide, narrow = original.module(x).softmax(1), shrunk.module(x).softmax(1)
        apart.append(float((wide - narrow).abs().sum(1).mean()))
    assert apart[1] < 0.7 * apart[0]

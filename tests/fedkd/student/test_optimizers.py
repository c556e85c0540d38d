"""Optimisers of the student: AdamW, and Muon for hidden layers."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.device import CPU
from fedkd.core.run_plan import OptimizerName, Plan
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, drive
from fedkd.losses import l1_centred
from fedkd.methods import cudfkd
from fedkd.models import InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.student.optimizers import Muon, as_matrix, layer_weights, optimizer_of
from fedkd.student.training import Trainer
from tests.support.contexts import context_of

RATE, MOMENTUM, EPS = 0.01, 0.95, 1e-7


def network(seed: int = 0) -> nn.Module:
    """Three convolutions, the second of which is the only hidden layer, and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 4),
        )


def hidden(of: nn.Module) -> Tensor:
    weight = of[2].weight  # type: ignore[index]
    assert isinstance(weight, Tensor)
    return weight


def learn(of: nn.Module, optimizer: Muon | torch.optim.Optimizer, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.rand(16, 3, 8, 8, generator=rng), torch.randint(0, 4, (16,), generator=rng)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    optimizer.zero_grad()
    torch.autograd.backward(nn.functional.cross_entropy(of(x), y))
    optimizer.step()


def newton_schulz(matrix: Tensor) -> Tensor:
    """Five steps of X <- a X + (b X X' + c (X X')^2) X from X / ||X||, Jordan et al.'s numbers."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.double()
    x = x / (x.norm() + EPS)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_hidden_layer_takes_the_papers_steps(layout: torch.memory_format) -> None:
    of = network().to(memory_format=layout)  # type: ignore[call-overload]
    optimizer, momentum = Muon(of, 0.1, fused=None), torch.zeros(12, 72)
    for seed in range(3):
        before = hidden(of).detach().flatten(1).clone()
        learn(of, optimizer, seed)
        gradient = hidden(of).grad
        assert gradient is not None
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.flatten(1)
        nesterov = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.flatten(1)
        size = 0.2 * math.sqrt(72)  # of AdamW's steps, Liu et al.
        wanted = (1 - 0.1 * RATE) * before - RATE * size * newton_schulz(nesterov).float()
        step = hidden(of).detach().flatten(1) - before
        assert (step - (wanted - before)).norm() < 0.03 * step.norm()  # torch's is in bfloat16
        spread = torch.linalg.svdvals(step + 0.1 * RATE * before) / (RATE * size)
        assert 0.5 < float(spread.min()) < float(spread.max()) < 1.3


def test_all_other_weights_take_the_steps_of_adamw() -> None:
    of, other = network(), network()
    learn(of, Muon(of, 0.1, fused=True), 0)
    learn(other, torch.optim.AdamW(other.parameters(), weight_decay=0.1, fused=True), 0)
    for name, weight in of.named_parameters():
        same = torch.equal(weight, other.get_parameter(name))
        assert same == (name != "2.weight"), name


class Tokens(nn.Module):
    """As transformers have them: a token and positions come first, and scales between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.middle, self.scale = nn.Linear(8, 8), nn.Parameter(torch.ones(8, 1, 1))
        self.embedding, self.head = nn.Embedding(4, 8), nn.Linear(8, 4)


def test_tokens_scales_and_embeddings_are_no_layers() -> None:
    of = Tokens()
    assert [id(w) for w in layer_weights(of)] == [
        id(layer.weight) for layer in (of.patches, of.middle, of.head)
    ]
    shared = nn.Sequential(of.patches, of.middle, of.middle, of.head)
    assert [id(w) for w in layer_weights(shared)] == [id(w) for w in layer_weights(of)]
    optimizer = Muon(of, 0.1, fused=None)
    (matrices, others) = (group["params"] for group in optimizer.param_groups)
    assert isinstance(matrices, list)
    assert isinstance(others, list)
    assert [matrix.data_ptr() for matrix in matrices] == [of.middle.weight.data_ptr()]
    assert len(others) == len(list(of.parameters())) - 1


@pytest.mark.parametrize("name", ["resnet9-narrow", "cnn", "lenet5", "mlp", "wrn16-1", "resnet18"])
def test_layers_of_our_networks_are_all_their_matrices(name: str) -> None:
    of = build_network(name, 4, (3, 32, 32), 0)
    wide = [weight for weight in of.parameters() if weight.ndim > 1]
    assert [id(weight) for weight in layer_weights(of)] == [id(weight) for weight in wide]


def test_a_matrix_shares_the_memory_of_its_layer() -> None:
    for shape in ((6, 4), (6, 4, 3), (6, 4, 3, 3), (6, 4, 1, 1), (6, 1, 3, 3), (6, 4, 2, 2, 2)):
        weight = torch.rand(shape)
        assert as_matrix(weight).data_ptr() == weight.data_ptr()
        if len(shape) == 4:
            placed = weight.to(memory_format=torch.channels_last)
            assert as_matrix(placed).data_ptr() == placed.data_ptr()
            gradient = torch.rand(shape)  # may lie in another order
            first = as_matrix(gradient, like=placed)[:, :2]
            assert torch.equal(
                first, as_matrix(gradient.to(memory_format=torch.channels_last))[:, :2]
            )


def test_a_frozen_layer_stays() -> None:
    of = build_network("lenet5", 4, (3, 32, 32), 0)
    frozen = next(w for w in of.parameters() if w.ndim > 1)
    before, others = frozen.detach().clone(), copy.deepcopy(of.state_dict())
    frozen.requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    optimizer = Muon(of, 0.1, fused=None)
    torch.autograd.backward(of(torch.rand(8, 3, 32, 32, generator=rng)).square().mean())
    optimizer.step()
    assert torch.equal(frozen, before)
    moved = [n for n, w in of.named_parameters() if not torch.equal(w, others[n])]
    assert len(moved) == len(list(of.parameters())) - 1


def test_a_network_without_hidden_layers_is_refused_and_what_to_do_is_said() -> None:
    plan = Plan(10, optimizer="muon")
    with pytest.raises(SettingsError, match='has none; choose "adamw"'):
        optimizer_of(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), plan, CPU)


@pytest.mark.parametrize("name", ["resnet9-narrow", "cnn", "lenet5", "mlp"])
def test_networks_of_ours_learn_by_it(name: str) -> None:
    plan = Plan(64, 32, 60, student_batch=32, optimizer="muon", learning_rate=3e-3)
    bank, rng = Bank(), torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (32, 1, 28, 28), generator=rng, dtype=torch.uint8)
    for label in range(4):  # a bright stripe for each class
        images[label::4, :, 7 * label : 7 * label + 7] += 180
    bank.add(images, 3 * nn.functional.one_hot(torch.arange(32) % 4, 4).float())
    context = context_of(
        build_network(name, 4, (1, 28, 28), 0),
        (1, 28, 28),
        4,
        plan=plan,
        bank=bank,
        loss=l1_centred,
    )
    trainer = Trainer(context.student, context.loss, context.sample_weights, plan)
    losses = [float(trainer.step(bank, rng, step, step / 60)[0].mean()) for step in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


TEACHERS = InProcess({"one": build_network("cnn", 4, (1, 8, 8), 1)}, (1, 8, 8), 4)


def run_of(optimizer: OptimizerName) -> Distillation:
    plan = Plan(48, 8, 24, student_batch=8, optimizer=optimizer)
    priors = build_priors("pink")
    return Distillation(
        build_network("cnn", 4, (1, 8, 8), 2), cudfkd(), TEACHERS.cards, plan, priors, seed=3
    )


def answer(run: Distillation) -> Tensor:
    """Logits of the run's student at its end."""
    student = drive(run.requests(), TEACHERS.answer).student
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        logits: Tensor = student(x)
    return logits


def test_a_run_goes_on_bit_for_bit_and_is_another_than_by_adamw() -> None:
    whole, first, rest = run_of("muon"), run_of("muon"), run_of("muon")
    states = []
    first.rest = lambda: states.append(first.state())
    wanted = answer(whole)
    assert torch.equal(answer(first), wanted)
    rest.restore(states[len(states) // 2])
    assert rest.student_steps > 0
    assert torch.equal(answer(rest), wanted)
    assert not torch.allclose(answer(run_of("adamw")), wanted)

"""What the release gate lets out about labelled samples, as statistics for membership inference.

The answers go to the owner alone. They pass a gate of their own with the same release mode and a
ledger in memory: nothing is charged, and noise that is drawn for an audit is stored nowhere, so
that no coordinator ever gets it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.client.ledger.ledger import Ledger
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.release_mode import ReleaseMode
from fedkd.client.vault.vault import LabelledSamples
from fedkd.errors import SettingsError
from fedkd.privacy import MODES, Budget, Policy
from fedkd.privacy.membership_inference import Floats, margin
from fedkd.privacy.supervised_membership import (
    LOGITS,
    feature_statistics,
    gradient_statistics,
    logit_statistics,
    number_statistics,
    relation_statistics,
)
from fedkd.protocol import SCALARS, Ask, Card, PullBack, Refusal, Reply, Signal

CHUNK = 256
"""Samples in one question; a batch-norm distance is asked of one sample at a time."""
AMPLE_BUDGET = Budget(1e5)
"""Of the ledger in memory: how well members are found is to be told of every sample."""
GRADIENT = "pull-back"
"""Name of the gradient of the loss, which an attacker pulls back."""


@dataclass(frozen=True)
class AttackedOutputs:
    """What an attacker reads of samples that it knows."""

    statistics: Mapping[str, Floats]
    """(N, F) by name, the logits first."""
    threshold: Floats | None
    """(N,) margins of the label, or negative errors; None where no logits are released."""


def audit_gate(policy: Policy, release: ReleaseMode, card: Card) -> ReleaseGate:
    """A gate that answers as the owner's would, as often as asked, and charges nobody.

    Args:
        policy: the owner's. What shapes an answer or forbids one stays; caps, hours and servers
            are lifted.
        release: of the owner's policy and teacher.
        card: of the institution.
    """
    lifted = replace(
        policy,
        samples=10**9,
        samples_per_hour=None,
        hours=None,
        servers=None,
        largest_batch=CHUNK,
        budget=AMPLE_BUDGET if MODES[policy.mode].charged else policy.budget,
    )
    return ReleaseGate(lifted, release, card, Ledger(None))


def attacked_outputs(
    gate: ReleaseGate, release: ReleaseMode, drawn: LabelledSamples
) -> AttackedOutputs:
    """Ask for everything that the policy releases about these samples.

    Raises:
        SettingsError: the gate refuses, since samples lie outside what the policy takes, or the
            teacher cannot answer.
    """
    samples, labels = drawn.samples, drawn.labels
    logits = None
    statistics: dict[str, Floats] = {}
    threshold = None
    if Signal.LOGITS in release.signals:
        logits = _asked(gate, samples, Signal.LOGITS, CHUNK)
        statistics[LOGITS], threshold = output_statistics(logits, labels)
    if Signal.FEATURES in release.signals:
        groups = labels if labels.dim() == 1 else torch.zeros(len(labels), dtype=torch.int64)
        features = _asked(gate, samples, Signal.FEATURES, CHUNK)
        statistics[str(Signal.FEATURES)] = feature_statistics(features.numpy(), groups.numpy())
    for signal in sorted(SCALARS & release.signals):
        numbers = _asked(gate, samples, signal, 1)
        statistics[str(signal)] = numbers.double().numpy()[:, None]
    if Signal.RELATIONS in release.signals:
        statistics[str(Signal.RELATIONS)] = _relation_statistics(gate, samples, labels)
    if release.pull_back and logits is not None:
        gradients = _loss_gradients(gate, samples, logits, labels)
        statistics[GRADIENT] = gradient_statistics(gradients.numpy())
    return AttackedOutputs(statistics, threshold)


def output_statistics(logits: Tensor, labels: Tensor) -> tuple[Floats, Floats]:
    """Statistics (N, F) of logits or numbers (N, K), and scores (N,) for a threshold."""
    if labels.dim() == 2:
        errors = number_statistics(logits.double().numpy(), labels.double().numpy())
        return errors, -errors[:, : labels.shape[1]].sum(1)
    values, truth = logits.double().numpy(), labels.numpy()
    return logit_statistics(values, truth), margin(values, truth)


def _relation_statistics(gate: ReleaseGate, samples: Tensor, labels: Tensor) -> Floats:
    """Statistics (N, 3) of relations; members and others are mixed in each batch of `CHUNK`."""
    groups = labels if labels.dim() == 1 else torch.zeros(len(labels), dtype=torch.int64)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    found = torch.zeros(len(samples), 3, dtype=torch.float64)
    for own in torch.split(order, CHUNK):
        relations = _asked(gate, samples[own], Signal.RELATIONS, len(own))
        found[own] = torch.from_numpy(relation_statistics(relations.numpy(), groups[own].numpy()))
    return found.numpy()


def _asked(gate: ReleaseGate, samples: Tensor, signal: Signal, size: int) -> Tensor:
    """A signal of all samples, (N, ...) float32, as exactly as a coordinator may ask for it."""
    found = []
    for piece in torch.split(samples, size):
        reply = _released(gate.answer(Ask(piece, frozenset({signal}), exact=True)))
        value = reply.signals[signal].float()
        found.append(value[None] if value.dim() == 0 else value)
    return torch.cat(found)


def _loss_gradients(gate: ReleaseGate, samples: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Gradients of each sample's loss with respect to the sample, (N, C, H, W)."""
    if labels.dim() == 2:
        cotangents = 2 * (logits - labels.float())
    else:
        cotangents = logits.softmax(1) - F.one_hot(labels, logits.shape[1]).float()
    found = []
    for piece, own in zip(torch.split(samples, CHUNK), torch.split(cotangents, CHUNK), strict=True):
        gradient = _released(gate.answer(PullBack(piece, {Signal.LOGITS: own}))).gradient
        if gradient is None:
            raise SettingsError("the release gate gave no gradient; turn policy.pull_back off")
        found.append(gradient)
    return torch.cat(found)


def _released(answer: Reply | Refusal) -> Reply:
    if isinstance(answer, Refusal):
        raise SettingsError(
            f"the release gate refuses to answer about the owner's own samples: {answer.text}; "
            "audit with samples that the policy takes"
        )
    return answer

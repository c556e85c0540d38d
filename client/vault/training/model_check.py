"""Check before any training whether a model of that name can be trained on such data."""

from collections.abc import Sequence

from fedkd.client.vault.training.supervised import SKLEARN_PREFIX, check_classifier_name
from fedkd.client.vault.training.supervised_tables import (
    build_teacher_network,
    check_estimator_name,
)
from fedkd.errors import SettingsError
from fedkd.models import Shape, check_network
from fedkd.protocol import Column, Number


def check_trainable(
    model: str,
    outputs: int,
    shape: Shape,
    columns: Sequence[Column],
    numbers: Sequence[Number],
    *,
    private: bool,
    augmented: bool = False,
) -> None:
    """Build a model with fresh weights, and try a network on probe samples.

    Args:
        model: ``sklearn:NAME``, or a network as `fedkd.models.build_network` takes it.
        outputs: K.
        shape: (C, H, W).
        columns: (D,) of rows; none: it reads images.
        numbers: that it predicts; none: classes.
        private: whether it is trained by DP-SGD.
        augmented: whether samples are shifted or mirrored.

    Raises:
        SettingsError: rows that would be augmented, no such model, or it cannot be trained so; a
            network cannot read the samples, answers another number of outputs, or ends in a
            softmax.
    """
    if columns and augmented:
        raise SettingsError(
            "rows of a table cannot be shifted or mirrored, which would exchange their columns; "
            "leave institutions.shift and institutions.mirrors out"
        )
    if private:
        # Opacus is slow to import, and most teachers are trained without it.
        from fedkd.client.vault.training.dp_sgd import build_trainable

        network = build_trainable(model, outputs, shape, columns, seed=0)
    elif model.startswith(SKLEARN_PREFIX):
        name = model.removeprefix(SKLEARN_PREFIX)
        if columns:
            check_estimator_name(name, numbers=bool(numbers))
        else:
            check_classifier_name(name)
        return
    else:
        network = build_teacher_network(model, outputs, shape, columns, seed=0)
    check_network(f"model {model!r}", network, outputs, shape, logits=not numbers)


def check_several_tasks(model: str, *, noisy: bool, rows: bool) -> None:
    """Check that a model can be trained on several tasks at once.

    Args:
        model: as `check_trainable` takes it.
        noisy: whether it is trained with differential privacy, or votes.
        rows: whether it reads rows of a table.

    Raises:
        SettingsError: it cannot.
    """
    if noisy or rows or model.startswith(SKLEARN_PREFIX):
        what = "a training with differential privacy" if noisy else f"{model} here"
        raise SettingsError(
            f"{what} takes one task, and these data have several; give the institution one of them"
        )

"""Teacher format ``factory:package.module:function``: the owner's own function makes the teacher.

The function is called with ``options`` and returns an nn.Module, (B, C, H, W) -> (B, K), whose
weights are then read from a safetensors file, or a fitted scikit-learn classifier without one.
Where rows of a table are read, the module takes (B, D), and the estimator may be a regressor.
"""

import importlib
from typing import Any

from torch import nn

from fedkd.client.vault.teachers.adapters.row_networks import row_network_teacher
from fedkd.client.vault.teachers.adapters.sklearn_estimator import estimator_teacher, is_classifier
from fedkd.client.vault.teachers.adapters.table_estimator import table_estimator_teacher
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.adapters.torch_module_teacher import (
    load_weights,
    module_teacher,
    preserving_rng_state,
)
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import Teacher


def open_factory(spec: TeacherSpec, name: str) -> Teacher:
    """See the module.

    Raises:
        SettingsError: there is no such function.
        DataError: it fails, makes something else, or its weights do not fit.
    """
    result = _call_factory(spec, name)
    if isinstance(result, nn.Module):
        return _network_teacher(result, spec)
    if not is_classifier(result):
        raise DataError(
            f"{spec.source} returned {type(result).__name__}; expected an nn.Module, or a fitted "
            f"scikit-learn classifier with predict_proba"
        )
    if spec.weights is not None:
        raise SettingsError(f"{spec.source} makes a fitted estimator; take weights away")
    return estimator_teacher(result, spec)


def open_factory_table(spec: TeacherSpec, name: str, layout: TableLayout) -> Teacher:
    """A module, (B, D) in their own units -> (B, K), or a fitted estimator that reads rows.

    Raises:
        SettingsError: see `open_factory`.
        DataError: likewise, or it does not fit the schema.
    """
    result = _call_factory(spec, name)
    if isinstance(result, nn.Module):
        return row_network_teacher(_network_teacher(result, spec), layout)
    if spec.weights is not None:
        raise SettingsError(f"{spec.source} makes a fitted estimator; take weights away")
    return table_estimator_teacher(result, layout, spec.source)


def _network_teacher(network: nn.Module, spec: TeacherSpec) -> Teacher:
    if spec.weights is None:
        raise SettingsError(f"{spec.source} makes a network; give its weights, a .safetensors")
    load_weights(network, spec.path(spec.weights))
    return module_teacher(network, spec)


def _call_factory(spec: TeacherSpec, name: str) -> Any:
    module, colon, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{spec.source}: {error}; install the package, or put its folder on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise SettingsError(f"{spec.source}: expected factory:package.module:function")
    try:
        return preserving_rng_state(lambda: factory(**spec.options))
    except Exception as error:  # the owner's own code may raise anything
        raise DataError(
            f"{spec.source} raised {type(error).__name__}: {_first_line(error)}; correct it"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")

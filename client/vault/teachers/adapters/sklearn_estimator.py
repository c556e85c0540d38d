"""Fitted scikit-learn classifiers as teachers: check the estimator and map its classes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.teachers.adapters.logits_only_teacher import LogitsTeacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError


def is_classifier(thing: object) -> bool:
    """Whether an object is a fitted classifier that gives probabilities."""
    return callable(getattr(thing, "predict_proba", None)) and hasattr(thing, "classes_")


def estimator_teacher(estimator: Any, spec: TeacherSpec) -> LogitsTeacher:
    """A classifier that was fitted on (N, C H W) floats, whose own classes are among the spec's.

    Its classes are numbers 0..K-1, or names among ``class_names``. A class that it never saw has
    the least probability.

    Raises:
        DataError: it is no fitted classifier with probabilities, or knows other classes.
    """
    if not is_classifier(estimator):
        raise DataError(
            f"{spec.source} is no fitted classifier with predict_proba; fit it, or calibrate it "
            f"with sklearn.calibration.CalibratedClassifierCV"
        )
    places = class_places(estimator.classes_, spec.class_names or (), spec.classes, spec.source)

    def score_batch(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        probabilities = np.zeros((len(pixels), spec.classes))
        probabilities[:, places] = estimator.predict_proba(pixels.reshape(len(pixels), -1))
        return probabilities

    return LogitsTeacher(score_batch, replace(spec, outputs="probabilities"))


def class_places(known: Any, names: Sequence[str], classes: int, source: str) -> list[int]:
    """Where each of an estimator's classes stands among the owner's.

    Args:
        known: numbers below ``classes``, or names among ``names``.
        names: (K,), or none.
        classes: K.
        source: for errors.

    Raises:
        DataError: it knows other classes.
    """
    own = np.asarray(known).tolist()
    place_of = {name: place for place, name in enumerate(names)}
    named = all(str(one) in place_of for one in own)
    places = [place_of[str(one)] if named else one if isinstance(one, int) else -1 for one in own]
    if not all(0 <= place < classes for place in places):
        raise DataError(
            f"{source} knows {len(own)} classes ({own[0]!r} the first) that are not among "
            f"the {classes} of the spec; number them from 0, or give their class_names"
        )
    return places

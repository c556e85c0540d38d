"""Fitted scikit-learn classifiers as teachers: check the estimator and map its classes."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.teachers.logits_only_teacher import LogitsTeacher
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
    columns = _columns(estimator.classes_, spec)

    def score_batch(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        probabilities = np.zeros((len(pixels), spec.classes))
        probabilities[:, columns] = estimator.predict_proba(pixels.reshape(len(pixels), -1))
        return probabilities

    return LogitsTeacher(score_batch, replace(spec, outputs="probabilities"))


def _columns(known: Any, spec: TeacherSpec) -> list[int]:
    """Where each of the estimator's classes stands among the spec's."""
    own = np.asarray(known).tolist()
    names = {name: place for place, name in enumerate(spec.class_names or ())}
    places = [names.get(c, -1) if isinstance(c, str) else c for c in own]
    if not all(isinstance(p, int) and 0 <= p < spec.classes for p in places):
        raise DataError(
            f"{spec.source} knows {len(own)} classes ({own[0]!r} the first) that are not among "
            f"the {spec.classes} of the spec; number them from 0, or give their class_names"
        )
    return places

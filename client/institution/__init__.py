"""An institution, and how it is built: of an experiment, an owner's file, or a teacher in Python.

Also the check of student weights that are submitted for evaluation, in `submitted_student`.
"""

from fedkd.client.institution.from_config import evaluate_student, owner_institution
from fedkd.client.institution.from_experiment import (
    institution_name,
    simulated_assets,
    simulated_institution,
    simulated_policy,
)
from fedkd.client.institution.from_object import brought_institution
from fedkd.client.institution.institution import Institution

__all__ = [
    "Institution",
    "brought_institution",
    "evaluate_student",
    "institution_name",
    "owner_institution",
    "simulated_assets",
    "simulated_institution",
    "simulated_policy",
]

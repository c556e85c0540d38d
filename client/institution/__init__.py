"""An institution, and how it is built: from an experiment (simulated) or an owner's configuration.

Also the check of student weights that are submitted for evaluation, in `submitted_student`.
"""

from fedkd.client.institution.from_config import evaluate_student, owner_institution
from fedkd.client.institution.from_experiment import (
    institution_name,
    simulated_assets,
    simulated_institution,
    simulated_policy,
)
from fedkd.client.institution.institution import Institution

__all__ = [
    "Institution",
    "evaluate_student",
    "institution_name",
    "owner_institution",
    "simulated_assets",
    "simulated_institution",
    "simulated_policy",
]

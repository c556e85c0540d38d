"""Experiments as TOML files: sections with defaults and ranges, loading and overrides.

What a key does stands in the package that it configures.
"""

from fedkd.experiment.grow_section import Grow
from fedkd.experiment.loading import (
    SHIPPED_FOLDER,
    find_experiment,
    load_experiment,
    parse_experiment,
)
from fedkd.experiment.sections import (
    Expect,
    Experiment,
    Images,
    Institutions,
    MethodSection,
    PolicySection,
    Privacy,
    Questions,
    Student,
)
from fedkd.experiment.setting_types import ADAPTIVE, ALL, Linger
from fedkd.experiment.toml_settings import (
    ResolvedPath,
    Section,
    did_you_mean,
    read_toml,
    validate_settings,
)

__all__ = [
    "ADAPTIVE",
    "ALL",
    "SHIPPED_FOLDER",
    "Expect",
    "Experiment",
    "Grow",
    "Images",
    "Institutions",
    "Linger",
    "MethodSection",
    "PolicySection",
    "Privacy",
    "Questions",
    "ResolvedPath",
    "Section",
    "Student",
    "did_you_mean",
    "find_experiment",
    "load_experiment",
    "parse_experiment",
    "read_toml",
    "validate_settings",
]

"""Experiments as TOML files: sections with defaults and ranges, loading and overrides.

What a key does stands in the package that it configures.
"""

from fedkd.experiment.loading import FOLDER, find, load, parse
from fedkd.experiment.sections import (
    Experiment,
    Images,
    Institutions,
    MethodSection,
    PolicySection,
    Privacy,
    Questions,
    Student,
)
from fedkd.experiment.toml_settings import Located, Section, nearest, read, validated

__all__ = [
    "FOLDER",
    "Experiment",
    "Images",
    "Institutions",
    "Located",
    "MethodSection",
    "PolicySection",
    "Privacy",
    "Questions",
    "Section",
    "Student",
    "find",
    "load",
    "nearest",
    "parse",
    "read",
    "validated",
]

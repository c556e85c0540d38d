"""Examiners: score policies by their return in an environment that only a simulation has."""

from fedkd.simulations.examiners.examiner import EXAMINERS, Act, Examiner, build_examiner

__all__ = ["EXAMINERS", "Act", "Examiner", "build_examiner"]

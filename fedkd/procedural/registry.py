"""Registry of priors: build one by name, of ours, of an installed package, or of a module."""

from collections.abc import Callable, Mapping

from fedkd.core.interfaces import Prior
from fedkd.core.plugins import called, find_factory, known_names
from fedkd.errors import SettingsError
from fedkd.procedural.image_priors import (
    DeadLeaves,
    LevelSets,
    MultiscaleNoise,
    PinkNoise,
    Strokes,
    UniformNoise,
)
from fedkd.procedural.photo_crops import PhotoCollage, PhotoCrops, photographs
from fedkd.procedural.table_priors import (
    CorrelatedRows,
    GaussianRows,
    LatinHypercube,
    PairwiseCover,
    SkewedRows,
    UniformRows,
)
from fedkd.procedural.textured_dead_leaves import Collage
from fedkd.procedural.warp_and_cutmix import CutMixed, Warped

GROUP = "fedkd.priors"
"""The entry-point group in which packages offer priors."""
PRIORS: Mapping[str, Callable[[], Prior]] = {
    "pink": PinkNoise,
    "leaves": DeadLeaves,
    "levels": LevelSets,
    "scales": MultiscaleNoise,
    "strokes": Strokes,
    "collage": Collage,
    "photo": PhotoCrops,
    "photo-collage": PhotoCollage,
    "noise": UniformNoise,
}
"""Priors of images."""
TABLE_PRIORS: Mapping[str, Callable[[], Prior]] = {
    "uniform": UniformRows,
    "gaussian": GaussianRows,
    "latin-hypercube": LatinHypercube,
    "pairwise": PairwiseCover,
    "correlated": CorrelatedRows,
    "skewed": SkewedRows,
}
"""Priors of tables."""
DEFAULT_PRIORS = ("pink", "leaves", "levels", "scales")
"""Priors that presume nothing about the teachers' data."""


def known_priors() -> tuple[str, ...]:
    """Names of all priors: ours, then those of installed packages."""
    return known_names(GROUP, {**PRIORS, **TABLE_PRIORS})


def plain_prior(name: str, *, imports: bool = False) -> Prior:
    """The prior of that name as it is, neither warped nor mixed.

    Args:
        name: of ours, of an entry point in the group ``fedkd.priors``, or
            ``package.module:factory``; a factory takes no argument and makes a `Prior`.
        imports: whether a module may be imported by name: for the user's own settings alone,
            never for a name that came over the wire.

    Raises:
        SettingsError: there is none of that name.
    """
    factory = find_factory("prior", GROUP, name, {**PRIORS, **TABLE_PRIORS}, imports)
    prior: Prior = called("prior", name, factory)
    if not hasattr(prior, "draw"):
        raise SettingsError(f"prior {name!r} is a {type(prior).__name__} without draw(); see Prior")
    return prior


def build_prior(name: str, warp: float = 0.0, mix: float = 0.0, *, imports: bool = False) -> Prior:
    """A prior, a share ``warp`` of it warped, then a share ``mix`` of it cut-mixed.

    Args:
        name: as `plain_prior` takes it.
        warp: in [0, 1].
        mix: in [0, 1].
        imports: as `plain_prior` takes it.

    Raises:
        SettingsError: there is none of that name, or a share outside [0, 1].
    """
    plain = plain_prior(name, imports=imports)
    warped = Warped(plain, warp) if warp else plain
    return CutMixed(warped, mix) if mix else warped


def check_prior(name: str, warp: float = 0.0, mix: float = 0.0) -> None:
    """Build a prior of the user's own settings, and read the files that it draws from.

    Args:
        name: as `plain_prior` takes it; modules are imported.
        warp: as `build_prior` takes it.
        mix: as `build_prior` takes it.

    Raises:
        SettingsError: as `build_prior`, or the files are not installed.
    """
    build_prior(name, warp, mix, imports=True)
    if isinstance(plain_prior(name, imports=True), PhotoCrops | PhotoCollage):
        photographs()


def build_priors(*chosen: str, warp: float = 0.0, mix: float = 0.0) -> dict[str, Prior]:
    """Priors by name, as `fedkd.distil` takes them; `DEFAULT_PRIORS` where none is named."""
    return {name: build_prior(name, warp, mix) for name in chosen or DEFAULT_PRIORS}

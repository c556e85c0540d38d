"""Section of an experiment file that says whose student goes on."""

from fedkd.experiment.toml_settings import Section


class Grow(Section):
    """The earlier run of a student that goes on, see `fedkd.server.run.earlier_run`."""

    run: str | None = None
    """Folder of a finished run; ``--grow`` sets it. None: the student begins anew."""
    first: str | None = None
    """Experiment that ``fedkd run`` runs first, with the same seed, where ``run`` is left out."""
    student: str | None = None
    """Digest of the earlier student's file, set when the run begins, so that a resumed run goes on
    with the same one."""

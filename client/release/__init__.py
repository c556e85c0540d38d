"""Release gate and release modes: the only way for answers to leave an institution.

One module for each kind of mode; `mode_table` builds the one that the owner's policy names.
"""

from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import RELEASE_MODES, build_release_mode
from fedkd.client.release.release_mode import ReleaseMode

__all__ = ["RELEASE_MODES", "ReleaseGate", "ReleaseMode", "build_release_mode"]

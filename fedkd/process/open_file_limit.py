"""The limit on open files of this process: most systems allow 1,024, and more on request."""

import resource

OTHER_OPEN_FILES = 256
"""Files of a process besides those that it counts."""


def raise_open_file_limit(needed: int) -> int:
    """Raise the soft limit to ``needed`` files, as far as the hard limit allows.

    Returns:
        How many files this process may have open now; it may be fewer than ``needed``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft == resource.RLIM_INFINITY:
        return needed
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)

"""Process of one run of ``fedkd compare --jobs N``; its task is on standard input."""

import sys

from fedkd.simulations.engines.environment_variables import set_environment_defaults

if __name__ == "__main__":
    set_environment_defaults()
    from fedkd.simulations.compare.parallel_runs import run_task

    sys.exit(run_task(sys.stdin.buffer.read()))

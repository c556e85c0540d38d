"""Write the golden accounting figures with Google's dp-accounting, an independent implementation.

dp-accounting pins older packages than fedkd runs with, so it has an environment of its own:

    uv run --no-project --python 3.11 --with dp-accounting==0.6.0 \\
        tests/fedkd/privacy/crosscheck_accounting.py

It writes `golden_accounting.json`; `test_accounting.py` compares our figures with that file and
does not need this program.
"""

import json
from importlib.metadata import version
from pathlib import Path

import dp_accounting as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

DELTA = 1e-5
# Whole orders, where both count alike. Between them dp-accounting 0.6 gives an upper bound, and
# Opacus what numerical integration gives, see tests/fedkd/privacy/test_accounting.py.
ORDERS = list(range(2, 64))
SETTINGS = [
    # noise multiplier, sampling rate, steps
    (1.0, 0.01, 1000),
    (1.90234375, 0.05, 600),
    (1.015625, 0.05, 600),
    (2.9921875, 0.2, 100),
    (8.594, 1 / 6, 180),
    (4.648, 1 / 6, 180),
    (2.607, 1 / 6, 180),
    (5.546875, 0.5, 60),
    (6.0, 1.0, 40),
    (1.0, 1.0, 1),
]
MIXED = [(2.0, 0.05, 100), (20.0, 1.0, 1), (3.0, 0.1, 50)]
GAUSSIANS = [0.25, 0.5, 1.0, 2.0, 4.0]


def event(noise: float, rate: float, steps: int) -> dp.DpEvent:
    step = dp.GaussianDpEvent(noise)
    if rate < 1:
        step = dp.PoissonSampledDpEvent(rate, step)
    return dp.SelfComposedDpEvent(step, steps)


def epsilons(*settings: tuple[float, float, int]) -> dict[str, float]:
    neighbours = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    composed = dp.ComposedDpEvent([event(*each) for each in settings])
    return {
        "rdp": RdpAccountant(ORDERS, neighbours).compose(composed).get_epsilon(DELTA),
        "pld": PLDAccountant(neighbours).compose(composed).get_epsilon(DELTA),
    }


golden = {
    "by": f"dp-accounting {version('dp-accounting')}",
    "delta": DELTA,
    "dp_sgd": [{"event": each, **epsilons(each)} for each in SETTINGS],
    "mixed": {"events": MIXED, **epsilons(*MIXED)},
    "gaussian": [{"mu": mu, "exact": dp.get_epsilon_gaussian(1 / mu, DELTA)} for mu in GAUSSIANS],
}
path = Path(__file__).with_name("golden_accounting.json")
path.write_text(json.dumps(golden, indent=1) + "\n")
print(path.name, golden["by"])

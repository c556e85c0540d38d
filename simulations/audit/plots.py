"""Plot ROC curves of membership inference attacks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedkd.server.report.plot_style import FAINT, SERIES, SOFT, figure, style
from fedkd.simulations.audit.membership_inference import ATTACKS, AttackResult, Curve, epsilon_label

MIN_RATE = 1e-3
"""Lower end of both axes."""


def plot_roc(results: Sequence[AttackResult], folder: Path) -> None:
    """``membership.svg`` and ``membership.png``: ROC curves, a panel for each kind of release."""
    epsilons = list(dict.fromkeys(a.epsilon for a in results))
    releases = list(dict.fromkeys(a.release for a in results))
    with style("membership"):
        canvas = figure(height=430)
        panels = canvas.subplots(1, len(releases), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, releases, strict=True):
            axes.plot([MIN_RATE, 1], [MIN_RATE, 1], color=FAINT, lw=1, zorder=1)
            for each in results:
                if each.release == name:
                    axes.plot(
                        *_thin_out(each.curve),
                        color=SERIES[epsilons.index(each.epsilon)],
                        ls=("-", (0, (4, 2)))[ATTACKS.index(each.attack)],
                        drawstyle="steps-post",
                        label=f"{each.attack}, {epsilon_label(each.epsilon)}",
                    )
            axes.set(xscale="log", yscale="log", xlim=(MIN_RATE, 1), ylim=(MIN_RATE, 1))
            axes.set_title(f"Attacks on the {name}", color=SOFT)
            axes.set_xlabel("wrongly accused (FPR)")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
            axes.legend(loc="lower right")
        panels[0].set_ylabel("members found (TPR)")
        canvas.patch.set_visible(True)
        canvas.savefig(folder / "membership.svg", metadata={"Date": None})
        canvas.savefig(folder / "membership.png", dpi=72)


def _thin_out(curve: Curve) -> Curve:
    """At most a few hundred points, evenly spread over the logarithm of FPR."""
    fpr, tpr = curve
    grid = np.geomspace(MIN_RATE, 1, 300)
    return grid, tpr[np.searchsorted(fpr, grid, side="right") - 1]

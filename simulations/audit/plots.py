"""Pictures of audits. Knows curves, not where they come from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedkd.server.report.plot_style import FAINT, SERIES, SOFT, figure, style
from fedkd.simulations.audit.membership_inference import ATTACKS, Attacked, Curve, label

LEAST = 1e-3
"""Where both axes begin."""


def draw(attacked: Sequence[Attacked], folder: Path) -> None:
    """``membership.svg`` and ``membership.png``: ROC curves, a panel for each kind of release."""
    kinds = list(dict.fromkeys(a.epsilon for a in attacked))
    names = list(dict.fromkeys(a.release for a in attacked))
    with style("membership"):
        drawn = figure(height=430)
        panels = drawn.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            axes.plot([LEAST, 1], [LEAST, 1], color=FAINT, lw=1, zorder=1)
            for each in attacked:
                if each.release == name:
                    axes.plot(
                        *_thinned(each.curve),
                        color=SERIES[kinds.index(each.epsilon)],
                        ls=("-", (0, (4, 2)))[ATTACKS.index(each.attack)],
                        drawstyle="steps-post",
                        label=f"{each.attack}, {label(each.epsilon)}",
                    )
            axes.set(xscale="log", yscale="log", xlim=(LEAST, 1), ylim=(LEAST, 1))
            axes.set_title(f"Attacks on the {name}", color=SOFT)
            axes.set_xlabel("wrongly accused (FPR)")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
            axes.legend(loc="lower right")
        panels[0].set_ylabel("members found (TPR)")
        drawn.patch.set_visible(True)
        drawn.savefig(folder / "membership.svg", metadata={"Date": None})
        drawn.savefig(folder / "membership.png", dpi=72)


def _thinned(curve: Curve) -> Curve:
    """At most a few hundred points, evenly spread over the logarithm of FPR."""
    fpr, tpr = curve
    grid = np.geomspace(LEAST, 1, 300)
    return grid, tpr[np.searchsorted(fpr, grid, side="right") - 1]

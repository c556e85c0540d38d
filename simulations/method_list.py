"""The command `fedkd methods`: each method, what it asks of an institution, what that discloses.

``fedkd methods NAME`` prints one of them: the text of its file and its arguments.
"""

import inspect
from itertools import groupby

from rich.table import Table

from fedkd.methods import Method, factory_of, known_methods, make, ways
from fedkd.protocol import Signal
from fedkd.server.run.console import console

ALONE = ", alone"
"""Behind a gradient: how the method goes with one institution that releases what is asked then."""
_ANSWERS = {
    Signal.LOGITS: "class scores of",
    Signal.FEATURES: "embeddings of",
    Signal.RELATIONS: "how alike it finds every two",
}
"""What a method's answers disclose."""


def print_methods() -> None:
    """Every method: its gradients, what each asks of an institution, what that discloses, paper."""
    table = Table(title="Methods", title_justify="left", caption_justify="left")
    for column in ("method", "gradient", "asks of an institution", "which discloses"):
        table.add_column(column, overflow="fold")
    lines = [
        "A method's first gradient is its default. cudfkd needs bn_weight = 0 for its last three, "
        "and adversarial_stop = 0 for student.\n"
        'Where a gradient is followed by "alone", one institution that takes part alone and '
        "releases that is asked so: the paper's own form.\n"
        "group_stack: stacked blocks of teachers as discriminators, and the dual generator's "
        "training block by block, cannot cross the wire.\n"
    ]
    for name in known_methods():
        made = [(way, _made(name, way)) for way in ways(name)]
        lines.append(f"{name:<15}{made[0][1].paper}")
        shown = name
        for (asks, discloses), alike in groupby(made, lambda each: _terms(each[1])):
            table.add_row(shown, "\n".join(way for way, _ in alike), asks, discloses)
            shown = ""
        if (alone := made[0][1].alone) is not None:
            table.add_row("", f"{made[0][0]}{ALONE}", *_terms(alone))
        table.add_section()
    table.caption = "\n".join(lines)
    console.print(table)


def print_method(name: str) -> None:
    """One method: paper, equations and departures, as its file has them, and its arguments.

    Raises:
        SettingsError: there is none of that name.
    """
    factory = factory_of(name)
    text = inspect.getdoc(inspect.getmodule(factory)) or inspect.getdoc(factory) or ""
    _, _, told = (inspect.getdoc(factory) or "").partition("Args:\n")
    arguments = "\n".join(
        f"  {parameter.name} = {parameter.default!r}"
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is not parameter.empty
    )
    parts = [text, "Arguments, as method.NAME in an experiment:", arguments]
    if told:
        parts.append(told.partition("Raises:")[0].rstrip())
    # As it stands in the file: lines that a terminal breaks are no equations any more.
    console.print("\n\n".join(parts), markup=False, highlight=False, soft_wrap=True)


def _made(name: str, way: str) -> Method:
    """That method with that gradient, without the signal that only pulling back can make use of."""
    wishes: dict[str, object] = {"gradient": way}
    if way != "pull_back":
        wishes["bn_weight"] = 0.0
    if way == "student":  # whose adversarial term would be identically zero
        wishes["adversarial_stop"] = 0.0
    known = inspect.signature(factory_of(name)).parameters
    return make(name, {key: value for key, value in wishes.items() if key in known})


def _terms(method: Method) -> tuple[str, str]:
    """What is asked of an institution, and what that discloses."""
    asks = [signal.value for signal in sorted(method.needs.signals, reverse=True)]
    discloses = [f"{_ANSWERS[method.answers]} synthesised samples"]
    if "bn_gap" in asks:
        discloses.append("distance to its batch-norm statistics")
    if method.reads_features:
        discloses.append("its features of them, from which its last layer follows")
    if "activation" in asks:
        discloses.append("mean size of its features")
    if method.gradient.pulls_back:
        asks.append("gradients (pull_back)")
        discloses.append("how scores change with pixels")
    public = [spec.needs.public_data for spec, _ in method.sources.values()]
    if any(public):
        kinds = "public" if all(public) else "public and synthesised"
        discloses[0] = f"{_ANSWERS[method.answers]} {kinds} samples"
    if method.cost > 1:
        asks[0] = f"logits, {method.cost} questions a sample"
    if method.gradient.questions:
        discloses.append("roughly how they change with pixels")
    return ", ".join(asks), "; ".join(discloses)

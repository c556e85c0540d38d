"""The table of embeddings shows every row by the mean over seeds."""

from fedkd.simulations.checks.embeddings import MAIN, RUNS, line, rows


def result(recall: float) -> dict[str, object]:
    scores = {"recall_at_1": recall, "recall_at_5": 1.0}
    groups = {name: {"accuracy": 0.5} for name in ("mean relation", "north", "student", "pixels")}
    return {
        "student": {**scores, "accuracy": None},
        "ensemble": {"recall_at_1": 0.9, "recall_at_5": 1.0, "accuracy": None},
        "teachers": [{"name": "north", **scores}],
        "relations": {"groups": groups, "controls": {"pixels": scores}},
    }


def test_every_row_is_the_mean_over_seeds() -> None:
    found = rows({name: [result(0.8), result(0.9)] for name in RUNS})
    assert {MAIN, "north", "ensemble, mean relation", "control: pixels"} <= set(found)
    assert line(MAIN, found[MAIN]).split() == [
        *MAIN.split(),
        *("85.00", "±", "7.07", "100.00", "±", "0.00", "50.00", "±", "0.00"),
    ]
    assert "90.00 ± 0.00" in line("ensemble", found["ensemble, mean relation"])
    squared = "student, squared difference"
    assert line(squared, found[squared]).count("±") == 2  # its groups are not in the table

"""Numbers with their noun."""

from fedkd.process.plural import counted


def test_one_is_singular_and_all_else_plural() -> None:
    assert [counted(number, "run") for number in (0, 1, 1200)] == ["0 runs", "1 run", "1,200 runs"]
    assert counted(2, "query was", "queries were") == "2 queries were"

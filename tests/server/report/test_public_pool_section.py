"""The page's part on public samples: what was chosen, beside what there was."""

import pytest

from fedkd.server.report.public_pool.public_pool_section import choices, public_pool_section
from fedkd.server.report.records.event_schema import Event, parse_event


def asked(samples: int, **public: int) -> Event:
    pool = {"digits": 20, "junk": 60}
    facts = {"asked": samples, "origin": "public", "public": public, "public_pool": pool}
    return parse_event({"kind": "asked", **facts}, "here")


EVENTS = [asked(10, digits=2, junk=8), asked(20, digits=11, junk=9)]


def test_the_last_counts_are_of_the_whole_run() -> None:
    rows = choices(EVENTS)
    assert [(row.name, row.had, row.asked) for row in rows] == [("digits", 20, 11), ("junk", 60, 9)]


def test_shares_stand_beside_those_of_the_pool() -> None:
    page = public_pool_section(EVENTS)
    assert "had 80 samples of 2 data sets, and asked about\n20 of them" in page
    assert [page.count(share) >= 1 for share in ("25.0%", "55.0%", "75.0%", "45.0%")] == [True] * 4
    assert page.count("<svg") == 2, "for wide pages and for telephones"


@pytest.mark.parametrize(
    "events", [[], [parse_event({"kind": "asked", "asked": 5, "origin": "pink"}, "")]]
)
def test_nothing_is_shown_where_there_was_nothing_to_choose(events: list[Event]) -> None:
    assert public_pool_section(events) == ""


def test_a_name_is_text_and_never_markup() -> None:
    event = parse_event(
        {
            "kind": "asked",
            "asked": 1,
            "origin": "public",
            "public": {"<b>x": 1},
            "public_pool": {"<b>x": 2},
        },
        "here",
    )
    page = public_pool_section([event])
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page

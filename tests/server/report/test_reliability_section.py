"""The page's record of reliability: alarms in words, one line for each institution."""

from typing import Any

from fedkd.server.report.institutions.reliability_section import _spans, reliability_section
from fedkd.server.report.records.event_schema import Event, Reliability, parse_event

CLASSES = ["0", "1", "2"]


def estimate(
    samples: int, left_out: dict[str, list[str]], **agreement: float | None
) -> Reliability:
    weight = {n: 1 - len(left_out.get(n, [])) / 3 for n in agreement}
    facts: dict[str, Any] = {"samples": samples, "weight": weight, "left_out": left_out}
    event = parse_event({"kind": "reliability", "agreement": agreement, **facts}, "here")
    assert isinstance(event, Reliability)
    return event


def test_nothing_is_shown_where_nothing_was_estimated() -> None:
    assert reliability_section([]) == ""


def test_honest_members_raise_no_alarm() -> None:
    page = reliability_section([estimate(256, {}, a=0.6, b=0.5, c=None)])
    assert "No institution disagreed" in page
    assert "c had too little in common" in page
    assert page.count("<svg") == 2, "for wide pages and for telephones"


def test_alarms_say_who_on_what_and_since_when() -> None:
    events: list[Event] = [
        estimate(256, {}, a=0.6, b=0.5, c=0.4),
        estimate(512, {"b": ["1"]}, a=0.6, b=0.3, c=0.4),
        estimate(768, {"b": CLASSES, "c": ["2"]}, a=0.6, b=-0.4, c=0.4),
        estimate(1024, {"b": CLASSES}, a=0.6, b=-0.5, c=0.4),
    ]
    found = [span.sentence() for span in _spans([e for e in events if isinstance(e, Reliability)])]
    assert found == [
        "b disagrees with the others: all its answers were left out since sample 768.",
        "c disagrees with the others: its answers on 2 were left out since sample 768 until 1,024.",
        "b disagrees with the others: its answers on 1 were left out since sample 512 until 768.",
    ]
    page = reliability_section(events)
    assert all(sentence in page for sentence in found)


def test_a_name_is_text_and_never_markup() -> None:
    name = "<script>alert(1)</script>"
    page = reliability_section([estimate(256, {name: CLASSES}, **{name: -0.5, "a": 0.5, "b": 0.6})])
    assert "<script>" not in page

"""Tasks on cards: names of outputs, their union, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import LocalProtocolError, SettingsError
from fedkd.protocol import (
    Card,
    LabelSpaces,
    NamedTask,
    Number,
    Signal,
    card_violation,
    class_names_of,
    common_shape,
    named_tasks,
    output_names_of,
    task_slices,
    tasks_of_outputs,
)
from fedkd.wire import Hello, Invalid, decode_from_institution, encode
from fedkd.wire.cards import decode_card, encode_card

LOGITS = frozenset({Signal.LOGITS})
ODD = NamedTask("odd", ("even", "odd"))
HOLE = NamedTask("hole", ("open", "closed", "two"))
words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)


def card(name: str, *tasks: NamedTask) -> Card:
    return Card(name, len(output_names_of(tasks)), (1, 8, 8), LOGITS, tasks=tasks)


@st.composite
def several(draw: st.DrawFn) -> tuple[NamedTask, ...]:
    names = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    classes = st.lists(words, min_size=2, max_size=4, unique=True).map(tuple)
    return tuple(NamedTask(name, draw(classes)) for name in names)


@given(several())
def test_names_of_outputs_tell_the_tasks(tasks: tuple[NamedTask, ...]) -> None:
    names = output_names_of(tasks)
    assert tasks_of_outputs(names) == tasks
    for task, at in zip(tasks, task_slices(tasks).values(), strict=True):
        assert names[at] == task.output_names


@given(several())
def test_tasks_arrive_as_they_were_sent(tasks: tuple[NamedTask, ...]) -> None:
    hello = Hello(1, "token", card("north", *tasks))
    assert decode_from_institution(encode(hello)) == hello


def test_a_card_of_an_earlier_release_has_no_tasks() -> None:
    plain = Card("north", 3, (1, 8, 8), LOGITS)
    sent = encode_card(plain)
    assert not sent.tasks
    assert decode_card(sent).tasks == ()


def test_the_union_has_the_outputs_of_a_task_together() -> None:
    labels = LabelSpaces.of(
        [
            card("north", ODD, NamedTask("size", ("10", "9"))),
            card("south", HOLE),
            card("west", NamedTask("size", ("9", "11"))),
        ]
    )
    assert [task.name for task in labels.tasks] == ["hole", "odd", "size"]
    assert labels.names[labels.slices["size"]] == ("size: 9", "size: 10", "size: 11")
    assert labels.indices["north"] == (3, 4, 6, 5)
    assert class_names_of(card("south", HOLE)) == ("hole: open", "hole: closed", "hole: two")


def test_what_is_compared_is_unknown_where_an_institution_answers_nothing() -> None:
    labels = LabelSpaces.of([card("north", ODD), card("south", HOLE)])
    student, own = torch.arange(10.0).view(2, 5), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    of_student, of_north = labels.comparable("north", student, own)
    assert of_student is student
    assert of_north[:, :3].isnan().all()
    assert torch.equal(of_north[:, 3:], own)


def test_one_names_tasks_and_another_classes() -> None:
    plain = Card("south", 2, (1, 8, 8), LOGITS)
    with pytest.raises(SettingsError, match="south predicts classes and north tasks"):
        common_shape([card("north", ODD), plain])


@pytest.mark.parametrize(
    ("tasks", "changes", "words"),
    [
        ((ODD, ODD), {}, "two tasks of one name"),
        ((NamedTask("odd", ("odd",)),), {}, "2 or more classes"),
        ((NamedTask("odd", ("a", "a")),), {}, "2 or more classes"),
        ((NamedTask("odd", ("a", "")),), {}, "without a name"),
        ((NamedTask("o:d", ("a", "b")),), {}, "without a colon"),
        ((NamedTask("", ("a", "b")),), {}, "printable"),
        ((NamedTask("odd", ("a", "b" * 60)),), {}, "below 64 characters"),
        ((NamedTask("odd", ("a", "b"), "sigmoid"),), {}, "kind that this release does not know"),
        ((ODD,), {"classes": 3}, "tasks of 2 classes in all for 3 outputs"),
        ((ODD,), {"class_names": ("a", "b")}, "names of classes or numbers beside them"),
        ((ODD,), {"numbers": (Number("stay"), Number("cost"))}, "numbers beside them"),
        (tuple(NamedTask(f"t{i}", ("a", "b")) for i in range(257)), {}, "at most 256"),
    ],
)
def test_tasks_out_of_bounds_are_refused(
    tasks: tuple[NamedTask, ...], changes: dict[str, object], words: str
) -> None:
    wrong = replace(card("north", *tasks), **changes)  # type: ignore[arg-type]
    found = card_violation(wrong)
    assert found is not None
    assert words in found
    with pytest.raises(LocalProtocolError):
        encode(Hello(1, "token", wrong))
    from_elsewhere = encode(Hello(1, "token", card("north", ODD))).replace(b"softmax", b"sigmoid")
    assert isinstance(decode_from_institution(from_elsewhere), Invalid)


def test_an_owners_tasks_are_checked() -> None:
    assert named_tasks({"odd": ("even", "odd")}) == (ODD,)
    with pytest.raises(SettingsError, match="mend the tasks"):
        named_tasks({"odd": ("odd",)})
    with pytest.raises(SettingsError, match="no output of a task"):
        tasks_of_outputs(["odd"])

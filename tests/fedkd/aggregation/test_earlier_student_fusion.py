"""An earlier student's answers beside those of institutions: slices, levels, and fusing again."""

import torch
from torch import Tensor, nn

from fedkd.aggregation import WithEarlierStudent, build_fusion, fuse_with_earlier_student
from fedkd.core.interfaces import Context
from fedkd.core.source_types import Proposal
from fedkd.models import EARLIER_STUDENT, FrozenStudent
from fedkd.protocol import Ask, Card, LabelSpaces, Reply, Signal
from tests.support.contexts import context_of

SHAPE = (1, 2, 2)
LOGITS = frozenset({Signal.LOGITS})


def earlier(*classes: str) -> FrozenStudent:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, len(classes)))
    return FrozenStudent(network, classes, SHAPE)


def card(name: str, *classes: str) -> Card:
    return Card(name, len(classes), SHAPE, LOGITS, class_names=classes)


def random_logits(seed: int, classes: int) -> Tensor:
    return 3 * torch.randn(5, classes, generator=torch.Generator().manual_seed(seed))


def fused(old: Tensor, new: Tensor, level: str = "centred", shared: bool = False) -> Tensor:
    """Of an earlier student of a, c and one institution of b, d; or of b, c where one is shared."""
    student, other = earlier("a", "c"), card("north", *("bc" if shared else "bd"))
    fusion = fuse_with_earlier_student(
        student.card,
        [other],
        build_fusion("mean_logits", [other]),
        level,  # type: ignore[arg-type]
    )
    return fusion({EARLIER_STUDENT: {Signal.LOGITS: old}, "north": {Signal.LOGITS: new}})[
        Signal.LOGITS
    ]


def test_slices_without_a_common_class_keep_their_differences_and_get_a_mean_of_zero() -> None:
    old, new = random_logits(1, 2), random_logits(2, 2)
    target = fused(old, new)  # a, b, c, d
    assert torch.allclose(target[:, 0] - target[:, 2], old[:, 0] - old[:, 1], atol=1e-5)
    assert torch.allclose(target[:, 1] - target[:, 3], new[:, 0] - new[:, 1], atol=1e-5)
    assert torch.allclose(target[:, [0, 2]].mean(1), torch.zeros(5), atol=1e-5)
    assert torch.allclose(fused(old + 9, new - 4), target, atol=1e-5)


def test_raw_logits_stay_as_they_were_answered() -> None:
    old, new = random_logits(1, 2), random_logits(2, 2)
    assert torch.equal(fused(old, new, "raw")[:, [0, 2, 1, 3]], torch.cat([old, new], 1))


def test_a_common_class_decides_the_level() -> None:
    old, new = random_logits(1, 2), random_logits(2, 2)
    target = fused(old, new, shared=True)  # a, b, c: c is known to both
    assert torch.allclose(target[:, [0, 2]], old, atol=1e-5)
    assert torch.allclose(target[:, 1] - target[:, 2], new[:, 0] - new[:, 1], atol=1e-5)
    assert torch.allclose(fused(old, new + 5, shared=True), target, atol=1e-5)


def context(student: FrozenStudent) -> Context:
    return context_of(nn.Linear(1, 1), SHAPE, 3, earlier=student)


def test_who_is_excluded_is_fused_out_and_the_earlier_student_stays() -> None:
    student, cards = earlier("a", "b"), [card("north", "c", "d"), card("south", "c", "d")]
    around = context(student)
    made = WithEarlierStudent().with_rule("mean_logits").build(around)
    images = torch.randint(
        *(0, 256, (6, *SHAPE)), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    answers = {
        student.card.name: student.answer(Ask(images)),
        "north": Reply({Signal.LOGITS: random_logits(1, 2)[:1].repeat(6, 1)}),
        "south": Reply({Signal.LOGITS: random_logits(2, 2)[:1].repeat(6, 1)}),
    }
    teachers = [student.card, *cards]
    target = made.fusion(teachers).of(answers)[Signal.LOGITS]
    around.bank.add(images, target)
    made.hear(answers, LabelSpaces.of(teachers), None, Proposal(images, "test"))
    again = made.exclude(["south"], teachers)
    assert again is not None
    expected = made.fusion([student.card, cards[0]]).of(
        {name: answers[name] for name in (student.card.name, "north")}
    )[Signal.LOGITS]
    assert torch.allclose(again, expected, atol=1e-2)  # banked as float16
    assert torch.allclose(again[:, :2], target[:, :2], atol=1e-5)
    assert not torch.allclose(again[:, 2:], target[:, 2:], atol=1e-2)

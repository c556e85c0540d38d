"""Both ends are held to one law, whoever speaks."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from fedkd.errors import LocalProtocolError, RemoteProtocolError
from fedkd.protocol import (
    RECIPE_VERSION,
    Ask,
    Card,
    FrozenGenerator,
    NamedPrior,
    PullBack,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Signal,
)
from fedkd.wire import (
    MAX_IN_FLIGHT,
    MAX_UNRENDERED,
    VERSION,
    Answer,
    Close,
    Declined,
    Hello,
    Invalid,
    Message,
    Query,
    RecipeQuery,
    Role,
    Session,
    State,
    Welcome,
)
from fedkd.wire.session_state_machine import TRANSITIONS

INSTITUTION, COORDINATOR = Role.INSTITUTION, Role.COORDINATOR
CARD = Card("north", 3, (1, 2, 2), frozenset(Signal), pull_back=True, recipes=RECIPE_VERSION)
IMAGES = torch.zeros(4, 1, 2, 2)
REFUSAL = Refusal(Reason.SPENT, "nothing left")


def logits(rows: int = 4, classes: int = 3, dtype: torch.dtype = torch.float16) -> Reply:
    return Reply({Signal.LOGITS: torch.zeros(rows, classes, dtype=dtype)})


HELLO = Hello(VERSION, "token", CARD)
WELCOME = Welcome(VERSION)
QUESTION = Query(1, Ask(IMAGES))
ANSWER = Answer(1, logits())

OPENED = ((INSTITUTION, HELLO), (COORDINATOR, WELCOME))
ASKED = (*OPENED, (COORDINATOR, QUESTION))
ROADS: dict[State, tuple[tuple[Role, Message], ...]] = {
    State.CONNECTED: (),
    State.IDENTIFIED: OPENED[:1],
    State.OPEN: ASKED,
    State.CLOSED: (*ASKED, (COORDINATOR, Close("over"))),
}
NEXT: dict[type[Message], Message] = {
    Hello: HELLO,
    Welcome: WELCOME,
    Query: Query(2, Ask(IMAGES)),
    RecipeQuery: RecipeQuery(
        2, Recipe(NamedPrior("pink"), 0, 4), bytes(16), frozenset({Signal.LOGITS})
    ),
    Answer: ANSWER,
    Declined: Declined(1, REFUSAL),
    Close: Close("over"),
}


class Pair:
    """Both ends of one session, and what passes between them."""

    def __init__(self, *said: tuple[Role, Message]) -> None:
        self.ends = {role: Session(role) for role in Role}
        for speaker, message in said:
            self.say(speaker, message)

    def say(self, speaker: Role, message: Message) -> None:
        self.ends[speaker].send(message)
        self.ends[speaker.other].receive(message)

    def say_unlawfully(self, speaker: Role, message: Message, words: str | None = None) -> None:
        """The speaker is stopped; and if it were not, the other end would stop it."""
        with pytest.raises(LocalProtocolError, match=words):
            self.ends[speaker].send(message)
        with pytest.raises(RemoteProtocolError, match=words):
            self.ends[speaker.other].receive(message)


@pytest.mark.parametrize(("state", "speaker", "kind"), list(product(State, Role, NEXT)))
def test_the_table_is_the_law_for_both_ends(
    state: State, speaker: Role, kind: type[Message]
) -> None:
    pair = Pair(*ROADS[state])
    if (state, speaker, kind) in TRANSITIONS:
        pair.say(speaker, NEXT[kind])
        after = TRANSITIONS[state, speaker, kind]
    else:
        pair.say_unlawfully(speaker, NEXT[kind])
        after = state
    assert {end.state for end in pair.ends.values()} == {after}


def test_the_law_says_what_we_think_it_says() -> None:
    lawful = {key: after for key, after in TRANSITIONS.items() if key[2] is not Close}
    assert lawful == {
        (State.CONNECTED, INSTITUTION, Hello): State.IDENTIFIED,
        (State.IDENTIFIED, COORDINATOR, Welcome): State.OPEN,
        (State.OPEN, COORDINATOR, Query): State.OPEN,
        (State.OPEN, COORDINATOR, RecipeQuery): State.OPEN,
        (State.OPEN, INSTITUTION, Answer): State.OPEN,
        (State.OPEN, INSTITUTION, Declined): State.OPEN,
    }
    assert all(TRANSITIONS[state, role, Close] is State.CLOSED for state in State for role in Role)


def test_garbage_is_theirs_in_every_state() -> None:
    for road, role in product(ROADS.values(), Role):
        with pytest.raises(RemoteProtocolError, match="what it was"):
            Pair(*road).ends[role].receive(Invalid("what it was"))


def test_the_card_is_known_to_both_ends() -> None:
    assert [end.card for end in Pair(*OPENED).ends.values()] == [CARD, CARD]


def test_numbers_rise() -> None:
    pair = Pair(*ASKED, (COORDINATOR, Query(7, Ask(IMAGES))))
    pair.say(INSTITUTION, Answer(1, logits()))
    pair.say(INSTITUTION, Answer(7, logits()))
    for number in (1, 6, 7):
        pair.say_unlawfully(COORDINATOR, Query(number, Ask(IMAGES)), "numbers increase")
    pair.say(COORDINATOR, Query(8, Ask(IMAGES)))


def test_an_unanswered_question_may_be_put_again() -> None:
    pair = Pair(*ASKED, (COORDINATOR, Query(2, Ask(IMAGES))), (COORDINATOR, QUESTION))
    for number in (1, 2):
        pair.say(INSTITUTION, Answer(number, logits()))
        pair.say_unlawfully(COORDINATOR, Query(number, Ask(IMAGES)), "numbers increase")


def test_no_more_questions_are_open_than_agreed() -> None:
    pair = Pair(*OPENED)
    for number in range(1, MAX_IN_FLIGHT + 1):
        pair.say(COORDINATOR, Query(number, Ask(IMAGES)))
    following = Query(MAX_IN_FLIGHT + 1, Ask(IMAGES))
    pair.say_unlawfully(COORDINATOR, following, "at a time")
    assert pair.ends[COORDINATOR].in_flight == MAX_IN_FLIGHT
    pair.say(INSTITUTION, Declined(2, REFUSAL))
    pair.say(COORDINATOR, following)


def test_only_the_latest_queries_that_were_not_rendered_may_come_again() -> None:
    """Their numbers would otherwise fill the memory of both ends, a coordinator asking for it."""
    pair = Pair(*OPENED)
    for number in range(1, MAX_UNRENDERED + 2):
        pair.say(COORDINATOR, named(number))
        pair.say(INSTITUTION, Declined(number, UNDRAWN))
    pair.say_unlawfully(COORDINATOR, Query(1, Ask(IMAGES)), "numbers increase")
    pair.say(COORDINATOR, Query(2, Ask(IMAGES)))


def test_questions_may_be_answered_in_any_order_once() -> None:
    pair = Pair(*ASKED, (COORDINATOR, Query(2, Ask(IMAGES))))
    pair.say(INSTITUTION, Answer(2, logits()))
    pair.say(INSTITUTION, Declined(1, REFUSAL))
    for again in (Answer(2, logits()), Declined(1, REFUSAL), Answer(3, logits())):
        pair.say_unlawfully(INSTITUTION, again, "not open")


def named(number: int = 1, **changes: object) -> RecipeQuery:
    """Four of five images by recipe, but for what is changed."""
    kept = torch.tensor([True, True, False, True, True])
    recipe = replace(Recipe(NamedPrior("pink"), 3, 5, kept), **changes)
    return RecipeQuery(number, recipe, bytes(16), frozenset({Signal.LOGITS}))


UNDRAWN = Refusal(Reason.UNDRAWN, "show them")


def test_a_question_by_recipe_is_answered_for_the_images_that_are_meant() -> None:
    pair = Pair(*OPENED, (COORDINATOR, named()))
    pair.say_unlawfully(INSTITUTION, Answer(1, logits(rows=5)), r"expected \(4, 3\)")
    pair.say_unlawfully(INSTITUTION, Answer(1, logits(dtype=torch.float32)), "float16")
    pair.say(INSTITUTION, ANSWER)


def test_images_that_were_not_drawn_are_shown_under_the_same_number() -> None:
    pair = Pair(*OPENED, (COORDINATOR, named(1)), (COORDINATOR, named(2)))
    pair.say_unlawfully(COORDINATOR, named(3), "at a time")
    pair.say(INSTITUTION, Declined(1, UNDRAWN))
    for unlawful in (ANSWER, Declined(1, UNDRAWN), Declined(1, REFUSAL)):
        pair.say_unlawfully(INSTITUTION, unlawful, "not open")
    pair.say_unlawfully(COORDINATOR, named(1), "could not be rendered")
    pair.say(COORDINATOR, QUESTION)
    pair.say_unlawfully(COORDINATOR, Query(3, Ask(IMAGES)), "at a time")
    pair.say_unlawfully(INSTITUTION, Declined(1, UNDRAWN), "sent its images")
    pair.say(INSTITUTION, ANSWER)
    pair.say_unlawfully(COORDINATOR, QUESTION, "numbers increase")
    pair.say(INSTITUTION, Answer(2, logits()))


@pytest.mark.parametrize("recipes", [0, RECIPE_VERSION + 1])
def test_who_takes_no_such_recipes_is_put_none(recipes: int) -> None:
    pair = Pair((INSTITUTION, Hello(VERSION, "token", replace(CARD, recipes=recipes))), OPENED[1])
    pair.say_unlawfully(COORDINATOR, named(), "does not accept it")


def test_a_recipe_draws_no_more_than_seconds_take() -> None:
    network = FrozenGenerator(8, bytes(16))
    for source, most, side in ((NamedPrior("pink"), 2**24, 64), (network, 2**22, 64)):
        wide = Hello(VERSION, "token", replace(CARD, shape=(1, 2, side)))  # as if it were square
        pair = Pair((INSTITUTION, wide), OPENED[1])
        count = most // side**2
        pair.say_unlawfully(COORDINATOR, named(count=count + 1, source=source), "too many")
        pair.say(COORDINATOR, named(count=count, source=source))


GAP = {Signal.BN_GAP: torch.tensor(1.0)}
BOTH = Ask(IMAGES, frozenset({Signal.LOGITS, Signal.BN_GAP}))
FEATURES = Ask(IMAGES, frozenset({Signal.FEATURES}))
RELATIONS = Ask(IMAGES, frozenset({Signal.RELATIONS}))
ACTIVATION = Ask(IMAGES, frozenset({Signal.ACTIVATION}))
PULL_BACK = PullBack(IMAGES, {Signal.LOGITS: torch.zeros(4, 3)})


@pytest.mark.parametrize(
    ("request_", "reply", "words"),
    [
        (Ask(IMAGES), logits(), None),
        (Ask(IMAGES, exact=True), logits(dtype=torch.float32), None),
        (BOTH, Reply(logits().signals | GAP), None),
        (FEATURES, Reply({Signal.FEATURES: torch.zeros(4, 9).half()}), None),
        (PULL_BACK, Reply(gradient=IMAGES), None),
        (PullBack(IMAGES.byte(), PULL_BACK.cotangents), Reply(gradient=IMAGES), None),
        (Ask(IMAGES), logits(dtype=torch.float32), "float16"),
        (Ask(IMAGES, exact=True), logits(), "float32"),
        (Ask(IMAGES), logits(rows=3), r"expected \(4, 3\)"),
        (Ask(IMAGES), logits(classes=4), r"expected \(4, 3\)"),
        (BOTH, logits(), "exactly the signals"),
        (Ask(IMAGES), Reply(logits().signals | GAP), "exactly the signals"),
        (BOTH, Reply(logits().signals | {Signal.BN_GAP: torch.tensor(1.0).half()}), "float32"),
        (BOTH, Reply(logits().signals | {Signal.BN_GAP: torch.zeros(4)}), "bn_gap"),
        (FEATURES, Reply({Signal.FEATURES: torch.zeros(5, 9).half()}), "features"),
        (RELATIONS, Reply({Signal.RELATIONS: torch.eye(4).half()}), None),
        (RELATIONS, Reply({Signal.RELATIONS: torch.zeros(4, 3).half()}), r"expected \(4, 4\)"),
        (ACTIVATION, Reply({Signal.ACTIVATION: torch.tensor(0.5)}), None),
        (ACTIVATION, Reply({Signal.ACTIVATION: torch.tensor(0.5).half()}), "float32"),
        (ACTIVATION, Reply({Signal.ACTIVATION: torch.zeros(4)}), "activation"),
        (Ask(IMAGES), Reply(), "exactly the signals"),
        (Ask(IMAGES), Reply(logits().signals, IMAGES), "exactly the signals"),
        (PULL_BACK, logits(), "gradient alone"),
        (PULL_BACK, Reply(), "gradient alone"),
        (PULL_BACK, Reply(GAP, IMAGES), "gradient alone"),
        (PULL_BACK, Reply(gradient=IMAGES[:3]), r"expected \(4, 1, 2, 2\)"),
        (PULL_BACK, Reply(gradient=IMAGES.half()), "float32"),
    ],
    ids=range(27),
)
def test_an_answer_must_fit_its_question(
    request_: Ask | PullBack, reply: Reply, words: str | None
) -> None:
    pair = Pair(*OPENED, (COORDINATOR, Query(5, request_)))
    if words is None:
        pair.say(INSTITUTION, Answer(5, reply))
    else:
        pair.say_unlawfully(INSTITUTION, Answer(5, reply), words)
        pair.say(INSTITUTION, Declined(5, REFUSAL))  # the question is still open

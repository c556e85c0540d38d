"""Messages survive the wire unchanged, and nothing else gets through."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import LocalProtocolError, SettingsError
from fedkd.protocol import (
    Ask,
    Card,
    FrozenGenerator,
    Guarantee,
    NamedPrior,
    PullBack,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Signal,
)
from fedkd.wire import (
    Answer,
    Close,
    Declined,
    Hello,
    Invalid,
    Message,
    Query,
    RecipeQuery,
    Welcome,
    decode_from_coordinator,
    decode_from_institution,
    encode,
    one_line,
)
from fedkd.wire.cards import SIGNAL_NUMBERS
from fedkd.wire.payload_framing import MAX_MESSAGE_BYTES
from fedkd.wire.tensors import DTYPES
from fedkd.wire.v1 import teacher_pb2 as pb

ROOT = Path(__file__).parents[3]
FROM_COORDINATOR = (Welcome, Query, RecipeQuery)


def decode(message_or_bytes: Message | bytes, kind: type[Message]) -> Message | Invalid:
    data = message_or_bytes
    if not isinstance(data, bytes):
        data = encode(data)
    if issubclass(kind, FROM_COORDINATOR):
        return decode_from_coordinator(data)
    return decode_from_institution(data)


# --- every message there is

sizes = st.integers(1, 4)
numbers = st.integers(1, 2**64 - 1)
texts = st.text(max_size=40).map(one_line)


@st.composite
def tensors(draw: st.DrawFn, axes: int, *dtypes: torch.dtype, batch: int | None = None) -> Tensor:
    shape = [draw(sizes) for _ in range(axes)]
    if axes and batch is not None:
        shape[0] = batch
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(dtypes))
    if dtype is torch.uint8:
        return torch.randint(0, 256, shape, generator=random, dtype=dtype)
    return torch.rand(shape, generator=random).to(dtype)


@st.composite
def relations(draw: st.DrawFn, *dtypes: torch.dtype, batch: int) -> Tensor:
    return draw(tensors(2, *dtypes, batch=batch))[:, :1] * torch.ones(1, batch)


@st.composite
def said(draw: st.DrawFn, *dtypes: torch.dtype, batch: int, least: int) -> dict[Signal, Tensor]:
    chosen = draw(st.sets(st.sampled_from(Signal), min_size=least))
    forms = {
        Signal.LOGITS: tensors(2, *dtypes, batch=batch),
        Signal.FEATURES: tensors(2, *dtypes, batch=batch),
        Signal.BN_GAP: tensors(0, torch.float32),
        Signal.ACTIVATION: tensors(0, torch.float32),
        Signal.RELATIONS: relations(*dtypes, batch=batch),
    }
    return {signal: draw(forms[signal]) for signal in chosen}


@st.composite
def questions(draw: st.DrawFn) -> Query:
    images = draw(tensors(4, torch.uint8, torch.float32))
    if draw(st.booleans()):
        signals = draw(st.frozensets(st.sampled_from(Signal), min_size=1))
        exact, by_batch = draw(st.booleans()), draw(st.booleans())
        return Query(draw(numbers), Ask(images, signals, exact, batch_statistics=by_batch))
    cotangents = draw(said(torch.float32, batch=len(images), least=1))
    return Query(draw(numbers), PullBack(images, cotangents, draw(st.booleans())))


shares = st.floats(0, 1)
seeds = st.integers(0, 2**32 - 1)
digests = st.binary(min_size=16, max_size=16)


@st.composite
def named(draw: st.DrawFn) -> RecipeQuery:
    bits = draw(st.lists(st.booleans(), min_size=1, max_size=20))
    kept = torch.tensor(bits) if any(bits) and not all(bits) else None
    source = draw(
        st.builds(NamedPrior, texts.filter(bool), shares, shares)
        | st.builds(
            FrozenGenerator, st.integers(1, 2**31), digests, st.none() | tensors(1, torch.float16)
        )
    )
    recipe = Recipe(source, draw(seeds), len(bits), kept)
    signals = draw(st.frozensets(st.sampled_from(Signal), min_size=1))
    flags = draw(st.booleans()), draw(st.booleans())
    return RecipeQuery(draw(numbers), recipe, draw(digests), signals, *flags)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    signals = draw(said(torch.float16, torch.float32, batch=draw(sizes), least=0))
    gradient = draw(st.none() | tensors(4, torch.float32))
    return Answer(draw(numbers), Reply(signals, gradient))


positive = st.floats(0, exclude_min=True, allow_infinity=False)
words = texts.filter(bool).map(lambda text: text[:64])
guarantees = st.builds(
    Guarantee,
    epsilon=st.floats(1e-30, 1e30),
    delta=st.floats(0, 1, exclude_min=True, exclude_max=True),
    steps=st.integers(1, 2**63 - 1),
    noise_multiplier=positive,
    sampling_rate=st.floats(0, 1, exclude_min=True),
    clipping=positive,
    unit=words,
    adjacency=words,
    mechanism=words,
    accountant=words,
)


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    classes = draw(st.integers(1, 300))
    counts = st.lists(st.integers(0, 2**31 - 1), min_size=classes, max_size=classes)
    words = st.text(max_size=20).map(one_line)
    card = Card(
        name=draw(texts.filter(bool)),
        classes=classes,
        shape=draw(st.tuples(sizes, sizes, sizes)),
        signals=draw(st.frozensets(st.sampled_from(Signal))),
        pull_back=draw(st.booleans()),
        samples=draw(st.none() | st.integers(0, 2**60)),
        largest_batch=draw(st.integers(1, 2**31)),
        class_counts=draw(st.none() | counts.map(tuple)),
        scores=draw(st.booleans()),
        class_names=draw(st.none() | words.map(lambda w: tuple(f"{w}{i}" for i in range(classes)))),
        guarantee=draw(st.none() | guarantees),
        recipes=draw(seeds),
        batch_statistics=draw(st.booleans()),
    )
    return Hello(draw(st.integers(0, 2**32 - 1)), draw(texts), card)


messages = st.one_of(
    hellos(),
    st.builds(Welcome, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    questions(),
    named(),
    answers(),
    st.builds(Declined, numbers, st.builds(Refusal, st.sampled_from(Reason), texts)),
    st.builds(Close, texts),
)


def alike(one: object, other: object) -> bool:
    """Equal, tensors included in type, shape and every bit."""
    match one, other:
        case Tensor(), Tensor():
            return one.dtype == other.dtype and torch.equal(one, other)
        case dict(), dict():
            return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
        case (
            (
                Query()
                | RecipeQuery()
                | Recipe()
                | FrozenGenerator()
                | Answer()
                | Ask()
                | PullBack()
                | Reply()
            ),
            _,
        ):
            return type(one) is type(other) and alike(vars(one), vars(other))
    return one == other


# --- the same message, by the generated code alone


class Generated:
    """Writes a message as any plain gRPC client would."""

    def __init__(self) -> None:
        self.payload: list[bytes] = []

    def tensor(self, tensor: Tensor | None) -> pb.Tensor | None:
        if tensor is None:
            return None
        self.payload.append(tensor.numpy().tobytes())
        return pb.Tensor(dtype=DTYPES[tensor.dtype], shape=tensor.shape)

    def said(self, signals: dict[Signal, Tensor]) -> list[pb.Said]:
        order = [each for each in SIGNAL_NUMBERS if each in signals]
        return [pb.Said(signal=SIGNAL_NUMBERS[s], tensor=self.tensor(signals[s])) for s in order]

    def card(self, card: Card) -> pb.Card:
        fields = dict(vars(card))
        fields["channels"], fields["height"], fields["width"] = fields.pop("shape")
        fields["signals"] = sorted(SIGNAL_NUMBERS[signal] for signal in card.signals)
        if card.guarantee is not None:
            fields["guarantee"] = pb.Guarantee(**vars(card.guarantee))
        return pb.Card(**fields)

    def recipe(self, recipe: Recipe, images: bytes) -> pb.Recipe:
        bits = "" if recipe.kept is None else "".join(str(int(each)) for each in recipe.kept)
        padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
        fields: dict[str, object] = {
            "kept": bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))
        }
        match recipe.source:
            case NamedPrior(name, warp, mix):
                fields["prior"] = pb.Procedural(name=name, warp=warp, mix=mix)
            case FrozenGenerator(latent, digest, weights):
                told = self.tensor(weights)
                fields["network"] = pb.Network(latent=latent, digest=digest, weights=told)
        return pb.Recipe(seed=recipe.seed, count=recipe.count, images=images, **fields)

    def body(self, message: Message) -> dict[str, object]:
        match message:
            case Hello(version, token, card):
                return {"hello": pb.Hello(version=version, token=token, card=self.card(card))}
            case Welcome(version, packing):
                return {"welcome": pb.Welcome(version=version, packing=packing)}
            case Close(reason):
                return {"close": pb.Close(reason=reason)}
            case Declined(number, Refusal(reason, text)):
                named = pb.Reason.Value(f"REASON_{reason.name}")
                return {"refusal": pb.Refusal(id=number, reason=named, text=text)}
            case Answer(number, reply):
                signals, gradient = self.said(reply.signals), self.tensor(reply.gradient)
                return {"reply": pb.Reply(id=number, signals=signals, gradient=gradient)}
            case Query(number, Ask(images, signals, exact)):
                asked = sorted(SIGNAL_NUMBERS[signal] for signal in signals)
                dtype = DTYPES[torch.float32 if exact else torch.float16]
                images, by_batch = self.tensor(images), message.request.batch_statistics
                told = pb.Ask(id=number, images=images, signals=asked, reply_dtype=dtype)
                told.batch_statistics = by_batch
                return {"ask": told}
            case RecipeQuery(number, recipe, images, signals, exact, by_batch):
                asked = sorted(SIGNAL_NUMBERS[signal] for signal in signals)
                dtype = DTYPES[torch.float32 if exact else torch.float16]
                told = self.recipe(recipe, images)
                ask = pb.Ask(id=number, recipe=told, signals=asked, reply_dtype=dtype)
                ask.batch_statistics = by_batch
                return {"ask": ask}
            case Query(number, PullBack(images, cotangents, by_batch)):
                images, said = self.tensor(images), self.said(cotangents)
                pull = pb.PullBack(id=number, images=images, cotangents=said)
                pull.batch_statistics = by_batch
                return {"pull_back": pull}

    def bytes(self, message: Message) -> bytes:
        envelope = envelope_of(type(message))
        return envelope(**self.body(message), payload=self.payload).SerializeToString()


def envelope_of(kind: type[Message]) -> type[pb.ConnectRequest] | type[pb.ConnectResponse]:
    return pb.ConnectResponse if issubclass(kind, FROM_COORDINATOR) else pb.ConnectRequest


@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert alike(message, decode(message, type(message)))


@given(messages)
def test_bytes_are_those_of_the_generated_serializer(message: Message) -> None:
    assert encode(message) == Generated().bytes(message)


def test_either_side_may_say_close() -> None:
    data = encode(Close("enough"))
    assert decode_from_coordinator(data) == decode_from_institution(data) == Close("enough")


@settings(max_examples=25)
@given(messages)
def test_every_cut_message_is_invalid(message: Message) -> None:
    data = encode(message)
    for end in range(len(data)):
        assert isinstance(decode(data[:end], type(message)), Invalid), end


@given(messages, st.binary(min_size=1, max_size=20))
def test_trailing_bytes_never_change_what_was_said(message: Message, junk: bytes) -> None:
    said = decode(encode(message) + junk, type(message))
    assert_agrees_with_the_generated_parser(said, encode(message) + junk, type(message))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    for kind in (Hello, Query):
        assert_agrees_with_the_generated_parser(decode(data, kind), data, kind)


@settings(max_examples=400)
@given(messages, st.data())
def test_mutated_messages_are_taken_only_as_the_generated_parser_takes_them(
    message: Message, draws: st.DataObject
) -> None:
    data = bytearray(encode(message))
    for _ in range(draws.draw(st.integers(1, 3))):
        # Heads of messages are where structure is: contents alone would rarely say anything.
        at = draws.draw(st.integers(0, min(len(data), 60) - 1))
        match draws.draw(st.sampled_from(["set", "insert", "delete"])):
            case "set":
                data[at] = draws.draw(st.integers(0, 255))
            case "insert":
                data.insert(at, draws.draw(st.integers(0, 255)))
            case _ if len(data) > 1:
                del data[at]
    mutated = bytes(data)
    said = decode(mutated, type(message))
    assert_agrees_with_the_generated_parser(said, mutated, type(message))


def assert_agrees_with_the_generated_parser(
    said: Message | Invalid, data: bytes, kind: type[Message]
) -> None:
    try:
        parsed = envelope_of(kind).FromString(data)
    except DecodeError:
        assert isinstance(said, Invalid)
        return
    if isinstance(said, Invalid):
        # Ours is stricter in what is said, not in what a message is.
        assert said.reason not in ("bytes that are no message", "the message is cut short")
        return
    parsed.DiscardUnknownFields()
    if parsed.WhichOneof("body") == "close":
        parsed.close.reason = one_line(parsed.close.reason)
    if parsed.WhichOneof("body") == "refusal":
        parsed.refusal.text = one_line(parsed.refusal.text)
    assert parsed == envelope_of(kind).FromString(encode(said))


# --- what is refused, one by one


def ask(dtype: int = pb.DTYPE_UINT8, shape: tuple[int, ...] = (1, 1, 2, 2), **changes: object):
    """An Ask in bytes, lawful but for what is changed."""
    payload = changes.pop("payload", [bytes(4)])
    fields = {
        "id": 1,
        "images": pb.Tensor(dtype=dtype, shape=shape),
        "signals": [pb.SIGNAL_LOGITS],
        "reply_dtype": pb.DTYPE_FLOAT16,
    } | changes
    return pb.ConnectResponse(ask=pb.Ask(**fields), payload=payload).SerializeToString()


def floats(*values: float) -> list[bytes]:
    return [torch.tensor(values).numpy().tobytes()]


def test_the_ask_that_the_next_test_spoils_is_lawful() -> None:
    assert isinstance(decode_from_coordinator(ask()), Query)
    unit = ask(pb.DTYPE_FLOAT32, payload=floats(0.0, 0.5, 1.0, 0.25))
    assert isinstance(decode_from_coordinator(unit), Query)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "without a body"),
        (b"\xff" * 40, "number"),
        (b"\x7a\x00" * 10**6, "more than 32 fields"),
        (b"\0" * (MAX_MESSAGE_BYTES + 1), "smaller batches"),
        (b"\x0a\x80\x80\x80\x01" + bytes(2 << 20), "a body of"),
        (ask(id=0), "number"),
        (ask(signals=[]), "no signal"),
        (ask(signals=[9]), "unknown signal"),
        (ask(signals=[pb.SIGNAL_UNSPECIFIED]), "unknown signal"),
        (ask(signals=[1, 1]), "twice"),
        (ask(signals=[2, 1]), "out of order"),
        (ask(reply_dtype=pb.DTYPE_UINT8), "float16 or float32"),
        (ask(reply_dtype=77), "float16 or float32"),
        (ask(dtype=77), "another type"),
        (ask(dtype=pb.DTYPE_FLOAT16, payload=[bytes(8)]), "another type"),
        (ask(shape=(1, 1, 2, 3)), "4 bytes for images"),
        (ask(shape=(1, 2, 2)), "3 axes"),
        (ask(shape=(1,) * 10_000), "too many axes"),
        (ask(shape=(0, 1, 2, 2), payload=[b""]), "it is empty"),
        (ask(shape=(65536,) * 4, payload=[b""]), "0 bytes for images"),
        (ask(shape=(2**32 - 1,) * 4), "4 bytes for images"),
        (ask(payload=[]), "0 bytes for images"),
        (ask(payload=[bytes(4), b""]), "more payloads"),
        (ask(payload=[bytes(2), bytes(2)]), "2 bytes for images"),
        (ask(pb.DTYPE_FLOAT32, payload=floats(0, 0, 0, 1.001)), "out of"),
        (ask(pb.DTYPE_FLOAT32, payload=floats(-0.001, 0, 0, 0)), "out of"),
        (ask(pb.DTYPE_FLOAT32, payload=floats(0, float("nan"), 0, 0)), "not finite"),
        (ask(pb.DTYPE_FLOAT32, payload=floats(0, 0, 0, float("inf"))), "not finite"),
    ],
)
def test_unlawful_questions_are_invalid_with_a_reason(data: bytes, words: str) -> None:
    said = decode_from_coordinator(data)
    assert isinstance(said, Invalid)
    assert words in said.reason


def test_a_nan_is_found_wherever_it_stands() -> None:
    for dtype, half in ((torch.float16, 2), (torch.float32, 4)):
        clean = bytearray(encode(Answer(1, Reply({Signal.LOGITS: torch.ones(7, 11, dtype=dtype)}))))
        nan = torch.tensor(float("nan"), dtype=dtype).numpy().tobytes()
        for at in range(77):
            start = len(clean) - (77 - at) * half
            spoilt = clean[:start] + nan + clean[start + half :]
            assert isinstance(decode_from_institution(bytes(spoilt)), Invalid)
        assert isinstance(decode_from_institution(bytes(clean)), Answer)


CARD = Card("north", 3, (1, 8, 8), frozenset({Signal.LOGITS}))
GUARANTEE = Guarantee(1.0, 1e-5, 1, 1.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a" * 65),
        ("name", "red\x1b[31m"),
        ("classes", 0),
        ("shape", (1, 0, 8)),
        ("largest_batch", 0),
        ("class_counts", (1, 2)),
        ("class_counts", (1, 2, 3, 4)),
        ("class_names", ("ape", "bee")),
        ("class_names", ("ape", "bee", "cat", "dog")),
        ("class_names", ("ape", "bee", "ape")),
        ("class_names", ("ape", "bee", "")),
        ("class_names", ("ape", "bee", "c" * 65)),
        ("class_names", ("ape", "bee", "red\x1b[31m")),
        ("classes", 10_001),
        ("class_counts", (1, 2, 2**64 - 1)),
        ("class_counts", (1, 2, 2**31)),
        ("shape", (2**31, 2**31, 2**31)),
        ("shape", (65, 8, 8)),
        ("shape", (1, 4097, 8)),
        ("shape", (2, 4096, 4096)),
        ("largest_batch", 2**31 + 1),
        ("samples", 2**63),
        ("guarantee", replace(GUARANTEE, steps=2**63)),
        ("guarantee", replace(GUARANTEE, epsilon=5e-324)),
        ("guarantee", replace(GUARANTEE, epsilon=1e308)),
        ("fedkd_version", "0" * 65),
        ("fedkd_version", "red\x1b[31m"),
    ],
)
def test_impossible_cards_are_refused_on_both_sides(field: str, value: object) -> None:
    hello = Hello(1, "token", Card(**(vars(CARD) | {field: value})))
    with pytest.raises(LocalProtocolError):
        encode(hello)
    assert isinstance(decode_from_institution(Generated().bytes(hello)), Invalid)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -1.0),
        ("epsilon", float("nan")),
        ("epsilon", float("inf")),
        ("delta", 0.0),
        ("delta", 1.0),
        ("steps", 0),
        ("noise_multiplier", 0.0),
        ("sampling_rate", 1.5),
        ("sampling_rate", float("nan")),
        ("clipping", -1.0),
        ("mechanism", ""),
        ("unit", "a" * 65),
        ("adjacency", "red\x1b[31m"),
        ("version", 0),
        ("version", 2),
    ],
)
def test_a_promise_that_cannot_be_is_refused(field: str, value: object) -> None:
    promise = vars(Guarantee(3.0, 1e-5, 600, 1.9, 0.05, 1.0)) | {field: value}
    with pytest.raises(SettingsError):
        Guarantee(**promise)
    hello = Generated().body(Hello(1, "token", CARD))["hello"]
    hello.card.guarantee.CopyFrom(pb.Guarantee(**promise))
    heard = decode_from_institution(pb.ConnectRequest(hello=hello).SerializeToString())
    assert heard == Invalid("a card with a guarantee that cannot be")


IMAGES = torch.zeros(2, 1, 3, 3)


@pytest.mark.parametrize(
    "message",
    [
        Query(0, Ask(IMAGES)),
        Query(2**64, Ask(IMAGES)),
        Query(1, Ask(IMAGES, frozenset())),
        Query(1, Ask(IMAGES.double())),
        Query(1, Ask(IMAGES[0])),
        Query(1, Ask(IMAGES[:0])),
        Query(1, Ask(IMAGES + 2)),
        Query(1, PullBack(IMAGES, {})),
        Query(1, PullBack(IMAGES, {Signal.LOGITS: torch.zeros(3, 5)})),
        Query(1, PullBack(IMAGES, {Signal.LOGITS: torch.zeros(2, 5).half()})),
        Query(1, Ask(torch.zeros(1, 1, 8192, 8193, dtype=torch.uint8))),
        Answer(1, Reply({Signal.BN_GAP: torch.tensor(1.0).half()})),
        Answer(1, Reply({Signal.LOGITS: torch.tensor([[float("inf")]])})),
        Answer(1, Reply(gradient=torch.zeros(2, 1, 3, 3, dtype=torch.float64))),
        Close("x" * (2 << 20)),
        Close("\ud800"),
    ],
    ids=range(16),
)
def test_what_the_other_side_would_not_take_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message)


def test_text_from_elsewhere_is_fit_for_a_screen() -> None:
    said = decode_from_institution(encode(Close("\x1b[2Jbye\nbye" + "x" * 1000)))
    assert isinstance(said, Close)
    assert said.reason.startswith(" [2Jbye bye")
    assert len(said.reason) == 500
    assert said.reason.isprintable()


def test_the_token_is_never_printed() -> None:
    assert "secret" not in repr(Hello(1, "secret", CARD))


def test_images_are_read_without_a_copy() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(2, 1, 10, 10)
    data = encode(Query(1, Ask(images)))
    said = decode_from_coordinator(data)
    start = torch.frombuffer(data, dtype=torch.uint8).data_ptr()
    assert said.request.images.data_ptr() == start + len(data) - 200


def test_floats_stand_where_a_processor_wants_them() -> None:
    for shift in range(8):
        data = encode(Query(2 ** (7 * shift) + 1, Ask(torch.rand(3, 1, 5, 5))))
        assert decode_from_coordinator(data).request.images.data_ptr() % 4 == 0


def test_tensors_that_are_not_contiguous_or_need_gradients_are_sent_as_they_read() -> None:
    images = torch.rand(4, 6, 5, 3, requires_grad=True).permute(0, 3, 1, 2)
    said = decode_from_coordinator(encode(Query(1, Ask(images))))
    assert torch.equal(said.request.images, images.detach())


def test_committed_stubs_are_those_of_the_protocol_file(tmp_path: Path) -> None:
    made = ("--python_out", "--pyi_out")
    source = "fedkd/wire/v1/teacher.proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "protos")]
        + [f"{option}={tmp_path}" for option in made]
        + [source],
        check=True,
        timeout=60,
    )
    for name in ("teacher_pb2.py", "teacher_pb2.pyi"):
        committed = (ROOT / "fedkd/wire/v1" / name).read_text()
        assert (tmp_path / "fedkd/wire/v1" / name).read_text() == committed, (
            f"{name} is stale: python -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. "
            + source
        )

"""Scores travel a byte a class: what rounding promises, and that packing loses nothing of it."""

import asyncio
import struct
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.client.release.noiseless import one_hot_logits, round_probabilities, top_k_logits
from fedkd.client.sessions.agent import Agent
from fedkd.errors import LocalProtocolError
from fedkd.protocol import Ask, PullBack, Reply, Signal, rounded
from fedkd.protocol.logit_quantisation import (
    MAX_EXPONENT,
    MAX_SPAN_EXPONENT,
    MAX_STEP_INDEX,
    MAX_STEPS,
    MIN_EXPONENT,
)
from fedkd.server.hub.hub import Hub
from fedkd.wire import (
    VERSION,
    Answer,
    Invalid,
    Query,
    Replay,
    ReplyRecorder,
    Welcome,
    decode_from_institution,
    encode,
)
from fedkd.wire.grpc_channels import create_server, grpc
from fedkd.wire.logit_packing import PACKING_VERSION, ROW_HEADER_BYTES, UNPACKED, pack, unpack
from fedkd.wire.v1 import teacher_pb2 as pb
from tests.support.hub_clients import (
    IMAGES,
    QUICK,
    SOON,
    TOKEN,
    RawClient,
    agents,
    card,
    encode_answer,
)

LOGITS = Signal.LOGITS
WIDE = MAX_STEPS * 2.0**MAX_SPAN_EXPONENT
"""A row that spans more has no grid."""


def told(rows: Tensor) -> Tensor:
    return rounded(rows, LOGITS, exact=False)


def contents(rows: Tensor) -> memoryview | None:
    packed = pack(rows)
    return None if packed is None else memoryview(packed.tobytes())


def same(one: Tensor, other: Tensor) -> bool:
    """In every bit."""
    return one.dtype == other.dtype == torch.float16 and torch.equal(
        one.view(torch.int16), other.view(torch.int16)
    )


# --- rows as they come

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
scores = st.floats(-40, 40, width=32)
near = st.builds(
    lambda middle, offs: [middle + off for off in offs],
    floats | scores,
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
)
lists = st.lists(scores, min_size=1, max_size=12) | st.lists(floats, min_size=1, max_size=12) | near


@st.composite
def batches(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> Tensor:
    classes = draw(st.integers(1, 12))
    row = st.lists(numbers, min_size=classes, max_size=classes)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=6)), dtype=torch.float32)


def exponent(row: list[float]) -> int | None:
    """By the definition: the least k, in exact arithmetic; None where the row has no grid."""
    exact = [Fraction(each) for each in row]
    span, reach = max(exact) - min(exact), max(abs(each) for each in exact)
    if span > WIDE:
        return None
    fit = (
        k
        for k in range(MIN_EXPONENT, MAX_EXPONENT + 1)
        if span <= MAX_STEPS * Fraction(2) ** k and reach <= MAX_STEP_INDEX * Fraction(2) ** k
    )
    return next(fit, None)


# --- rounding


@given(lists)
@example([0.5 / 16, 255.5 / 16])
@example([-1024.0, -1023.875])
def test_a_row_is_rounded_to_the_grid_of_its_definition(row: list[float]) -> None:
    rows = torch.tensor([row])
    said = told(rows)[0]
    k = exponent(rows[0].tolist())
    if k is None:
        assert same(said, rows[0].clamp(-65504, 65504).half())
        return
    step = Fraction(2) ** k
    for was, now in zip(rows[0].tolist(), said.tolist(), strict=True):
        assert Fraction(now) % step == 0
        assert abs(Fraction(now) - Fraction(was)) <= step / 2 * (1 + Fraction(1, 10**6))
    assert max(said.tolist()) - min(said.tolist()) <= MAX_STEPS * 2.0**k
    assert not bool((torch.signbit(said) & (said == 0)).any())


@given(lists)
def test_no_two_classes_change_places_and_those_far_apart_stay_apart(row: list[float]) -> None:
    rows = torch.tensor([row])
    said = told(rows)[0].tolist()
    k = exponent(rows[0].tolist())
    order = sorted(range(len(row)), key=lambda i: rows[0, i].item())
    assert all(said[i] <= said[j] for i, j in pairwise(order))
    # So another class than before comes first only among those that were nearly as likely.
    first, now = int(rows[0].argmax()), int(torch.tensor(said).argmax())
    if k is not None:
        assert rows[0, first].double() - rows[0, now].double() <= 2.0**k * (1 + 1e-6)


@given(st.lists(scores, min_size=1, max_size=12))
def test_what_is_told_is_within_a_five_hundredth_of_a_nat(row: list[float]) -> None:
    rows = torch.tensor([row])
    k = exponent(row)
    assume(k is not None)
    was, now = rows.double().log_softmax(1), told(rows).double().log_softmax(1)
    divergence = float((was.exp() * (was - now)).sum())
    assert divergence <= 4.0**k / 8 + 1e-12 <= 1 / 512 + 1e-12


@given(batches(scores | floats))
def test_rounding_is_of_each_row_alone_and_happens_once(rows: Tensor) -> None:
    said = told(rows)
    assert same(said, told(said.float()))
    assert all(same(told(row[None])[0], alone) for row, alone in zip(rows, said, strict=True))


def test_what_is_no_number_stays_none_and_harms_no_other_row() -> None:
    rows = torch.tensor([[1.0, 2.0], [float("nan"), 1.0], [float("inf"), 0.0], [3.0, -1e6]])
    said = told(rows)
    assert said[0].tolist() == [1.0, 2.0]
    assert bool(said[1].isnan()[0])
    assert said[2:].tolist() == [[65504.0, 0.0], [3.0, -65504.0]]


def test_only_logits_that_need_not_be_exact_are_put_on_grids() -> None:
    rows = torch.linspace(-3, 5, 21).view(3, 7)
    assert torch.equal(rounded(rows, LOGITS, exact=True), rows)
    assert same(rounded(rows, Signal.FEATURES, exact=False), rows.half())
    assert torch.equal(rounded(rows[0, 0], Signal.BN_GAP, exact=False), rows[0, 0])


# --- the modes of release

random_rows = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 6


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 65_536])
def test_a_label_is_told_as_it_is(classes: int) -> None:
    labels = torch.tensor([0, classes - 1, classes // 2])
    rows = one_hot_logits(labels, classes)
    assert torch.equal(told(rows).float(), rows)
    assert torch.equal(rows.argmax(1), labels)
    if classes > ROW_HEADER_BYTES:
        assert len(contents(told(rows)) or b"") == 3 * (ROW_HEADER_BYTES + classes)


def test_the_likeliest_classes_are_told_and_the_others_share_evenly() -> None:
    said = told(top_k_logits(random_rows, 2))
    assert all(len(row.unique()) <= 3 for row in said)
    ranked = random_rows.argsort(1, descending=True)
    best = said.gather(1, ranked)
    assert bool((best[:, 0] >= best[:, 1]).all())
    assert bool((best[:, 1:2] >= best[:, 2:]).all())
    assert bool((best[:, 2:] == best[:, 2:3]).all())


def test_rounded_probabilities_stay_within_half_a_step() -> None:
    exact = round_probabilities(random_rows, 2)
    said = told(exact).float()
    assert float((said - exact).abs().max()) <= 1 / 64, "of a row that spans 5.3"
    assert bool(
        ((exact[:, :, None] == exact[:, None]) <= (said[:, :, None] == said[:, None])).all()
    )


# --- packing

anything = st.integers(0, 2**16 - 1).map(
    lambda bits: struct.unpack("<e", struct.pack("<H", bits))[0]
)
finite = anything.filter(lambda number: abs(number) <= 65504)


@example(told(torch.tensor([[0.5 / 16, 255.5 / 16, 1.0, 2.0, 3.0]])))
@example(torch.tensor([[-0.0, 0.0, 1.0, 2.0, 3.0]]).half())
@given(batches(scores | floats).map(told) | batches(finite | scores).map(Tensor.half))
def test_what_is_packed_comes_back_bit_for_bit(rows: Tensor) -> None:
    packed = contents(rows)
    if packed is not None:
        assert len(packed) < rows.nbytes
        assert same(unpack(packed, *rows.shape), rows)


@given(batches(scores).filter(lambda rows: rows.shape[1] > ROW_HEADER_BYTES))
def test_a_row_on_a_grid_costs_a_byte_a_class_and_three(rows: Tensor) -> None:
    batch, classes = rows.shape
    wide = sum(exponent(row) is None for row in rows.tolist())
    expected = batch * (ROW_HEADER_BYTES + classes) + wide * classes
    packed = contents(told(rows))
    assert (2 * batch * classes if packed is None else len(packed)) == min(
        expected, 2 * batch * classes
    )


def by_hand(rows: list[list[float]]) -> bytes:
    """Rows on grids, or too wide for one, as the protocol file has it."""
    heads, firsts, codes, plain = b"", b"", b"", b""
    for row in rows:
        k = exponent(row)
        first = 0 if k is None else round(min(row) / 2**k)
        heads += struct.pack("<b", UNPACKED if k is None else k)
        firsts += struct.pack("<h", first)
        if k is None:
            plain += struct.pack(f"<{len(row)}e", *row)
        else:
            codes += bytes(round(each / 2**k) - first for each in row)
    return heads + firsts + codes + plain


def test_bytes_are_those_of_the_protocol_file_both_ways() -> None:
    rows = told(torch.cat([random_rows, random_rows[:20] * 9, random_rows[:5] / 1e4]))
    packed = contents(rows)
    assert packed is not None
    assert bytes(packed) == by_hand(rows.tolist())
    assert same(unpack(memoryview(by_hand(rows.tolist())), *rows.shape), rows)
    message = encode(Answer(1, Reply({LOGITS: rows})), packed=True)
    generated = encode_answer(1, pb.DTYPE_ROWS, tuple(rows.shape), bytes(packed))
    assert message == generated
    heard = decode_from_institution(generated)
    assert isinstance(heard, Answer)
    assert same(heard.reply.signals[LOGITS], rows)


def test_a_zero_keeps_its_sign_and_few_classes_are_not_packed() -> None:
    rows = torch.tensor([[-0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0] * 8, [1.0] * 8]).half()
    packed = contents(rows)
    assert packed is not None
    assert struct.unpack("<3b", packed[:3]) == (UNPACKED, MIN_EXPONENT, -10)
    assert same(unpack(packed, 3, 8), rows)
    assert pack(told(torch.rand(5, 3))) is None
    assert pack(told(torch.rand(5, 4))) is not None


def test_nothing_but_logits_in_float16_is_packed() -> None:
    same_number = torch.ones(4, 9)
    for reply in (
        Reply({LOGITS: same_number}),
        Reply({Signal.FEATURES: same_number.half()}),
        Reply(gradient=torch.zeros(1, 1, 3, 3)),
    ):
        answer = Answer(1, reply)
        assert encode(answer, packed=True) == encode(answer)


# --- garbage


@given(st.binary(max_size=60), st.integers(1, 6), st.integers(1, 12))
def test_any_bytes_are_rows_of_float16_or_refused(data: bytes, batch: int, classes: int) -> None:
    try:
        rows = unpack(memoryview(data), batch, classes)
    except LocalProtocolError:
        return
    assert (tuple(rows.shape), rows.dtype) == ((batch, classes), torch.float16)
    exponents = np.frombuffer(data, np.int8, batch)
    assert bool(rows[torch.from_numpy(exponents != UNPACKED)].isfinite().all())


@settings(max_examples=200)
@given(st.integers(0, 400), st.binary(max_size=6))
def test_a_spoilt_answer_is_one_or_none_and_never_raises(at: int, junk: bytes) -> None:
    rows = told(torch.cat([random_rows[:20], random_rows[:2] * 20]))
    data = bytearray(encode(Answer(1, Reply({LOGITS: rows})), packed=True))
    data[at : at + len(junk)] = junk
    heard = decode_from_institution(bytes(data))
    if isinstance(heard, Answer) and LOGITS in heard.reply.signals:
        assert bool(heard.reply.signals[LOGITS].isfinite().all())


def rows_in_bytes(
    heads: tuple[int, ...], firsts: tuple[int, ...], rest: bytes, classes: int = 8
) -> bytes:
    content = struct.pack(f"<{len(heads)}b{len(firsts)}h", *heads, *firsts) + rest
    return encode_answer(1, pb.DTYPE_ROWS, (len(heads), classes), content)


NUMBERS = struct.pack("<8e", *range(8))
SPOILT = {
    "23 bytes": (rows_in_bytes((0, 0), (0, 0), bytes(17)), "23 bytes for packed rows"),
    "a step too many": (rows_in_bytes((0,), (0,), bytes(9)), "12 bytes for packed rows"),
    "not even heads": (encode_answer(1, pb.DTYPE_ROWS, (99, 8), bytes(9)), "for 99 packed rows"),
    "rows as long as float16's": (rows_in_bytes((0,), (0,), bytes(3), 3), "6 bytes for packed"),
    "all of them on no grid": (rows_in_bytes((UNPACKED,), (0,), NUMBERS), "19 bytes for packed"),
    "steps too fine": (rows_in_bytes((MIN_EXPONENT - 1,), (0,), bytes(8)), "steps that float16"),
    "steps too coarse": (rows_in_bytes((MAX_EXPONENT + 1,), (0,), bytes(8)), "steps that float16"),
    "steps too low": (rows_in_bytes((0,), (-2048,), bytes(8)), "numbers that float16"),
    "steps too high": (rows_in_bytes((0,), (2047,), bytes(7) + b"\1"), "numbers that float16"),
    "a first of no grid": (
        rows_in_bytes((0,) * 5 + (UNPACKED,), (1,) * 6, bytes(40) + NUMBERS),
        "without a grid",
    ),
    "not finite": (
        rows_in_bytes((0,) * 5 + (UNPACKED,), (1,) * 5 + (0,), bytes(40) + b"\xff" * 16),
        "not finite",
    ),
    "of more axes": (encode_answer(1, pb.DTYPE_ROWS, (1, 8, 1), bytes(11)), "axes"),
    "of no class": (encode_answer(1, pb.DTYPE_ROWS, (1, 0), bytes(3)), "it is empty"),
}


@pytest.mark.parametrize(("data", "words"), SPOILT.values(), ids=SPOILT)
def test_what_no_institution_packs_is_invalid_with_a_reason(data: bytes, words: str) -> None:
    heard = decode_from_institution(data)
    assert isinstance(heard, Invalid)
    assert words in heard.reason


@pytest.mark.parametrize(
    ("signal", "shape"), [(pb.SIGNAL_FEATURES, (1, 8)), (pb.SIGNAL_BN_GAP, ())]
)
def test_no_other_signal_may_come_packed(signal: int, shape: tuple[int, ...]) -> None:
    tensor = pb.Tensor(dtype=pb.DTYPE_ROWS, shape=shape)
    reply = pb.Reply(id=1, signals=[pb.Said(signal=signal, tensor=tensor)])
    data = pb.ConnectRequest(reply=reply, payload=[bytes(11)]).SerializeToString()
    heard = decode_from_institution(data)
    assert isinstance(heard, Invalid)
    assert "another type" in heard.reason


# --- who packs, and for whom


ASK = Ask(IMAGES)
SCORES = told(random_rows[:4, :5])


def knowing(request: Ask | PullBack) -> Reply:
    return Reply({LOGITS: SCORES})


def answered(welcome: bytes) -> bytes:
    """What an agent says to a coordinator that takes it in with these bytes, and asks it."""
    said: list[bytes] = []
    address: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async def connect(stream: grpc.aio.ServicerContext) -> None:
            await stream.read()
            await stream.write(welcome)
            await stream.write(encode(Query(1, ASK)))
            said.append(await stream.read())
            done.set()

        server, port = create_server(connect, "127.0.0.1:0", None, 1 << 20)
        await server.start()
        address.append(f"127.0.0.1:{port}")
        ready.set()
        await asyncio.to_thread(done.wait, SOON)
        await server.stop(0)

    serving = threading.Thread(target=lambda: asyncio.run(serve()))
    serving.start()
    assert ready.wait(SOON)
    agent = Agent(
        address[0], TOKEN, card("north"), knowing, reconnect=replace(QUICK, give_up_after=0.0)
    )
    speaking = threading.Thread(target=agent.serve)
    speaking.start()
    for thread in (serving, speaking):
        thread.join(SOON)
        assert not thread.is_alive()
    return said[0]


@pytest.mark.parametrize("packing", [0, PACKING_VERSION, PACKING_VERSION + 1])
def test_an_institution_packs_for_whoever_reads_it(packing: int) -> None:
    older = pb.ConnectResponse(welcome=pb.Welcome(version=VERSION)).SerializeToString()
    data = answered(encode(Welcome(VERSION, packing)) if packing else older)
    answer = Answer(1, Reply({LOGITS: SCORES}))
    assert data == encode(answer, packed=packing == PACKING_VERSION)
    heard = decode_from_institution(data)
    assert isinstance(heard, Answer)
    assert same(heard.reply.signals[LOGITS], SCORES)


def test_a_hub_hears_the_same_of_older_institutions() -> None:
    with Hub(TOKEN) as hub, agents(hub, new=knowing):
        old = RawClient(hub)
        old.join("old")
        outcomes = {name: hub.submit(name, ASK) for name in ("old", "new")}
        assert isinstance(old.receive(), Query)
        old.send(Answer(1, Reply({LOGITS: SCORES})))
        for outcome in outcomes.values():
            reply = outcome.result(SOON)
            assert isinstance(reply, Reply)
            assert same(reply.signals[LOGITS], SCORES)
        saved = hub.counters["old"].bytes_received - hub.counters["new"].bytes_received
        assert saved == SCORES.nbytes - 4 * (ROW_HEADER_BYTES + 5)
        old.close()


def test_a_journal_keeps_what_would_travel(tmp_path: Path) -> None:
    rows = told(torch.cat([random_rows, random_rows[:7] * 20]))
    packed = contents(rows)
    assert packed is not None
    recorder = ReplyRecorder(tmp_path / "new")
    recorder.start([card("north")])
    recorder.append(ASK, {"north": Reply({LOGITS: rows})})
    recorder.close()
    assert bytes(packed) in (tmp_path / "new").read_bytes()
    heard = Replay(tmp_path / "new").answer(ASK)["north"].signals[LOGITS]
    assert same(heard, rows)

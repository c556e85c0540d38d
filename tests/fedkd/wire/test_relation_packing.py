"""Packed relations: lossless, a byte for each pair, and nothing else passes for them."""

import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol import Reply, Signal, cosine_relations, rounded
from fedkd.wire import Answer, decode_from_institution, encode
from fedkd.wire.relation_packing import pack_relations, unpack_relations

RELATIONS = Signal.RELATIONS
seeds = st.integers(0, 2**32)


def features(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), seeds)
def test_rounding_keeps_what_relations_are(rows: int, seed: int) -> None:
    exact = cosine_relations(features(rows, seed))
    sent = rounded(exact, RELATIONS, exact=False)
    assert sent.dtype == torch.float16
    assert torch.equal(sent, sent.T)
    assert bool((sent.diagonal() == 1).all())
    assert float((sent.float() - exact).abs().max()) <= 0.5 / 127 + 5e-4
    assert torch.equal(rounded(exact, RELATIONS, exact=True), exact)


@given(st.integers(1, 40), seeds)
def test_packing_loses_nothing(rows: int, seed: int) -> None:
    sent = rounded(cosine_relations(features(rows, seed)), RELATIONS, exact=False)
    packed = pack_relations(sent)
    assert packed is not None
    assert packed.nbytes == rows * (rows + 1) // 2
    assert torch.equal(unpack_relations(memoryview(packed.tobytes()), rows, rows), sent)


def test_what_an_institution_sends_packed_takes_little_more_memory_than_its_relations() -> None:
    rows = 1500
    packed = memoryview(bytes(rows * (rows + 1) // 2))
    tracemalloc.start()
    try:
        relations = unpack_relations(packed, rows, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * relations.nbytes


def test_a_rotation_of_the_features_changes_no_relation() -> None:
    own = features(9, 0).double()
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    torch.testing.assert_close(cosine_relations(own @ rotation), cosine_relations(own))
    assert float(cosine_relations(torch.zeros(2, 3)).abs().max()) == 0


def test_what_is_not_on_the_grid_travels_unpacked() -> None:
    for odd in (torch.tensor([[1.0, 0.3], [0.3, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])):
        assert pack_relations(odd.half()) is None
        message = Answer(3, Reply({RELATIONS: odd.half()}))
        back = decode_from_institution(encode(message, packed=True))
        assert isinstance(back, Answer)
        assert torch.equal(back.reply.signals[RELATIONS], odd.half())


def test_packed_relations_pass_through_a_message() -> None:
    sent = rounded(cosine_relations(features(64, 3)), RELATIONS, exact=False)
    message = Answer(3, Reply({RELATIONS: sent}))
    packed, plain = encode(message, packed=True), encode(message)
    assert len(plain) > 3.9 * (len(packed) - 60)
    for data in (packed, plain):
        back = decode_from_institution(data)
        assert isinstance(back, Answer)
        assert torch.equal(back.reply.signals[RELATIONS], sent)


@pytest.mark.parametrize(
    ("contents", "shape", "words"),
    [
        (bytes(3), (2, 3), "3 bytes"),
        (bytes(2), (2, 2), "2 bytes"),
        (b"\x7f\x80\x7f", (2, 2), "below -1"),
    ],
)
def test_other_contents_are_refused(contents: bytes, shape: tuple[int, int], words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        unpack_relations(memoryview(contents), *shape)

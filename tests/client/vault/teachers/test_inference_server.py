"""Inference servers as teachers: real HTTP on loopback, from servers good and bad."""

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trustme
from torch import Tensor

from fedkd.client.institution import Institution
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.formats import open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec, spec_from_table
from fedkd.errors import DataError, SettingsError
from fedkd.models import build_network
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Reason, Refusal, Reply, Signal

SHAPE = (1, 8, 8)
NETWORK = build_network("mlp", 10, SHAPE, 0).eval()
SECRET = "a path of the server's"
Answer = dict[str, Any]
Change = Callable[[Answer], Any]


class Server:
    """Speaks the protocol over REST for `NETWORK`; a test may spoil what it says.

    Args:
        shape: of the described input.
        outputs: logits, or probabilities.
    """

    def __init__(self, shape: tuple[int, ...] = (-1, *SHAPE), outputs: str = "logits") -> None:
        self.shape, self.outputs = list(shape), outputs
        self.describe: Change = lambda described: described
        self.answer: Change = lambda answered: answered
        self.seen: list[int] = []
        """Images of each request."""

    def metadata(self) -> Answer:
        return {
            "name": "digits",
            "platform": "torch",
            "inputs": [{"name": "pixels", "datatype": "FP32", "shape": self.shape}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
        }

    def infer(self, question: Answer) -> Answer:
        (pixels,) = question["inputs"]
        assert (pixels["name"], pixels["datatype"]) == ("pixels", "FP32")
        assert question["outputs"] == [{"name": "scores"}]
        images = torch.tensor(pixels["data"]).reshape(pixels["shape"])
        self.seen.append(len(images))
        with torch.no_grad():
            said = NETWORK(images.reshape(-1, *SHAPE))
        said = said.softmax(1) if self.outputs == "probabilities" else said
        data = said.flatten().tolist()
        scores = {"name": "scores", "datatype": "FP32", "shape": list(said.shape), "data": data}
        return {"model_name": "digits", "outputs": [scores]}


@contextmanager
def serving(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The source of a model that is served on loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/v2/models/digits"
            self.reply(server.describe(server.metadata()))

        def do_POST(self) -> None:
            assert self.path == "/v2/models/digits/infer"
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(server.answer(server.infer(question)))

        def reply(self, said: Any) -> None:
            if callable(said):  # it writes for itself, and ill
                said(self)
                return
            status, content = said if isinstance(said, tuple) else (200, said)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing to the terminal."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client went away
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    scheme = "http" if tls is None else "https"
    try:
        yield f"oip:{scheme}://127.0.0.1:{listening.server_address[1]}/v2/models/digits"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(10)


def spec(source: str, **words: Any) -> TeacherSpec:
    return TeacherSpec(source, SHAPE, **{"classes": 10, "timeout": 10.0, **words})


def images(count: int = 5) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *SHAPE), generator=rng, dtype=torch.uint8)


def institution(source: str, **words: Any) -> Institution:
    return Institution("north", ExternalVault(spec(source, **words)), Policy())


def said(north: Institution, asked: Tensor) -> Tensor:
    reply = north.answer(Ask(asked, exact=True))
    assert isinstance(reply, Reply)
    return reply.signals[Signal.LOGITS]


def truth(asked: Tensor) -> Tensor:
    with torch.no_grad():
        return NETWORK(asked.float() / 255)


@pytest.mark.parametrize("shape", [(-1, *SHAPE), (-1, 64), (3, *SHAPE), (-1, 1, -1, -1)])
def test_a_server_answers_as_its_model_does(shape: tuple[int, ...]) -> None:
    server = Server(shape)
    with serving(server) as source:
        north = institution(source, batch=3)
        assert north.card.signals == {Signal.LOGITS}
        assert not north.card.pull_back
        server.seen.clear()
        torch.testing.assert_close(said(north, images(7)), truth(images(7)), rtol=1e-4, atol=1e-5)
        assert server.seen == ([3, 3, 3] if shape[0] == 3 else [3, 3, 1])


def test_of_probabilities_the_logarithm_is_taken() -> None:
    with serving(Server(outputs="probabilities")) as source:
        logits = said(institution(source, outputs="probabilities"), images())
    expected = truth(images()).log_softmax(1).clamp_min(float(np.log(1e-7)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_logits_are_not_taken_for_probabilities() -> None:
    with serving(Server()) as source, pytest.raises(DataError, match="no probabilities"):
        open_teacher(spec(source, outputs="probabilities"))


def test_a_server_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    (tmp_path / "none.pem").write_text("none")
    with serving(Server(), tls) as source:
        north = institution(source, ca=Path("ca.pem"), folder=tmp_path)
        torch.testing.assert_close(said(north, images()), truth(images()), rtol=1e-4, atol=1e-5)
        with pytest.raises(DataError, match="SSLCertVerificationError"):
            open_teacher(spec(source, ca=tmp_path / "stranger.pem"))
        with pytest.raises(DataError, match="give a PEM file"):
            open_teacher(spec(source, ca=tmp_path / "none.pem"))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/v2/models/digits",
        "http://127.0.0.1:99999/v2/models/digits",
        "http://127.0.0.1:8080/v1/models/digits",
        "http://127.0.0.1:8080/v2/models/",
        "http://127.0.0.1:8080/v2/models/digits?a=1",
        "http://127.0.0.1:8080/v2/models/digits#a",
        "http://me:word@127.0.0.1:8080/v2/models/digits",
        "http:" + "///v2/models/digits",
        "http://127.0.0.1:8080/v2/models/a b\r\nHost: c",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="expected oip:"):
        open_teacher(spec("oip:" + url))


def test_plain_http_goes_to_another_machine_on_the_owner_s_word_alone() -> None:
    with serving(Server()) as source:
        away = source.replace("127.0.0.1", "0.0.0.0")  # which is here, but does not say so
        with pytest.raises(SettingsError, match="insecure = true"):
            open_teacher(spec(away))
        open_teacher(spec(away, insecure=True))


def without(key: str, place: str = "inputs") -> Change:
    def change(described: Answer) -> Answer:
        del described[place][0][key]
        return described

    return change


def put(key: str, value: Any, place: str = "inputs") -> Change:
    def change(described: Answer) -> Answer:
        described[place][0][key] = value
        return described

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("shape", [-1, 28, 28, 1]), "give the shape that it was trained on"),
        (put("shape", ["a"]), "describes no input"),
        (put("shape", []), "describes no input"),
        (without("name"), "describes no input"),
        (without("shape", "outputs"), "describes no output"),
        (put("datatype", "BYTES"), "is BYTES, expected one of FP16"),
        (put("datatype", "INT64", "outputs"), "scores is INT64"),
        (lambda d: {**d, "inputs": None}, "describes no input"),
        (lambda d: {**d, "inputs": d["inputs"] * 2}, "2 inputs; give input_name"),
        (lambda d: [], "something else than a JSON object"),
        (lambda d: b"[" * 60_000, "something else than a JSON object"),
        (lambda d: (404, {"error": SECRET}), "status 404"),
        (lambda d: (302, d), "status 302"),
        (lambda d: b" " * 100_000, "more than 65536 bytes"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_at_the_start(
    change: Change, message: str
) -> None:
    server = Server()
    server.describe = change
    with serving(server) as source, pytest.raises((DataError, SettingsError), match=message) as e:
        open_teacher(spec(source))
    assert SECRET not in str(e.value)


def test_a_closed_port_is_said_at_the_start() -> None:
    with serving(Server()) as source:
        pass
    with pytest.raises(DataError, match="ConnectionRefusedError"):
        open_teacher(spec(source))


def drip_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def drip_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(100):
        handler.wfile.write(b"a")
        time.sleep(0.05)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"0" * 100_000)


HOSTILE: dict[str, Change] = {
    "shape": put("shape", [10, 5], "outputs"),
    "count": put("data", [0.0] * 49, "outputs"),
    "ragged": put("data", [[0.0], [0.0, 1.0]], "outputs"),
    "nan": put("data", [float("nan")] * 50, "outputs"),
    "infinite": put("data", [1e300] * 50, "outputs"),
    "words": put("data", ["1.0"] * 50, "outputs"),
    "huge whole numbers": put("data", [10**30] * 50, "outputs"),
    "nothing": put("data", None, "outputs"),
    "another output": put("name", "other", "outputs"),
    "bytes": put("datatype", "BYTES", "outputs"),
    "no outputs": lambda said: {"outputs": 3},
    "error": lambda said: (500, {"error": SECRET}),
    "no json": lambda said: SECRET.encode(),
    "huge": lambda said: endless,
    "slow body": lambda said: drip_body,
    "slow head": lambda said: drip_head,
    "silent": lambda said: lambda handler: time.sleep(3.0),
    "gone": lambda said: lambda handler: None,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_fails_one_question_and_leaves_no_trace(
    change: Change, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server()
    with serving(server) as source:
        north = institution(source, timeout=2.0)
        server.answer = change
        began = time.monotonic()
        assert north.answer(Ask(images())) == Refusal(Reason.FAILED, "the teacher could not answer")
        assert time.monotonic() - began < 4.0
        server.answer = lambda answered: answered
        assert isinstance(north.answer(Ask(images())), Reply)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["nan", "infinite"])
def test_numbers_that_are_not_finite_stop_in_the_teacher_already(kind: str) -> None:
    server = Server()
    with serving(server) as source:
        teacher = open_teacher(spec(source))
        server.answer = HOSTILE[kind]
        with pytest.raises(DataError, match="not finite"):
            teacher.ask(images(), frozenset({Signal.LOGITS}))


class Wards:
    """Serves numbers from rows: age in years, and the index of a ward."""

    def metadata(self) -> Answer:
        return {
            "inputs": [{"name": "rows", "datatype": "FP64", "shape": [-1, 2]}],
            "outputs": [{"name": "days", "datatype": "FP64", "shape": [-1, 1]}],
        }

    def infer(self, question: Answer) -> Answer:
        (rows,) = question["inputs"]
        age, ward = np.array(rows["data"]).reshape(rows["shape"]).T
        days = {"name": "days", "datatype": "FP64", "shape": [len(age), 1]}
        return {"outputs": [{**days, "data": (age / 4 + 10 * ward).tolist()}]}

    def describe(self, described: Answer) -> Answer:
        return described

    def answer(self, answered: Answer) -> Answer:
        return answered


def test_a_server_is_sent_rows_in_their_own_units_and_answers_numbers(tmp_path: Path) -> None:
    (tmp_path / "schema.toml").write_text(
        '[[columns]]\nname = "age"\nlow = 20\nhigh = 100\n'
        '[[columns]]\nname = "ward"\nlevels = ["general", "burns"]\n'
        '[[predict]]\nname = "stay"\nlow = 0\nhigh = 50\n'
    )
    with serving(Wards()) as source:  # type: ignore[arg-type]
        table = {"source": source, "schema": "schema.toml", "batch": 100}
        vault = ExternalVault(spec_from_table(table, tmp_path))
        rows = torch.tensor([[0, 0], [255, 0], [255, 255], [51, 200]], dtype=torch.uint8)
        reply = Institution("north", vault, Policy()).answer(
            Ask(rows[:, None, None, :], exact=True)
        )
    assert isinstance(reply, Reply)
    expected = torch.tensor([[5.0], [25.0], [35.0], [19.0]]) / 50
    torch.testing.assert_close(reply.signals[Signal.LOGITS], expected)

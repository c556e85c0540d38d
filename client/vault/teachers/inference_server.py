"""Teacher format ``oip:URL``: a model served by the Open Inference Protocol v2 over REST.

URL ends in v2/models/NAME. KServe, Triton and MLServer speak the protocol. The server is not
trusted: time and size of an answer are bounded, its description is checked against the owner's
settings, and none of its texts is repeated. Redirects and proxies are not followed, nothing is
logged, and no exception names more than what the owner wrote.
"""

import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.teachers.adapters.logits_only_teacher import LogitsTeacher, input_layout
from fedkd.client.vault.teachers.adapters.row_networks import row_network_teacher
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import RowNetworkTeacher

FLOAT_TYPES = frozenset({"FP16", "FP32", "FP64"})
"""Data types of the protocol that are floats in JSON."""

MAX_OVERHEAD_BYTES = 64 * 1024
"""Bytes of an answer beyond its numbers."""

MAX_NUMBER_BYTES = 32
"""Most bytes of one number in JSON."""

MODEL_PATH = re.compile(r"(/[\w.~-]+)*/v2/models/[\w.~%-]+(/versions/[\w.~%-]+)?")

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class TensorDescription:
    """An input or output as the server describes it."""

    name: str
    datatype: str
    shape: list[int]


def open_server(spec: TeacherSpec, url: str) -> LogitsTeacher:
    """See the module.

    Raises:
        SettingsError: an address that is none, or plain http to another machine.
        DataError: the server does not answer, or describes another model.
    """
    server = _InferenceClient(spec, url)
    described = server.request("GET", "", None, MAX_OVERHEAD_BYTES)
    source = _find_tensor(described.get("inputs"), spec.input_name, "input", spec)
    output = _find_tensor(described.get("outputs"), spec.output_name, "output", spec)
    for tensor in (source, output):
        if tensor.datatype not in FLOAT_TYPES:
            raise DataError(
                f"{spec.source}: {tensor.name} is {tensor.datatype}, expected one of "
                f"{', '.join(sorted(FLOAT_TYPES))}; serve the model with floats"
            )

    def score_batch(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        images = {
            "name": source.name,
            "shape": list(pixels.shape),
            "datatype": source.datatype,
            "data": pixels.ravel().tolist(),
        }
        query = {"inputs": [images], "outputs": [{"name": output.name}]}
        limit = MAX_OVERHEAD_BYTES + MAX_NUMBER_BYTES * len(pixels) * spec.classes
        answer = server.request("POST", "/infer", query, limit)
        return _scores(answer, output.name, (len(pixels), spec.classes), spec)

    return input_layout(source.shape, spec).teacher(score_batch, spec, spec.batch)


def open_server_table(spec: TeacherSpec, url: str, layout: TableLayout) -> RowNetworkTeacher:
    """A model that reads rows in their own units, (B, D); see `open_server` for what it raises."""
    return row_network_teacher(open_server(spec, url), layout)


class _InferenceClient:
    """Requests to one model of one server; each has a connection of its own."""

    def __init__(self, spec: TeacherSpec, url: str) -> None:
        self._source, self._timeout = spec.source, spec.timeout
        try:
            parts = urllib.parse.urlsplit(url)
            default = http.client.HTTPS_PORT if parts.scheme == "https" else http.client.HTTP_PORT
            self._host, self._port = parts.hostname or "", parts.port or default
        except ValueError:
            parts, self._host = urllib.parse.SplitResult("", "", "", "", ""), ""
        if (
            parts.scheme not in ("http", "https")
            or not self._host
            or parts.username is not None
            or parts.query
            or parts.fragment
            or not MODEL_PATH.fullmatch(parts.path)
        ):
            raise SettingsError(
                f"{spec.source}: expected oip: and the address of a model, as in "
                f"https://localhost:8080/v2/models/NAME, without user, query or fragment"
            )
        self._path, self._tls = parts.path, None
        if parts.scheme == "https":
            self._tls = _tls_context(spec)
        elif not (spec.insecure or _is_loopback(self._host)):
            raise SettingsError(
                f"{spec.source}: plain http to another machine can be read and changed on its "
                f"way; use https, or say insecure = true"
            )

    def request(self, method: str, path: str, content: Json | None, limit: int) -> Json:
        """One request and its answer.

        Args:
            method: of HTTP.
            path: below the model's.
            content: sent as JSON.
            limit: largest answer in bytes.

        Raises:
            DataError: no answer in time, one that is too long, or one that is no JSON object.
        """
        body = None if content is None else json.dumps(content).encode()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            connection.connect()
            with _deadline(connection.sock, self._timeout):
                connection.request(method, self._path + path, body, headers)
                response = connection.getresponse()
                status, body = response.status, response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"{self._source} gave no answer within {self._timeout:g} s "
                f"({type(error).__name__}); see that the server runs"
            ) from None
        finally:
            connection.close()
        if status != http.client.OK:
            raise DataError(f"{self._source} answered with status {status}; see the server's log")
        if len(body) > limit:
            raise DataError(
                f"{self._source} answered with more than {limit} bytes; see its outputs"
            )
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise DataError(f"{self._source} answered with something else than a JSON object")
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._tls
        )


@contextmanager
def _deadline(connected: socket.socket, seconds: float) -> Iterator[None]:
    """Close a connection after so many seconds, even where the other side keeps sending bytes.

    Raises:
        TimeoutError: it was cut off.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):  # it may be over already
            connected.shutdown(socket.SHUT_RDWR)

    alarm = threading.Timer(seconds, cut)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
    if late.is_set():
        raise TimeoutError


def _tls_context(spec: TeacherSpec) -> ssl.SSLContext:
    path = spec.path(spec.ca) if spec.ca else None
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl's own errors are among these
        raise DataError(f"{path} cannot be read as certificates; give a PEM file") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _find_tensor(tensors: Any, name: str | None, what: str, spec: TeacherSpec) -> TensorDescription:
    """The input or output of that name, or the only one.

    Raises:
        DataError: the server describes none.
        SettingsError: there are several and the owner has not named one.
    """
    known = []
    for tensor in tensors if isinstance(tensors, list) else []:
        match tensor:
            case {"name": str(own), "datatype": str(kind), "shape": [_, *_] as shape}:
                if all(isinstance(d, int) for d in shape):
                    known.append(TensorDescription(own, kind, shape))
    if not known:
        raise DataError(
            f"{spec.source} describes no {what} with name, datatype and shape; write them in the "
            f"server's settings of the model"
        )
    fitting = [tensor for tensor in known if name in (None, tensor.name)]
    if len(fitting) != 1:
        raise SettingsError(
            f"{spec.source} has {len(known)} {what}s; give {what}_name, one of them"
        )
    return fitting[0]


def _scores(
    answer: Json, name: str, shape: tuple[int, int], spec: TeacherSpec
) -> NDArray[np.float64]:
    """The numbers of one output, (B, K).

    Raises:
        DataError: it is not there, or not of that shape, or holds something else than numbers.
    """
    outputs = answer.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        match output:
            case {"name": own, "shape": declared, "datatype": kind, "data": list(data)} if (
                own == name and declared == list(shape) and kind in FLOAT_TYPES
            ):
                try:
                    numbers = np.asarray(data)
                except ValueError:
                    continue  # lists of unequal lengths
                if numbers.dtype.kind in "iuf" and numbers.size == shape[0] * shape[1]:
                    return numbers.astype(np.float64).reshape(shape)
    raise DataError(f"{spec.source} gave no floats of shape {list(shape)} for its output {name}")

"""Serve a teacher: answer a coordinator, within a policy and a ledger, until the run is over."""

import contextlib
import queue
from pathlib import Path

from fedkd.client.config.connection import ConnectionTable
from fedkd.client.config.private_state_folder import locked
from fedkd.client.institution import brought_institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.sessions.agent import Agent, StopReason
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.errors import SettingsError
from fedkd.models import Classes, Outputs
from fedkd.privacy import Policy
from fedkd.wire.grpc_channels import refuse_plain_text


def serve(
    teacher: object,
    server: str,
    *,
    name: str,
    token: str,
    samples: int | None = None,
    policy: Policy | None = None,
    shape: tuple[int, int, int] | None = None,
    classes: Classes = None,
    outputs: Outputs = "logits",
    schema: str | Path | None = None,
    state: str | Path | None = None,
    tls: str | Path | None = None,
) -> str:
    """Answer a coordinator's questions about a teacher until the run is over.

    The teacher, and whatever it was trained on, stay in this process. Only what the policy allows
    leaves it, and every answer is written to the ledger before it is given.

    Args:
        teacher: as in `fedkd.fit`.
        server: host:port of the coordinator.
        name: of this institution; with TLS it stands in its certificate.
        token: of the run, from the coordinator.
        samples: most samples that are ever answered; class scores alone are released.
        policy: in place of ``samples``: all that may be released.
        shape: (C, H, W) of the teacher's images.
        classes: number or names of its outputs; modules and classifiers can do without. Of a
            federation with several tasks: names of classes by name of task.
        outputs: "probabilities" where a module or file ends in a softmax.
        schema: where it reads rows of a table, its TOML file, in place of shape and classes.
        state: folder of the ledger, which outlives this process; None: ``state/NAME`` here.
        tls: folder with ca.pem, NAME.pem and NAME.key; None: plain text, to this machine alone.

    Returns:
        Why it ended: "over", or "gone" where the coordinator could not be reached for too long.

    Raises:
        SettingsError: arguments that are missing or do not fit each other, or the coordinator
            refused this institution.
        DataError: teacher or ledger cannot be opened.
    """
    if (samples is None) == (policy is None):
        raise SettingsError("give either samples, the most that may be answered, or a policy")
    allowed = Policy(samples=samples) if policy is None else policy
    connection = _connection(server, name, None if tls is None else Path(tls))
    folder = Path("state") / name if state is None else Path(state)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(folder))
        ledger = Ledger.anchored(folder / "ledger.sqlite")
        stack.enter_context(contextlib.closing(ledger))
        institution = brought_institution(
            *(name, teacher, allowed, ledger),
            shape=shape,
            classes=classes,
            outputs=outputs,
            schema=None if schema is None else Path(schema),
        )
        sessions = SessionManager(
            institution,
            frozenset({server}),
            connection.credentials(),
            expiry=connection.expiry(),
        )
        stack.callback(sessions.close)  # after the answer in progress, also at Ctrl-C
        ended: queue.SimpleQueue[Agent] = queue.SimpleQueue()
        if refused := sessions.open(server, token, ended.put):
            raise SettingsError(refused)
        reason = ended.get().stop_reason or StopReason.UNREACHABLE
    if reason is StopReason.REFUSED:
        raise SettingsError(
            f"{server} refused {name}; ask the coordinator about the token, the name and the card, "
            "and see the log of fedkd.client"
        )
    return str(reason.value)


def _connection(server: str, name: str, tls: Path | None) -> ConnectionTable:
    """Where to dial, and by which certificates."""
    if tls is None:
        refuse_plain_text(server)
        return ConnectionTable(server=server, insecure=True)
    return ConnectionTable(
        server=server, ca=tls / "ca.pem", certificate=tls / f"{name}.pem", key=tls / f"{name}.key"
    )

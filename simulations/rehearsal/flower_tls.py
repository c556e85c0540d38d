"""Start Flower's SuperLink and SuperNodes with TLS, and execute one ``flwr run`` on them."""

import http.client
import json
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from fedkd.errors import SettingsError
from fedkd.simulations.rehearsal.flwr_run import (
    COMMANDS,
    FLOWER_APP,
    START_TIMEOUT,
    assignments,
    failure_of_run,
)
from fedkd.simulations.rehearsal.free_ports import free_ports
from fedkd.simulations.rehearsal.process_supervisor import ProcessSupervisor

CONNECTION = "here"
"""Name of the SuperLink in Flower's configuration."""
STUDENT_ROUNDS = 2
"""Flower rounds, in each of which institutions get the student: some ten seconds each."""
COMMAND_TIMEOUT = 60.0
"""Seconds that a short Flower command may take."""


def run_with_supernodes(
    home: Path,
    tls: Path,
    agents: Mapping[str, Path],
    run_config: Mapping[str, object],
    processes: ProcessSupervisor,
    report: Callable[[str], None],
    limit: float,
) -> None:
    """Start SuperLink and SuperNodes, and send them the app with ``flwr run``.

    Args:
        home: folder of the federation.
        tls: folder of certificates and SuperNodes' keys.
        agents: control sockets of the institutions' agents, by name.
        run_config: Flower's run configuration.
        processes: supervisor that starts and ends all processes.
        report: called with each step.
        limit: seconds that the run may take.

    Raises:
        SettingsError: a process did not start, or the run failed.
    """
    flwr = str(COMMANDS / "flwr")
    ports = free_ports(1 + len(agents))
    superlink = f"127.0.0.1:{ports[0]}"
    report(f"flower-superlink at {superlink}, TLS, SuperNodes must authenticate")
    (home / "flower").mkdir()
    (home / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "{superlink}"\nroot-certificates = {json.dumps(str(tls / "ca.pem"))}\n'
    )
    processes.start(
        "superlink",
        *(str(COMMANDS / "flower-superlink"), "--host", "127.0.0.1", "--port", str(ports[0])),
        *("--ssl-ca-certfile", str(tls / "ca.pem"), "--ssl-certfile", str(tls / "server.pem")),
        *("--ssl-keyfile", str(tls / "server.key"), "--enable-supernode-auth"),
        "--disable-runtime-dependency-installation",
    )
    processes.wait_for(lambda: is_healthy(superlink, tls / "ca.pem"), "superlink", START_TIMEOUT)
    for (name, agent), port in zip(agents.items(), ports[1:], strict=True):
        key = tls / f"{name}.node"
        processes.run(
            "flwr supernode register",
            *(flwr, "supernode", "register", f"{key}.pub", CONNECTION, "--name", name),
            limit=COMMAND_TIMEOUT,
        )
        report(f"{name}: flower-supernode, registered, with its agent's socket")
        # The port of its Runtime API, for processes that it starts itself on this machine.
        processes.start(
            f"{name}-supernode",
            *(str(COMMANDS / "flower-supernode"), "--superlink", superlink),
            *("--root-certificates", str(tls / "ca.pem"), "--auth-supernode-private-key", str(key)),
            *("--port", str(port), "--node-config", assignments({"agent": str(agent)})),
        )
    report("flwr run: the bundle goes to the SuperLink, from there to every SuperNode")
    processes.run(
        "flwr run",
        *(flwr, "run", str(FLOWER_APP), CONNECTION, "--stream"),
        *("--run-config", assignments({"rounds": STUDENT_ROUNDS, **run_config})),
        limit=limit,
        inherit_output=True,
    )
    listing = processes.run(
        "flwr ls", flwr, "ls", CONNECTION, "--format", "json", limit=COMMAND_TIMEOUT
    )
    if failure := failure_of_run(listing):
        raise SettingsError(failure)


def is_healthy(address: str, ca: Path) -> bool:
    """Whether a SuperLink answers at host:port, with a certificate of this authority."""
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(f"https://{address}/health", timeout=1.0, context=context):
            return True
    except (OSError, http.client.HTTPException):
        return False

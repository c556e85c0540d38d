"""Flower's SuperLink and SuperNodes over TLS, for one run. Knows Flower's commands and options."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from fedkd.errors import SettingsError
from fedkd.simulations.rehearsal.flwr_run import (
    COMMANDS,
    FLOWER_APP,
    STARTING,
    assignments,
    fault_of,
    free_ports,
)
from fedkd.simulations.rehearsal.process_supervisor import Processes

CONNECTION = "here"
"""Name of the SuperLink in Flower's configuration."""
ROUNDS = 2
"""Times that the student is carried to the institutions: each takes Flower some ten seconds."""
COMMAND = 60.0
"""Seconds that a short command of Flower's may take."""


def through_flower(
    home: Path,
    tls: Path,
    agents: Mapping[str, Path],
    how: Mapping[str, object],
    processes: Processes,
    say: Callable[[str], None],
    limit: float,
) -> None:
    """Start SuperLink and SuperNodes, and have ``flwr run`` take the bundle to them.

    Args:
        home: folder of the federation.
        tls: folder of certificates and SuperNodes' keys.
        agents: sockets of the institutions' agents, by name.
        how: run configuration.
        processes: by which everything is started, and ended.
        say: is told of each step.
        limit: seconds that the run may take.

    Raises:
        SettingsError: a process did not start, or the run failed.
    """
    flwr = str(COMMANDS / "flwr")
    ports = free_ports(1 + len(agents))
    superlink = f"127.0.0.1:{ports[0]}"
    say(f"flower-superlink at {superlink}, TLS, SuperNodes must authenticate")
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
    processes.await_that(lambda: healthy(superlink, tls / "ca.pem"), "superlink", STARTING)
    for (name, agent), port in zip(agents.items(), ports[1:], strict=True):
        key = tls / f"{name}.node"
        processes.run(
            "flwr supernode register",
            *(flwr, "supernode", "register", f"{key}.pub", CONNECTION, "--name", name),
            limit=COMMAND,
        )
        say(f"{name}: flower-supernode, registered, with its agent's socket")
        # Its Runtime API is for processes that it starts itself, on this machine.
        processes.start(
            f"{name}-supernode",
            *(str(COMMANDS / "flower-supernode"), "--superlink", superlink),
            *("--root-certificates", str(tls / "ca.pem"), "--auth-supernode-private-key", str(key)),
            *("--port", str(port), "--node-config", assignments({"agent": str(agent)})),
        )
    say("flwr run: the bundle goes to the SuperLink, from there to every SuperNode")
    processes.run(
        "flwr run",
        *(flwr, "run", str(FLOWER_APP), CONNECTION, "--stream"),
        *("--run-config", assignments({"rounds": ROUNDS, **how})),
        limit=limit,
        shown=True,
    )
    listing = processes.run("flwr ls", flwr, "ls", CONNECTION, "--format", "json", limit=COMMAND)
    if fault := fault_of(listing):
        raise SettingsError(fault)


def healthy(address: str, ca: Path) -> bool:
    """Whether a SuperLink answers at host:port, with a certificate of this authority's."""
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(f"https://{address}/health", timeout=1.0, context=context):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False

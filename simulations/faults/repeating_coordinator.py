"""A second coordinator, with the first one's certificate, that asks one question again and again.

What was answered is free from then on, and no cap of the owner's counts it. So it must not cost
him either: no charge, and no row in his ledger for each of the repeats.
"""

import time
from multiprocessing.connection import Connection

import torch

from fedkd.protocol import Ask, digest
from fedkd.server.hub.admission import JoinTokens
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.tls_certificates import server_credentials
from fedkd.simulations.faults.deployment_files import SHAPE, TIMEOUT, DeploymentFiles

REPEATS, REPEATED_BATCH = 100, 48
"""Repeats of the question, and its images: as many as in no other question of the campaign."""
JOIN_SECONDS = 60.0
"""For the victim to come."""


def run_repeating_coordinator(
    files: DeploymentFiles, name: str, seed: int, pipe: Connection
) -> None:
    """Ask institution ``name`` one question, and repeat it; then wait to be killed.

    Args:
        files: of the deployment.
        name: of the institution that will be led here.
        seed: of the images.
        pipe: receives (port, digest of the question), and then the number of answers.
    """
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (REPEATED_BATCH, *SHAPE), dtype=torch.uint8, generator=rng)
    question = Ask(images)
    admission, credentials = JoinTokens(files.folder / "tokens"), server_credentials(files.tls)
    with Hub(admission, credentials=credentials) as hub:
        pipe.send((int(hub.address.rpartition(":")[2]), digest(question)))
        hub.wait_for(1, JOIN_SECONDS)
        answered = sum(name in hub.ask({name: question}, TIMEOUT)[0] for _ in range(REPEATS + 1))
        pipe.send(answered)
        time.sleep(JOIN_SECONDS)  # killed before: closed in order, it would end the institution

"""For all tests: nothing calls home, and sums do not depend on the number of cores."""

from fedkd.simulations.engines.environment_variables import set_environment_defaults

set_environment_defaults()

import torch  # noqa: E402 -- Flower, Ray and gRPC read their variables as they are imported

torch.set_num_threads(1)

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from fedkd.server.hub.hub import Hub  # noqa: E402
from tests.support.hub_clients import TOKEN, RawClient  # noqa: E402

# How long an example takes says more of the machine than of the code.
settings.register_profile("fedkd", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("fedkd")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(TOKEN) as hub:
        yield hub


@pytest.fixture
def raw(hub: Hub) -> Iterator[RawClient]:
    raw = RawClient(hub)
    yield raw
    raw.close()

"""One process for all attacks of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.limited_process import LimitedProcess, limited_process


@pytest.fixture(scope="session")
def limited() -> Iterator[LimitedProcess]:
    with limited_process() as server:
        yield server

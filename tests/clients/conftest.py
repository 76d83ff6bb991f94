"""One server for all client tests: their keys do not overlap."""

from collections.abc import Iterator

import pytest
from helpers.processes import Program, Server


@pytest.fixture(scope="session")
def client_server(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(subject_program, tmp_path_factory.mktemp("clients"))
    try:
        yield server.start()
    finally:
        server.stop()

"""The log's tests judge which system calls are made in which order; waiting for a real disk adds nothing."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    def no_wait(descriptor: int) -> None:
        os.fstat(descriptor)  # a closed descriptor is an error still

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", no_wait)
        patch.setattr(os, "fdatasync", no_wait)
        yield

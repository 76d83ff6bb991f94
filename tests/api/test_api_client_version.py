"""The client's version must be text (G-24)."""

from __future__ import annotations

import pytest

from raftkv.api.client_version import check_client_version, with_client_version_checked
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Service, build_routes

REFUSED = (Code.INVALID_ARGUMENT, "etcdserver: invalid client api version")


@pytest.mark.parametrize(
    ("version", "refused"),
    [(None, False), ("", False), ("3.6", False), ("drei·sechs", False), ("\udcff3.6", True), ("3.6\udc80", True)],
    ids=["missing", "empty", "usual", "not ASCII", "a byte that begins nothing", "a byte that continues nothing"],
)
def test_any_text_will_do(version: str | None, refused: bool) -> None:
    metadata = {} if version is None else {"client-api-version": version}
    assert check_client_version(metadata.get) == (REFUSED if refused else None)


def test_every_method_asks() -> None:
    service = Service("test.All").unary("One", lambda *_: None).bidi("Both", lambda call: call)
    routes = with_client_version_checked(build_routes((service,)))
    assert [method.admit for method in routes.values()] == [check_client_version] * 2

"""An AuthStore on tables of its own, and short ways to say who may do what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from raftkv.auth import ROOT, AuthStore, Identity, PermissionDenied
from raftkv.backend.schema import Tables
from raftkv.pb import auth_pb2

READ, WRITE, READWRITE = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE
EVER = 1 << 60
"""An authRevision that does not get old."""


class Disk:
    """The tables, and the store on them; each change is a transaction of its own, undone when it is refused."""

    def __init__(self, directory: Path) -> None:
        self.env = lmdb.open(str(directory), max_dbs=3, map_size=1 << 26, sync=False)
        users, roles, meta = (self.env.open_db(name) for name in (b"auth_users", b"auth_roles", b"meta"))
        named = {"auth_roles": roles, "meta": meta}
        self.tables = Tables(**dict.fromkeys(Tables._fields, users) | named)
        self.auth = self.load()

    def load(self) -> AuthStore:
        """What a restart finds."""
        self.auth = AuthStore(self.tables)
        self.load_into(self.auth)
        return self.auth

    def load_into(self, auth: AuthStore) -> None:
        with self.env.begin() as txn:
            auth.load(txn)

    def change(self, change: Callable[..., None], *arguments: Any) -> None:
        with self.env.begin(write=True) as txn:
            change(txn, *arguments)

    def write(self, table: str, key: bytes, value: bytes) -> None:
        """Past the store."""
        with self.env.begin(write=True) as txn:
            txn.put(key, value, db=getattr(self.tables, table))

    def content(self) -> list[list[tuple[bytes, bytes]]]:
        with self.env.begin() as txn:
            tables = (self.tables.auth_users, self.tables.auth_roles, self.tables.meta)
            return [list(txn.cursor(table)) for table in tables]

    # --- the store's own mutations ------------------------------------------------------------------------------------

    def add_user(self, name: str, *roles: str, password: bytes = b"hash", no_password: bool = False) -> None:
        self.change(self.auth.user_add, name, password, no_password)
        for role in roles:
            self.change(self.auth.user_grant_role, name, role)

    def add_role(self, name: str, *permissions: auth_pb2.Permission) -> None:
        self.change(self.auth.role_add, name)
        for each in permissions:
            self.change(self.auth.role_grant_permission, name, each)

    def enable(self) -> None:
        """With the user root, made now."""
        self.add_user(ROOT, ROOT)
        self.change(self.auth.enable)


def permission(kind: auth_pb2.Permission.Type.ValueType, key: bytes, range_end: bytes = b"") -> auth_pb2.Permission:
    return auth_pb2.Permission(permType=kind, key=key, range_end=range_end)


def listed(role: auth_pb2.Role | None) -> list[tuple[int, bytes, bytes]]:
    assert role is not None
    return [(each.permType, each.key, each.range_end) for each in role.keyPermission]


def by(user: str) -> Identity:
    return Identity(user, EVER)


def allows(check: Callable[..., None], *arguments: Any) -> bool:
    """Whether a check passes; only PermissionDenied counts as no."""
    try:
        check(*arguments)
    except PermissionDenied:
        return False
    return True

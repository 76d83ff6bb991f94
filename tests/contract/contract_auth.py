"""A member with users on it, and clients that call as one of them.

Owns the setting up: users, roles, tokens. Knows no rule: what a user may do is written in the tests.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from contract_support import Client, Code
from helpers.auth_calls import AuthCalls, ChannelSaying

from raftkv.pb import auth_pb2

READ, WRITE, BOTH = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE

USER_EMPTY: Final = (Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
USER_NOT_FOUND: Final = (Code.FAILED_PRECONDITION, "etcdserver: user name not found")
USER_EXISTS: Final = (Code.FAILED_PRECONDITION, "etcdserver: user name already exists")
ROLE_EMPTY: Final = (Code.INVALID_ARGUMENT, "etcdserver: role name is empty")
ROLE_NOT_FOUND: Final = (Code.FAILED_PRECONDITION, "etcdserver: role name not found")
ROLE_EXISTS: Final = (Code.FAILED_PRECONDITION, "etcdserver: role name already exists")
ROLE_NOT_GRANTED: Final = (Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user")
NOT_GIVEN: Final = (Code.INVALID_ARGUMENT, "etcdserver: permission not given")
NOT_GRANTED: Final = (Code.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role")
DENIED: Final = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
NO_ROOT_USER: Final = (Code.FAILED_PRECONDITION, "etcdserver: root user does not exist")
NO_ROOT_ROLE: Final = (Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role")
INVALID_MANAGEMENT: Final = (Code.INVALID_ARGUMENT, "etcdserver: invalid auth management")
NOT_ENABLED: Final = (Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
AUTH_FAILED: Final = (Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
NO_PASSWORD: Final = (Code.UNKNOWN, "auth: authentication failed, password was given for no password user")
INVALID_TOKEN: Final = (Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
OLD_REVISION: Final = (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")

CHEAP_HASHES: Final = "--bcrypt-cost=4"

_numbers: Final = itertools.count()


def new_name(kind: str) -> str:
    """A user's or role's name that no other test of this process has."""
    return f"{kind}{next(_numbers)}"


def saying(client: Client, *metadata: tuple[str, str]) -> Client:
    """The same client with this metadata in every call."""
    channel: Any = ChannelSaying(client.channel, metadata)
    return Client(channel)


class Admin(AuthCalls):
    """Of one client."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.calls)
        self.client = client


class Guarded:
    """A member on which auth is on. Its users `root` (the password is `secret`) and whom a test adds."""

    def __init__(self, client: Client) -> None:
        self.nobody = client
        """Says nothing of itself."""
        admin = Admin(client)
        admin.add_user("root", "secret")
        admin.grant_role("root", "root")
        admin.enable()
        self.root = self.login("root", "secret")
        self.admin = Admin(self.root)

    def login(self, name: str, password: str = "pass") -> Client:
        return saying(self.nobody, ("token", Admin(self.nobody).token(name, password)))

    def new_user(self, *permissions: tuple[Any, bytes, bytes]) -> Client:
        """A client of a user of the test's own, whose one role has these permissions."""
        return self.login(self.add_user(*permissions))

    def add_user(self, *permissions: tuple[Any, bytes, bytes]) -> str:
        """The name of a user, which is also that of its role; the password is `pass`."""
        name = new_name("user")
        self.admin.add_user(name, "pass")
        self.admin.add_role(name)
        self.admin.grant_role(name, name)
        for kind, key, range_end in permissions:
            self.admin.permit(name, kind, key, range_end)
        return name

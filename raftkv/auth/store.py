"""Users, roles and their permissions, in memory and in their tables; whether auth is on, and at which revision.

Every mutation takes the write transaction of the apply batch, so that a record and the consistent index that covers it
become durable together (RF-50). A mutation that is refused has changed nothing. If a transaction handed in is aborted,
`load` again.

What a user may do is worked out when somebody first asks and kept until the next change of any user or role, so a check
costs two dict lookups and a bisect.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import DecodeError

from raftkv.auth.errors import (
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    InvalidAuthManagement,
    PermissionDenied,
    PermissionNotGranted,
    RoleEmpty,
    RoleExists,
    RoleNotFound,
    RoleNotGranted,
    RootRoleNotExist,
    RootUserNotExist,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from raftkv.auth.permissions import TO_THE_END, Rights, is_interval, merge_rights
from raftkv.auth.tokens import SimpleTokens
from raftkv.backend.errors import SchemaError
from raftkv.backend.schema import Meta, pack_u64, short_key, unpack_u64
from raftkv.pb import auth_pb2

if TYPE_CHECKING:
    from raftkv.auth.identity import Identity
    from raftkv.backend.handles import Db, ReadTxn, WriteTxn
    from raftkv.backend.schema import Tables

ROOT: Final = "root"
"""Name of the user that must exist while auth is on, and of the role whose holders may do everything (AU-04)."""

FIRST_REVISION: Final = 1
"""AU-03."""

_ON: Final = b"\x01"
_key_of = attrgetter("key")


class AuthStore:
    """See the module. Messages that come out of it are its own: read them, never change them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._users: dict[str, auth_pb2.User] = {}
        self._roles: dict[str, auth_pb2.Role] = {}
        """Messages are replaced, never changed."""
        self._rights: dict[str, Rights] = {}
        """Of users that were asked for since the last change."""
        self.enabled = False
        self.revision = FIRST_REVISION
        """authRevision (AU-03): an identity of an older one is not good any more."""
        self.tokens = SimpleTokens()
        self.before_write: Callable[[int], None] = _make_no_room
        """Called with the size of a record, in bytes, that is about to be written."""

    def load(self, txn: ReadTxn) -> None:
        """Read everything: at start, and after a snapshot was installed. Raises SchemaError for damage.

        Tokens stay good unless users or roles are not as they were: which of them were dropped meanwhile is not known.
        """
        tables, revision = self._tables, self.revision
        self.enabled = _unpack_enabled(txn.get(Meta.AUTH_ENABLED, None, tables.meta))
        self.revision = _unpack_revision(txn.get(Meta.AUTH_REVISION, None, tables.meta))
        self._users = {_name_of(each): each for each in _records(txn, tables.auth_users, auth_pb2.User)}
        self._roles = {_name_of(each): each for each in _records(txn, tables.auth_roles, auth_pb2.Role)}
        self._rights.clear()
        if self.revision != revision or not self.enabled:
            self.tokens.clear()

    def rebind(self, tables: Tables) -> None:
        """The environment was reopened: its old handles are dead."""
        self._tables = tables

    # --- on and off ---------------------------------------------------------------------------------------------------

    def enable(self, txn: WriteTxn) -> None:
        """Nothing when auth is on already. Raises RootUserNotExist or RootRoleNotExist (AU-10)."""
        if self.enabled:
            return
        root = self._users.get(ROOT)
        if root is None:
            raise RootUserNotExist
        if ROOT not in root.roles:
            raise RootRoleNotExist
        txn.put(Meta.AUTH_ENABLED, _ON, db=self._tables.meta)
        self.enabled = True

    def disable(self, txn: WriteTxn) -> None:
        """Nothing when auth is off already; else all tokens are gone (AU-11)."""
        if not self.enabled:
            return
        txn.delete(Meta.AUTH_ENABLED, db=self._tables.meta)
        self.enabled = False
        self.tokens.clear()
        self._changed(txn)

    # --- users --------------------------------------------------------------------------------------------------------

    def user_add(self, txn: WriteTxn, name: str, hashed_password: bytes, no_password: bool) -> None:
        """`hashed_password`: what bcrypt made of it; ignored with `no_password`, and when empty, no password fits.
        Raises UserEmpty or UserExists (AU-20)."""
        if not name:
            raise UserEmpty
        if name in self._users:
            raise UserExists
        options = auth_pb2.UserAddOptions(no_password=no_password)
        password = b"" if no_password else hashed_password
        self._put_user(txn, auth_pb2.User(name=name.encode(), password=password, options=options))
        self._changed(txn)

    def user_delete(self, txn: WriteTxn, name: str) -> None:
        """Raises InvalidAuthManagement or UserNotFound (AU-21)."""
        if self.enabled and name == ROOT:
            raise InvalidAuthManagement
        self._must_get_user(name)
        del self._users[name]
        txn.delete(_table_key(name), db=self._tables.auth_users)
        self.tokens.drop_user(name)
        self._changed(txn)

    def user_change_password(self, txn: WriteTxn, name: str, hashed_password: bytes) -> None:
        """As with `user_add`; a user made without a password stays without one. Raises UserNotFound (AU-22)."""
        user = _copy_user(self._must_get_user(name))
        user.password = b"" if user.options.no_password else hashed_password
        self._put_user(txn, user)
        self.tokens.drop_user(name)
        self._changed(txn)

    def user_grant_role(self, txn: WriteTxn, name: str, role: str) -> None:
        """Nothing when the user has it already. Raises UserNotFound or RoleNotFound (AU-23)."""
        user = self._must_get_user(name)
        if role != ROOT and role not in self._roles:
            raise RoleNotFound
        if role in user.roles:
            return
        self._put_user_with(txn, user, sorted([*user.roles, role]))
        self._changed(txn)

    def user_revoke_role(self, txn: WriteTxn, name: str, role: str) -> None:
        """Raises InvalidAuthManagement, UserNotFound or RoleNotGranted (AU-24)."""
        if self.enabled and name == role == ROOT:
            raise InvalidAuthManagement
        user = self._must_get_user(name)
        if role not in user.roles:
            raise RoleNotGranted
        self._put_user_with(txn, user, [each for each in user.roles if each != role])
        self._changed(txn)

    # --- roles --------------------------------------------------------------------------------------------------------

    def role_add(self, txn: WriteTxn, name: str) -> None:
        """Raises RoleEmpty or RoleExists (AU-30)."""
        if not name:
            raise RoleEmpty
        if name in self._roles:
            raise RoleExists
        self._put_role(txn, auth_pb2.Role(name=name.encode()))
        self._changed(txn)

    def role_delete(self, txn: WriteTxn, name: str) -> None:
        """Its users do not have it any more. Raises InvalidAuthManagement or RoleNotFound (AU-31)."""
        if self.enabled and name == ROOT:
            raise InvalidAuthManagement
        self._must_get_role(name)
        del self._roles[name]
        txn.delete(_table_key(name), db=self._tables.auth_roles)
        for user in [each for each in self._users.values() if name in each.roles]:
            self._put_user_with(txn, user, [each for each in user.roles if each != name])
        self._changed(txn)

    def role_grant_permission(self, txn: WriteTxn, name: str, permission: auth_pb2.Permission) -> None:
        """Replaces the type of one on exactly the same interval. Raises InvalidAuthManagement or RoleNotFound (AU-32).

        That there is a permission in the request is for the caller to see: PermissionNotGiven.
        """
        if not is_interval(permission.key, permission.range_end):
            raise InvalidAuthManagement
        role = self._must_get_role(name)
        permissions = list(role.keyPermission)
        at = bisect_left(permissions, permission.key, key=_key_of)
        # Those with the same key stand in the order in which they were granted.
        while at < len(permissions) and permissions[at].key == permission.key:
            if permissions[at].range_end == permission.range_end:
                del permissions[at]
                break
            at += 1
        permissions.insert(at, permission)
        self._put_role(txn, auth_pb2.Role(name=role.name, keyPermission=permissions))
        self._changed(txn)

    def role_revoke_permission(self, txn: WriteTxn, name: str, key: bytes, range_end: bytes) -> None:
        """Of exactly this interval. Raises RoleNotFound or PermissionNotGranted (AU-33)."""
        role = self._must_get_role(name)
        interval = (key, range_end)
        others = [each for each in role.keyPermission if (each.key, each.range_end) != interval]
        if len(others) == len(role.keyPermission):
            raise PermissionNotGranted
        self._put_role(txn, auth_pb2.Role(name=role.name, keyPermission=others))
        self._changed(txn)

    # --- logging in ---------------------------------------------------------------------------------------------------

    def authenticated(self, name: str, auth_revision: int, nonce: str, index: int) -> str:
        """The user's password was right at `auth_revision`, says the proposer of log entry `index`: the simple token
        that is good from now on (AU-43), empty without a nonce.

        Raises AuthNotEnabled, AuthOldRevision when the password may have changed since (AU-41), AuthFailed.
        """
        if not self.enabled:
            raise AuthNotEnabled
        if auth_revision != self.revision:
            raise AuthOldRevision
        user = self._users.get(name)
        if user is None or user.options.no_password:
            raise AuthFailed
        if not nonce:
            return ""
        token = f"{nonce}.{index}"
        self.tokens.assign(token, name)
        return token

    # --- asked by any member ------------------------------------------------------------------------------------------

    def user(self, name: str) -> auth_pb2.User | None:
        """Its roles are sorted."""
        return self._users.get(name)

    def role(self, name: str) -> auth_pb2.Role | None:
        """Its permissions are sorted by key; the role root, where it is stored, shows a permission on all (AU-34)."""
        role = self._roles.get(name)
        return _ROOT_ROLE if role is not None and name == ROOT else role

    def user_names(self) -> list[str]:
        """Sorted (AU-26)."""
        return sorted(self._users)

    def role_names(self) -> list[str]:
        """Sorted (AU-35)."""
        return sorted(self._roles)

    def has_root_role(self, user: str) -> bool:
        """Whether the user exists and is an administrator (AU-04)."""
        return user in self._users and self._rights_of(user).is_root

    # --- checks: they raise, or return nothing ------------------------------------------------------------------------

    def check_identity(self, identity: Identity) -> None:
        """Somebody, and not of an older authRevision; whether the user exists is not asked.
        Raises UserEmpty or AuthOldRevision, in this order (AU-51)."""
        if not self.enabled:
            return
        user, revision = identity
        if not user:
            raise UserEmpty
        if revision < self.revision:
            raise AuthOldRevision

    def check_authenticated(self, identity: Identity) -> None:
        """Any user. Raises as `check_identity`, or PermissionDenied for one who does not exist (AU-63)."""
        self.check_identity(identity)
        if self.enabled and identity.user not in self._users:
            raise PermissionDenied

    def check_root(self, identity: Identity) -> None:
        """An administrator, by the rights of now, so the identity may be an older one.
        Raises UserEmpty, UserNotFound or PermissionDenied (AU-37)."""
        if not self.enabled:
            return
        user = identity.user
        if not user:
            raise UserEmpty
        if user not in self._users:
            raise UserNotFound
        if not self._rights_of(user).is_root:
            raise PermissionDenied

    def check_read(self, identity: Identity, key: bytes, range_end: bytes = b"") -> None:
        """Raises UserEmpty, AuthOldRevision or PermissionDenied, in this order (AU-51)."""
        if not self.enabled:
            return
        rights = self._rights_for(identity)
        if not (rights.is_root or rights.read.cover(key, range_end)):
            raise PermissionDenied

    def check_write(self, identity: Identity, key: bytes, range_end: bytes = b"") -> None:
        """As `check_read`."""
        if not self.enabled:
            return
        rights = self._rights_for(identity)
        if not (rights.is_root or rights.write.cover(key, range_end)):
            raise PermissionDenied

    def _rights_for(self, identity: Identity) -> Rights:
        """Raises UserEmpty, AuthOldRevision, or PermissionDenied for an unknown user (AU-51)."""
        user, revision = identity
        if not user:
            raise UserEmpty
        if revision < self.revision:
            raise AuthOldRevision
        rights = self._rights.get(user)
        if rights is None:
            if user not in self._users:
                raise PermissionDenied
            rights = self._rights_of(user)
        return rights

    def _rights_of(self, user: str) -> Rights:
        rights = self._rights.get(user)
        if rights is None:
            names = self._users[user].roles
            roles = (self._roles[each] for each in names if each in self._roles)
            permissions = (permission for role in roles for permission in role.keyPermission)
            rights = self._rights[user] = merge_rights(ROOT in names, permissions)
        return rights

    # --- changing -----------------------------------------------------------------------------------------------------

    def _must_get_user(self, name: str) -> auth_pb2.User:
        user = self._users.get(name)
        if user is None:
            raise UserNotFound
        return user

    def _must_get_role(self, name: str) -> auth_pb2.Role:
        role = self._roles.get(name)
        if role is None:
            raise RoleNotFound
        return role

    def _put_user_with(self, txn: WriteTxn, user: auth_pb2.User, roles: list[str]) -> None:
        changed = _copy_user(user)
        changed.roles[:] = roles
        self._put_user(txn, changed)

    def _put_user(self, txn: WriteTxn, user: auth_pb2.User) -> None:
        name = _name_of(user)
        self._put(txn, self._tables.auth_users, name, user.SerializeToString())
        self._users[name] = user

    def _put_role(self, txn: WriteTxn, role: auth_pb2.Role) -> None:
        name = _name_of(role)
        self._put(txn, self._tables.auth_roles, name, role.SerializeToString())
        self._roles[name] = role

    def _put(self, txn: WriteTxn, table: Db, name: str, record: bytes) -> None:
        self.before_write(len(record))
        txn.put(_table_key(name), record, db=table)

    def _changed(self, txn: WriteTxn) -> None:
        """Whatever was known of anybody's rights may be wrong now (AU-03, AU-76)."""
        self.revision += 1
        txn.put(Meta.AUTH_REVISION, pack_u64(self.revision), db=self._tables.meta)
        self._rights.clear()


_ROOT_ROLE: Final = auth_pb2.Role(
    name=ROOT.encode(),
    keyPermission=[auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"", range_end=TO_THE_END)],
)


def _make_no_room(_size_bytes: int) -> None:
    """Where nobody looks after the disk."""


def _table_key(name: str) -> bytes:
    return short_key(name.encode())


def _name_of(record: auth_pb2.User | auth_pb2.Role) -> str:
    return record.name.decode()


def _copy_user(user: auth_pb2.User) -> auth_pb2.User:
    copy = auth_pb2.User()
    copy.CopyFrom(user)
    return copy


# --- reading the tables -----------------------------------------------------------------------------------------------

_Record = TypeVar("_Record", auth_pb2.User, auth_pb2.Role)


def _records(txn: ReadTxn, table: Db, of_type: type[_Record]) -> Iterator[_Record]:
    with txn.cursor(table) as cursor:
        for key, raw in cursor.iternext():
            record = of_type()
            try:
                record.ParseFromString(raw)
                is_named = _table_key(_name_of(record)) == key
            except (DecodeError, UnicodeDecodeError) as damage:
                raise SchemaError(f"auth: a record of {len(raw)} bytes cannot be read") from damage
            if not is_named:
                raise SchemaError(f"auth: the record of {record.name!r} stands under another name")
            yield record


def _unpack_enabled(raw: bytes | None) -> bool:
    if raw not in (None, _ON):
        raise SchemaError(f"meta: auth is neither on nor off: {raw!r}")
    return raw == _ON


def _unpack_revision(raw: bytes | None) -> int:
    revision = FIRST_REVISION if raw is None else unpack_u64(raw)
    if revision < FIRST_REVISION:
        raise SchemaError("meta: authRevision is less than 1")
    return revision

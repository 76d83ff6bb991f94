"""Users, roles and what they may do: changed by the log, asked by whoever serves a request.

A deterministic state machine over the `auth_users` and `auth_roles` tables. Knows nothing of the other state machines,
of connections, clocks, random numbers or how passwords are hashed: those are the server's.
"""

from raftkv.auth.errors import (
    AuthError,
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    InvalidAuthManagement,
    InvalidAuthToken,
    PasswordlessUser,
    PermissionDenied,
    PermissionNotGiven,
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
from raftkv.auth.identity import NO_IDENTITY, Identity
from raftkv.auth.store import ROOT, AuthStore
from raftkv.auth.tokens import DEFAULT_TOKEN_TTL_S, SimpleTokens

__all__ = [
    "DEFAULT_TOKEN_TTL_S",
    "NO_IDENTITY",
    "ROOT",
    "AuthError",
    "AuthFailed",
    "AuthNotEnabled",
    "AuthOldRevision",
    "AuthStore",
    "Identity",
    "InvalidAuthManagement",
    "InvalidAuthToken",
    "PasswordlessUser",
    "PermissionDenied",
    "PermissionNotGiven",
    "PermissionNotGranted",
    "RoleEmpty",
    "RoleExists",
    "RoleNotFound",
    "RoleNotGranted",
    "RootRoleNotExist",
    "RootUserNotExist",
    "SimpleTokens",
    "UserEmpty",
    "UserExists",
    "UserNotFound",
]

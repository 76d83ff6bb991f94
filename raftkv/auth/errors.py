"""What the rules of auth can refuse a request for.

    AuthError
    ├── UserEmpty              no user name given; as a caller: nobody (AU-20, AU-37, AU-48)
    ├── UserNotFound           no such user (AU-21 to AU-25, AU-37)
    ├── UserExists             the user name is taken (AU-20)
    ├── RoleEmpty              no role name given (AU-30)
    ├── RoleNotFound           no such role (AU-23, AU-31 to AU-33)
    ├── RoleExists             the role name is taken (AU-30)
    ├── RoleNotGranted         the user does not have the role (AU-24)
    ├── PermissionNotGiven     a grant without a permission (AU-32)
    ├── PermissionNotGranted   the role does not have exactly this permission (AU-33)
    ├── PermissionDenied       the caller may not do that (AU-74)
    ├── RootUserNotExist       auth cannot be enabled without the user root (AU-10)
    ├── RootRoleNotExist       nor without its role root (AU-10)
    ├── InvalidAuthManagement  an empty interval, or what would lock everybody out (AU-21, AU-24, AU-31, AU-32)
    ├── AuthNotEnabled         nobody can log in while auth is off (AU-40)
    ├── AuthFailed             wrong name or password (AU-40)
    ├── AuthOldRevision        users or rights have changed since the caller's identity was established (AU-49)
    ├── PasswordlessUser       a password was given for a user that has none (AU-40); or a hash that is no base64
    │
    │   never of applying:
    └── InvalidAuthToken       a token that is unknown or has run out (AU-47)

The `api` room turns each into the code and text that clients expect. Names of refusals that come from applying go into
the state hash (`apply.state_hash`): to rename one is to change results.
"""


class AuthError(Exception):
    """A request that changes nothing."""


class UserEmpty(AuthError):
    pass


class UserNotFound(AuthError):
    pass


class UserExists(AuthError):
    pass


class RoleEmpty(AuthError):
    pass


class RoleNotFound(AuthError):
    pass


class RoleExists(AuthError):
    pass


class RoleNotGranted(AuthError):
    pass


class PermissionNotGiven(AuthError):
    pass


class PermissionNotGranted(AuthError):
    pass


class PermissionDenied(AuthError):
    pass


class RootUserNotExist(AuthError):
    pass


class RootRoleNotExist(AuthError):
    pass


class InvalidAuthManagement(AuthError):
    pass


class AuthNotEnabled(AuthError):
    pass


class AuthFailed(AuthError):
    pass


class AuthOldRevision(AuthError):
    pass


class PasswordlessUser(AuthError):
    pass


class InvalidAuthToken(AuthError):
    pass

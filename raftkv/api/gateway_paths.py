"""Which path of the JSON gateway is which method, and what messages it takes and gives (H-22).

A table and nothing else. The types come from the service descriptors, so the path names a method and that is all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from raftkv.pb import election_pb2, lock_pb2, rpc_pb2


class Binding(NamedTuple):
    path: bytes
    """Of the method, as in the routes."""
    request: type[Message]
    response: type[Message]


_METHODS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "etcdserverpb.KV": (
        "/v3/kv/",
        {
            "range": "Range",
            "put": "Put",
            "deleterange": "DeleteRange",
            "txn": "Txn",
            "compaction": "Compact",
        },
    ),
    "etcdserverpb.Watch": ("/v3/", {"watch": "Watch"}),
    "etcdserverpb.Lease": (
        "/v3/",
        {
            "lease/grant": "LeaseGrant",
            "lease/revoke": "LeaseRevoke",
            "lease/keepalive": "LeaseKeepAlive",
            "lease/timetolive": "LeaseTimeToLive",
            "lease/leases": "LeaseLeases",
            # Where older clients look for them.
            "kv/lease/revoke": "LeaseRevoke",
            "kv/lease/timetolive": "LeaseTimeToLive",
            "kv/lease/leases": "LeaseLeases",
        },
    ),
    "etcdserverpb.Cluster": (
        "/v3/cluster/member/",
        {
            "add": "MemberAdd",
            "remove": "MemberRemove",
            "update": "MemberUpdate",
            "list": "MemberList",
            "promote": "MemberPromote",
        },
    ),
    "etcdserverpb.Maintenance": (
        "/v3/maintenance/",
        {
            "alarm": "Alarm",
            "status": "Status",
            "defragment": "Defragment",
            "hash": "Hash",
            "hashkv": "HashKV",
            "snapshot": "Snapshot",
            "transfer-leadership": "MoveLeader",
            "downgrade": "Downgrade",
        },
    ),
    "etcdserverpb.Auth": (
        "/v3/auth/",
        {
            "enable": "AuthEnable",
            "disable": "AuthDisable",
            "status": "AuthStatus",
            "authenticate": "Authenticate",
            "user/add": "UserAdd",
            "user/get": "UserGet",
            "user/list": "UserList",
            "user/delete": "UserDelete",
            "user/changepw": "UserChangePassword",
            "user/grant": "UserGrantRole",
            "user/revoke": "UserRevokeRole",
            "role/add": "RoleAdd",
            "role/get": "RoleGet",
            "role/list": "RoleList",
            "role/delete": "RoleDelete",
            "role/grant": "RoleGrantPermission",
            "role/revoke": "RoleRevokePermission",
        },
    ),
    "v3lockpb.Lock": ("/v3/lock/", {"lock": "Lock", "unlock": "Unlock"}),
    "v3electionpb.Election": (
        "/v3/election/",
        {
            "campaign": "Campaign",
            "proclaim": "Proclaim",
            "leader": "Leader",
            "observe": "Observe",
            "resign": "Resign",
        },
    ),
}
"""Service -> what its paths begin with -> how they go on -> its method."""


def _bindings() -> dict[str, Binding]:
    services: dict[str, Any] = {
        service.full_name: service
        for module in (rpc_pb2, lock_pb2, election_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    bindings = {}
    for name, (prefix, methods) in _METHODS.items():
        for end, method_name in methods.items():
            method = services[name].methods_by_name[method_name]
            types = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            bindings[prefix + end] = Binding(f"/{name}/{method_name}".encode(), *types)
    return bindings


BINDINGS: Final[Mapping[str, Binding]] = _bindings()
"""From the path of a request to what is called."""

"""Maintenance.Downgrade: there is nothing to go back to (MT-50 to MT-58).

raftkv writes one storage format and advertises one version, so no target is a valid one; a job never runs, and there is
none to be cancelled. Everything that etcd checks first is checked, in its order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from raftkv.api import errors
from raftkv.api.errors import refuse, status_of
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call

_NAMES: Final = r"(?:[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
_VERSION: Final = re.compile(rf"[0-9]{{1,18}}\.[0-9]{{1,18}}(?:\.[0-9]{{1,18}}(?:-{_NAMES})?(?:\+{_NAMES})?)?")
"""major.minor, or a semantic version whose patch is ignored (MT-51)."""

_VALIDATE, _ENABLE, _CANCEL = (
    rpc_pb2.DowngradeRequest.VALIDATE,
    rpc_pb2.DowngradeRequest.ENABLE,
    rpc_pb2.DowngradeRequest.CANCEL,
)


class Downgrade:
    """The method of that name."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node

    def downgrade(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.DowngradeRequest.FromString, message)
        if request is None:
            return
        if request.action not in (_VALIDATE, _ENABLE, _CANCEL):
            refuse(call, errors.UNKNOWN_METHOD)
        elif request.action != _CANCEL and not _VERSION.fullmatch(request.version):
            refuse(call, errors.WRONG_DOWNGRADE_FORMAT)
        elif not self._node.applier.cluster_version:
            refuse(call, errors.CLUSTER_VERSION_UNKNOWN)
        elif request.action == _CANCEL:
            self._cancel(call)
        else:
            self._node.linearizable(self._refuse_target, call)  # MT-57

    def _refuse_target(self, call: Call, error: Exception | None) -> None:
        """Also one below the cluster's version, the only one that etcd takes (MT-52): its storage format is not ours
        (MT-58)."""
        refuse(call, errors.INVALID_DOWNGRADE_TARGET if error is None else status_of(error))

    def _cancel(self, call: Call) -> None:
        """OK without a job too, as of 3.6 (MT-56)."""
        major, minor, *_ = self._node.applier.cluster_version.split(".")
        response = rpc_pb2.DowngradeResponse(version=f"{major}.{minor}")  # MT-55
        call.reply(self._context.header_now() + response.SerializeToString())

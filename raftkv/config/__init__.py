"""The configuration: one table of settings, and the road from flags, ETCD_* or YAML to a `Config`.

    config = load(argv, environ)

Owns names, defaults, rules F-01 to F-68, and the setting up of logs.
Must not know the server: a `Config` is data.
"""

from raftkv.config.bootstrap import Resolver, reach_same_place, resolve, verify_bootstrap
from raftkv.config.capabilities import Capability
from raftkv.config.compound import parse_initial_cluster
from raftkv.config.errors import ConfigError, StartError, UsageError
from raftkv.config.load import load
from raftkv.config.model import AuthToken, AutoCompaction, Config, Discovery, LogConfig, LogRotation, TlsFiles
from raftkv.config.urls import Url

__all__ = [
    "AuthToken",
    "AutoCompaction",
    "Capability",
    "Config",
    "ConfigError",
    "Discovery",
    "LogConfig",
    "LogRotation",
    "Resolver",
    "StartError",
    "TlsFiles",
    "Url",
    "UsageError",
    "load",
    "parse_initial_cluster",
    "reach_same_place",
    "resolve",
    "verify_bootstrap",
]

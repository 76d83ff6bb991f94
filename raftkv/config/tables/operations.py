"""Settings for running a member: compaction, checks, logs, metrics, and what may break guarantees."""

from typing import Final

from raftkv.config.capabilities import Capability
from raftkv.config.kinds import BOOL, DURATION, INT, LIST, STRING
from raftkv.config.settings import Group, Setting

DEFAULT_LOG_ROTATION: Final = '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}'

COMPACTION: Final = (
    Setting(
        "auto-compaction-mode",
        STRING,
        "periodic",
        Group.COMPACTION,
        "What --auto-compaction-retention counts: time (periodic) or revisions (revision).",
        choices=("periodic", "revision"),
    ),
    Setting(
        "auto-compaction-retention",
        STRING,
        "0",
        Group.COMPACTION,
        "History to keep when compacting automatically: a duration (a plain number counts hours), or a "
        "number of revisions. 0 never compacts automatically.",
    ),
    Setting(
        "compaction-batch-limit",
        INT,
        "1000",
        Group.COMPACTION,
        "Revisions that one step of a compaction deletes. 0 means the default.",
        minimum=0,
        experimental=True,
    ),
    Setting(
        "compaction-sleep-interval",
        DURATION,
        "10ms",
        Group.COMPACTION,
        "Pause between two such steps. 0 means the default.",
        minimum=0,
        experimental=True,
    ),
    Setting(
        "watch-progress-notify-interval",
        DURATION,
        "10m",
        Group.COMPACTION,
        "Time between progress notifications on quiet watches that asked for them. 0 means the default.",
        minimum=0,
        experimental=True,
    ),
    Setting(
        "corrupt-check-time",
        DURATION,
        "0s",
        Group.COMPACTION,
        "Time between comparisons of the members' data. 0 never compares.",
        minimum=0,
        experimental=True,
        no_effect="members compare a hash of their state with every message",
    ),
    Setting(
        "compact-hash-check-time",
        DURATION,
        "1m",
        Group.COMPACTION,
        "Time between comparisons of the members' hashes at their compactions.",
        minimum=1,
        experimental=True,
        no_effect="members compare a hash of their state with every message",
    ),
    Setting(
        "downgrade-check-time",
        DURATION,
        "5s",
        Group.COMPACTION,
        "Time between looks at whether a downgrade has finished.",
        minimum=0,
        experimental=True,
        no_effect="there is one storage format, so no downgrade",
    ),
    Setting(
        "bootstrap-defrag-threshold-megabytes",
        INT,
        "0",
        Group.COMPACTION,
        "Megabytes that a defragmentation at start must free to be done. 0 means never.",
        minimum=0,
        experimental=True,
    ),
)

LOGGING: Final = (
    Setting(
        "log-level",
        STRING,
        "info",
        Group.LOGGING,
        "Least severe messages to log.",
        choices=("debug", "info", "warn", "error", "panic", "fatal"),
    ),
    Setting(
        "log-format",
        STRING,
        "auto",
        Group.LOGGING,
        "json: one object per line for machines. console: lines for people, coloured on a terminal unless "
        "NO_COLOR is set. auto: console (etcd's default is json).",
        choices=("auto", "console", "json"),
    ),
    Setting(
        "log-outputs",
        LIST,
        "default",
        Group.LOGGING,
        "Where to log: default and stderr are the same, stdout, or file names; several, comma-separated.",
    ),
    Setting(
        "logger",
        STRING,
        "zap",
        Group.LOGGING,
        "Name of etcd's logging library.",
        choices=("zap",),
        no_effect="there is one logger",
    ),
    Setting(
        "enable-log-rotation",
        BOOL,
        "false",
        Group.LOGGING,
        "Rotate the log file. --log-outputs must then name exactly one file.",
    ),
    Setting(
        "log-rotation-config-json",
        STRING,
        DEFAULT_LOG_ROTATION,
        Group.LOGGING,
        "When to rotate (maxsize, MiB), what to keep (maxage in days, maxbackups files, 0 keeps all), "
        "localtime in the names of old files, compress them with gzip.",
    ),
    Setting(
        "warning-unary-request-duration",
        DURATION,
        "300ms",
        Group.LOGGING,
        "Requests that take longer are logged. 0 means the default.",
        minimum=0,
        experimental=True,
        no_effect="requests are not timed one by one; warning-apply-duration tells when a batch is slow",
    ),
    Setting(
        "warning-apply-duration",
        DURATION,
        "100ms",
        Group.LOGGING,
        "A batch of requests whose applying takes longer is logged.",
        minimum=0,
        experimental=True,
    ),
)

MONITORING: Final = (
    Setting(
        "metrics",
        STRING,
        "basic",
        Group.MONITORING,
        "extensive adds to /metrics how long calls take; that costs some speed.",
        choices=("basic", "extensive"),
    ),
    Setting(
        "enable-pprof",
        BOOL,
        "false",
        Group.MONITORING,
        "Serve Go's profiler under /debug/pprof.",
        no_effect="that profiler belongs to the Go runtime; /debug/pprof answers 404",
    ),
    Setting(
        "enable-distributed-tracing",
        BOOL,
        "false",
        Group.MONITORING,
        "Send OpenTelemetry traces.",
        experimental=True,
        needs=Capability.TRACING,
    ),
    Setting(
        "distributed-tracing-address",
        STRING,
        "localhost:4317",
        Group.MONITORING,
        "Address of the trace collector.",
        experimental=True,
        idle_without=Capability.TRACING,
    ),
    Setting(
        "distributed-tracing-service-name",
        STRING,
        "etcd",
        Group.MONITORING,
        "Service name in traces, the same for all members.",
        experimental=True,
        idle_without=Capability.TRACING,
    ),
    Setting(
        "distributed-tracing-instance-id",
        STRING,
        "",
        Group.MONITORING,
        "Instance id in traces, different for every member.",
        experimental=True,
        idle_without=Capability.TRACING,
    ),
    Setting(
        "distributed-tracing-sampling-rate",
        INT,
        "0",
        Group.MONITORING,
        "Spans of a million to trace.",
        minimum=0,
        maximum=1_000_000,
        experimental=True,
        idle_without=Capability.TRACING,
    ),
)

UNSAFE: Final = (
    Setting(
        "force-new-cluster",
        BOOL,
        "false",
        Group.UNSAFE,
        "Drop all other members from the configuration, keep the data, and go on as a cluster of one.",
    ),
    Setting(
        "unsafe-no-fsync",
        BOOL,
        "false",
        Group.UNSAFE,
        "Never wait for the disk. A power failure then loses acknowledged writes.",
    ),
)

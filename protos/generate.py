"""Writes raftkv/pb from the .proto files beside this script: `make proto`.

protoc's output is changed in two ways. Descriptors go into a pool of raftkv's own, so that raftkv and any other
etcd client, whose generated code names the same messages, can be imported into one process. And the modules
import one another inside the package.
"""

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
TARGET = PROTOS.parent / "raftkv" / "pb"
FILES = (
    "kv.proto",
    "auth.proto",
    "rpc.proto",
    "lock.proto",
    "election.proto",
    "health.proto",
    "reflection.proto",
    "peer.proto",
)


def generate(target: Path) -> None:
    """Write the `_pb2.py` and `_pb2.pyi` modules of all FILES into the folder `target`."""
    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--python_out={scratch}"]
        arguments += [f"--mypy_out=quiet:{scratch}", f"--plugin={Path(sys.executable).parent / 'protoc-gen-mypy'}"]
        if protoc.main([*arguments, *FILES]) != 0:
            raise SystemExit("protoc failed: see its message above")
        for path in sorted(Path(scratch).iterdir()):
            text = path.read_text()
            (target / path.name).write_text(_private_pool(text) if path.suffix == ".py" else _inside_package(text))


def _private_pool(text: str) -> str:
    text = re.sub(
        r"^from google\.protobuf import descriptor_pool as _descriptor_pool$",
        "from raftkv.pb.pool import POOL as _POOL",
        text,
        flags=re.MULTILINE,
    )
    # The check compares the protobuf runtime with protoc's exact version; the floor in pyproject.toml is what we test.
    text = re.sub(
        r"^_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n", "", text, flags=re.MULTILINE | re.DOTALL
    )
    text = re.sub(r"^from google\.protobuf import runtime_version as _runtime_version\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^# Protobuf Python Version: .*\n", "", text, flags=re.MULTILINE)
    return _inside_package(text.replace("_descriptor_pool.Default()", "_POOL"))


def _inside_package(text: str) -> str:
    return re.sub(r"^import (\w+_pb2)", r"from raftkv.pb import \1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)

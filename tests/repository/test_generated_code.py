"""Generated code is committed; these tests prove that it is what the sources say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_messages_are_fresh(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    subprocess.run([sys.executable, str(ROOT / "protos" / "generate.py"), str(tmp_path)], check=True)
    made = {path.name: path.read_text() for path in sorted(tmp_path.iterdir())}
    kept = {path.name: path.read_text() for path in sorted((ROOT / "raftkv" / "pb").glob("*_pb2.py*"))}
    assert made.keys() == kept.keys()
    stale = [name for name in made if made[name] != kept[name]]
    assert not stale, f"run `make proto`: {stale}"


def test_messages_live_in_a_pool_of_their_own() -> None:
    """Another client with the same message names can be imported first or second."""
    script = (
        "from google.protobuf import descriptor_pool as d\n"
        "from raftkv.pb import rpc_pb2\n"
        "try: d.Default().FindMessageTypeByName('etcdserverpb.PutRequest')\n"
        "except KeyError: pass\n"
        "else: raise SystemExit('in the default pool')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

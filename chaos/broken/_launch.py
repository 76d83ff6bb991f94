"""How a broken node starts: one attribute replaced, a warning that nobody can overlook, then raftkv as always."""

from __future__ import annotations

import sys
from typing import Any

from raftkv.__main__ import main


def launch(owner: Any, name: str, defect: Any) -> int:
    """Put `defect` in the place of owner.name and run raftkv with our arguments; its exit code."""
    assert hasattr(owner, name), f"{owner} has no {name} any more: this defect would not break anything"
    setattr(owner, name, defect)
    print(f"raftkv BROKEN ON PURPOSE: {name} replaced, for chaos runs only", file=sys.stderr, flush=True)
    return main()

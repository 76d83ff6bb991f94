"""raftkv on a machine whose clock is set all the time: `jumping_raftkv.py SPREAD_S serve ...`.

Every look at the wall clock finds it up to SPREAD_S seconds before or behind the right time, by chance. The monotonic
clock goes as ever.
"""

import random
import sys
import time
from collections.abc import Callable


def _jumping(now: Callable[[], float], spread_s: float) -> Callable[[], float]:
    return lambda: now() + random.uniform(-spread_s, spread_s)


if __name__ == "__main__":
    time.time = _jumping(time.time, float(sys.argv[1]))  # before anything of raftkv takes it
    from raftkv.cli.main import run

    raise SystemExit(run(sys.argv[2:]))

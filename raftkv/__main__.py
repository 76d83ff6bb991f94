"""`python -m raftkv` and the installed `raftkv` command."""

import sys

from raftkv.cli.main import run


def main() -> int:
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

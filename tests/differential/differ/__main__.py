"""`python -m differ`; see `cli`."""

from differ.campaign import interrupt_on_sigterm
from differ.cli import main

if __name__ == "__main__":
    interrupt_on_sigterm()
    raise SystemExit(main())

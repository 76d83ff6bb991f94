"""What keeps a run from being made at all.

A violation is not an error here: it is a verdict. These are for what must not pass silently as a success.
"""


class CannotRunError(Exception):
    """Something that the run needs is missing or does not work. The text says what, why, and what to do."""

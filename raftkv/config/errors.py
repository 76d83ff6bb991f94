"""Why a start was refused, in words for the person who started it.

The command line prints `text` and `hint` and ends with `exit_code`; no traceback is shown for these.
"""


class StartError(Exception):
    """The server cannot start, and the person who started it can change that.

    text: one sentence, what happened and why. hint: what to do about it, may be empty.
    """

    exit_code: int = 1

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.text}. {self.hint}" if self.hint else self.text


class ConfigError(StartError):
    """A setting has a value that cannot be used, or contradicts another (rule F-07: exit code 1)."""


class UsageError(ConfigError):
    """The command line cannot be read: unknown flag, missing or unreadable value (rule F-02: exit 2)."""

    exit_code = 2

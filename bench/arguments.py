"""What the commands take as arguments: numbers and addresses, and what is said of those that make no sense."""

from __future__ import annotations

import argparse


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or http://HOST:PORT; an IPv6 address without its brackets."""
    host, colon, port = text.removeprefix("http://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def positive(text: str) -> float:
    """Of seconds, or of calls in a second."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value

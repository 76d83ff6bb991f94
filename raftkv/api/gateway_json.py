"""JSON to messages and back, as the gateway's clients know it (H-24 to H-26).

One table of fields for each message type, made from its descriptor when it is first needed. protobuf's own json_format
is not used: it takes bytes that are no base64, and names for numbers, where etcd refuses them. Knows no path and no
call.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_DEPTH: Final = 100
"""Messages within messages in a request: what protobuf parses. Objects that no field takes may be nested deeper."""

_TOO_DEEP: Final = "exceeded max depth"
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_MAX_DIGITS: Final = 20
"""Of a number of 64 bits."""
_MAX_NUMBER_CHARS: Final = 400


class MalformedJSON(ValueError):
    """The text says what is wrong, and where."""


# --- text to values ---------------------------------------------------------------------------------------------------


class _Decimal(str):
    """A number that is not written as an integer: 1.0, 1e3."""

    __slots__ = ()


def _refuse_constant(name: str) -> None:
    raise MalformedJSON(f"invalid value {name}")


# An object becomes the tuple of its pairs, so that a name that is there twice is noticed; an array is a list.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=tuple, parse_float=_Decimal, parse_constant=_refuse_constant
).raw_decode


def decode_text(body: bytes) -> str:
    """Raises MalformedJSON for what is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"invalid UTF-8 at byte {error.start}") from None


def next_value(text: str, at: int) -> tuple[Any, int] | None:
    """The value that begins at or behind `at`, and where it ends; None at the end of the text.

    Values may follow each other without anything between (H-27). Raises MalformedJSON.
    """
    blank = _BLANK.match(text, at)
    at = blank.end() if blank is not None else at
    if at == len(text):
        return None
    try:
        return _decode(text, at)
    except json.JSONDecodeError as error:
        raise MalformedJSON(_describe(error)) from None
    except RecursionError:
        raise MalformedJSON(_TOO_DEEP) from None
    except MalformedJSON:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedJSON(str(error)) from None


def _describe(error: json.JSONDecodeError) -> str:
    if not error.doc[error.pos :].strip():
        return "unexpected EOF"
    return f"{error.msg} (line {error.lineno}:{error.colno})"


# --- values to messages -----------------------------------------------------------------------------------------------

Setter = Callable[[Any, Any, int], None]
"""set(message, value, depth). Raises ValueError or TypeError for a value that the field does not take."""


class _Input(NamedTuple):
    name: str
    """As in the .proto file."""
    set: Setter
    oneof: str | None


_inputs: Final[dict[str, dict[str, _Input]]] = {}
"""Full name of a message -> the names that a field may have -> the field. Bounded by the message types there are."""


def fill(message: Message, value: Any, depth: int = 0) -> None:
    """Set the fields that an object names; those that the message does not have are ignored.

    Raises MalformedJSON.
    """
    if type(value) is not tuple:
        raise MalformedJSON(f"{_show(value)} is not an object")
    if depth > MAX_DEPTH:
        raise MalformedJSON(_TOO_DEEP)
    descriptor = message.DESCRIPTOR
    table = _inputs.get(descriptor.full_name) or _make_inputs(descriptor)
    seen: set[str] = set()
    for name, given in value:
        field = table.get(name)
        if field is None:
            continue
        if field.name in seen:
            raise MalformedJSON(f'duplicate field "{name}"')
        seen.add(field.name)
        if given is None:
            continue
        if field.oneof is not None:
            if field.oneof in seen:
                raise MalformedJSON(f'error parsing "{name}": another member of {field.oneof} is already set')
            seen.add(field.oneof)
        try:
            field.set(message, given, depth)
        except MalformedJSON:
            raise
        except (ValueError, TypeError):
            raise MalformedJSON(f"invalid value for field {name}: {_show(given)}") from None


def _show(value: Any) -> str:
    """Enough of a value to find it in what was sent."""
    if isinstance(value, tuple):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = str(value) if isinstance(value, _Decimal) else json.dumps(value)
    return text if len(text) <= 64 else f"{text[:64]}..."


def _make_inputs(descriptor: Any) -> dict[str, _Input]:
    table: dict[str, _Input] = {}
    for field in descriptor.fields:
        oneof = None if field.containing_oneof is None else f"oneof {field.containing_oneof.name}"
        made = _Input(field.name, _setter(field), oneof)
        table[field.name] = table[field.json_name] = made
    _inputs[descriptor.full_name] = table
    return table


def _setter(field: FieldDescriptor) -> Setter:
    name, is_message = field.name, field.message_type is not None
    if field.is_repeated:
        return _message_adder(name) if is_message else _value_adder(name, _READERS[field.type](field))
    if is_message:
        return _message_setter(name)
    read = _READERS[field.type](field)

    def set_value(message: Any, value: Any, _depth: int) -> None:
        given = read(value)
        if given is not None:
            setattr(message, name, given)

    return set_value


def _message_setter(name: str) -> Setter:
    def set_message(message: Any, value: Any, depth: int) -> None:
        inner = getattr(message, name)
        inner.SetInParent()  # an empty object counts as well
        fill(inner, value, depth + 1)

    return set_message


def _message_adder(name: str) -> Setter:
    def add_messages(message: Any, value: Any, depth: int) -> None:
        add = getattr(message, name).add
        for each in _items(value):
            fill(add(), each, depth + 1)

    return add_messages


def _value_adder(name: str, read: Callable[[Any], Any]) -> Setter:
    def add_values(message: Any, value: Any, _depth: int) -> None:
        given = (read(each) for each in _items(value))
        getattr(message, name).extend(each for each in given if each is not None)

    return add_values


def _items(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


def _read_integer(value: Any) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise TypeError
    if len(value) > _MAX_NUMBER_CHARS or _NUMBER.fullmatch(value) is None:
        raise ValueError
    number = Decimal(value)
    # The size first: 1e999999999 has that many digits as an integer.
    if number.adjusted() > _MAX_DIGITS or number != number.to_integral_value():
        raise ValueError
    return int(number)


def _read_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _read_string(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value  # protobuf refuses a lone surrogate


def _read_bytes(value: Any) -> bytes:
    """Base64, in either alphabet but not in both, with the right padding or with none."""
    if type(value) is not str:
        raise TypeError
    if "-" in value or "_" in value:
        if "+" in value or "/" in value:
            raise ValueError
        value = value.replace("-", "+").replace("_", "/")
    if "\n" in value or "\r" in value:
        value = value.replace("\n", "").replace("\r", "")
    if len(value) % 4 and not value.endswith("="):
        value += "=" * (-len(value) % 4)
    return a2b_base64(value, strict_mode=True)


def _enum_reader(field: Any) -> Callable[[Any], int | None]:
    numbers = {value.name: value.number for value in field.enum_type.values}

    def read_enum(value: Any) -> int | None:
        """None: a name that is not known is ignored, like a field that is not known."""
        return numbers.get(value) if type(value) is str else _read_integer(value)

    return read_enum


def _always(read: Callable[[Any], Any]) -> Callable[[FieldDescriptor], Callable[[Any], Any]]:
    return lambda _field: read


_READERS: Final[dict[int, Callable[[FieldDescriptor], Callable[[Any], Any]]]] = {
    FieldDescriptor.TYPE_INT32: _always(_read_integer),
    FieldDescriptor.TYPE_INT64: _always(_read_integer),
    FieldDescriptor.TYPE_UINT32: _always(_read_integer),
    FieldDescriptor.TYPE_UINT64: _always(_read_integer),
    FieldDescriptor.TYPE_BOOL: _always(_read_bool),
    FieldDescriptor.TYPE_STRING: _always(_read_string),
    FieldDescriptor.TYPE_BYTES: _always(_read_bytes),
    FieldDescriptor.TYPE_ENUM: _enum_reader,
}
"""The API has no floating-point number and no map: a field of another type is noticed when its table is made."""


# --- messages to text -------------------------------------------------------------------------------------------------

Writer = Callable[[Any], str]

PIECE_BYTES: Final = 16 << 10
"""Of an encoded message: one that is larger is written in pieces by `json_pieces`."""

_outputs: Final[dict[str, dict[int, tuple[str, Writer, bool]]]] = {}
"""Full name of a message -> number of a field -> (`"name":`, how one value is written, whether it is repeated)."""


def to_json(message: Message) -> str:
    """Compact; what has its default value is left out."""
    table = _outputs.get(message.DESCRIPTOR.full_name) or _make_outputs(message.DESCRIPTOR)
    parts = []
    for field, value in message.ListFields():
        name, write, is_repeated = table[field.number]
        parts.append(f"{name}[{','.join(map(write, value))}]" if is_repeated else name + write(value))
    return f"{{{','.join(parts)}}}"


def json_pieces(message: Message) -> Iterator[str]:
    """The same text in pieces of about PIECE_BYTES or one value, for one that takes too long to be written at once."""
    return json_of_parts((message,))


def json_of_parts(parts: Iterable[Message]) -> Iterator[str]:
    """The same of the message that these make together. They come in the order of their fields, and of all fields only
    a repeated one may go on in the next part."""
    before, array = "{", 0
    for part in parts:
        table = _outputs.get(part.DESCRIPTOR.full_name) or _make_outputs(part.DESCRIPTOR)
        for field, value in part.ListFields():
            name, write, is_repeated = table[field.number]
            if field.number != array:
                if array:
                    yield "]"
                yield before + name
            if is_repeated:
                comma = "," if field.number == array else "["
                for each in value:
                    yield comma
                    yield from _value_pieces(write, each)
                    comma = ","
            else:
                yield from _value_pieces(write, value)
            before, array = ",", field.number if is_repeated else 0
    if array:
        yield "]"
    yield "{}" if before == "{" else "}"


def _value_pieces(write: Writer, value: Any) -> Iterator[str]:
    if write is to_json and value.ByteSize() > PIECE_BYTES:
        yield from json_pieces(value)
    else:
        yield write(value)


def _make_outputs(descriptor: Any) -> dict[int, tuple[str, Writer, bool]]:
    table = {
        field.number: (f'"{field.name}":', _WRITERS[field.type](field), field.is_repeated)
        for field in descriptor.fields
    }
    _outputs[descriptor.full_name] = table
    return table


def _write_quoted(value: int) -> str:
    """64 bits do not fit into a number of JavaScript."""
    return f'"{value}"'


def _write_bool(value: bool) -> str:
    return "true" if value else "false"


def write_bytes(value: bytes) -> str:
    return f'"{b2a_base64(value, newline=False).decode()}"'


def _enum_writer(field: Any) -> Writer:
    names = {value.number: f'"{value.name}"' for value in field.enum_type.values}
    return lambda value: names.get(value) or str(value)


def _as(write: Writer) -> Callable[[FieldDescriptor], Writer]:
    return lambda _field: write


_WRITERS: Final[dict[int, Callable[[FieldDescriptor], Writer]]] = {
    FieldDescriptor.TYPE_INT32: _as(str),
    FieldDescriptor.TYPE_UINT32: _as(str),
    FieldDescriptor.TYPE_INT64: _as(_write_quoted),
    FieldDescriptor.TYPE_UINT64: _as(_write_quoted),
    FieldDescriptor.TYPE_BOOL: _as(_write_bool),
    FieldDescriptor.TYPE_STRING: _as(encode_basestring_ascii),
    FieldDescriptor.TYPE_BYTES: _as(write_bytes),
    FieldDescriptor.TYPE_ENUM: _enum_writer,
    FieldDescriptor.TYPE_MESSAGE: _as(to_json),
}

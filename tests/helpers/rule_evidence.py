"""Which rules a test checks, by what is written in and around it.

Owns the places that are looked at. A test is taken at its word: whoever names a rule in a test says that the test would
fail if the rule did not hold. Knows neither results nor pages.

Looked at, for one test:
- its name (`test_g_40_...`), its docstring and its comments, and those of the functions of its module that it uses,
  however deep;
- its own parameters: their ids, the lines of the table where they stand, and stories that are files;
- of a Hypothesis state machine, the whole machine.

What the module's docstring names counts for the module as a whole: see `named_by_module`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import pytest

from helpers.rule_list import RuleList

_STORIES: Final = {".txt"}
_RULE_IN_NAME: Final = re.compile(r"_([a-z]+\d?)_(\d\d)(?=_|$)")


def named_by_test(item: pytest.Item, rules: RuleList) -> frozenset[str]:
    """Ids of the rules that this test, with these parameters, names."""
    texts = [text for text in _texts(item) if "-" in text]
    return frozenset().union(*(rules.named_in(text) for text in texts))


def named_by_module(item: pytest.Item, rules: RuleList) -> frozenset[str]:
    """Ids of the rules that the docstring of the test's module names."""
    module = getattr(item, "module", None)
    return rules.named_in((module.__doc__ or "") if module is not None else "")


def _texts(item: pytest.Item) -> Iterator[str]:
    function, module = getattr(item, "function", None), getattr(item, "module", None)
    if function is None or module is None:
        return
    yield _RULE_IN_NAME.sub(lambda match: f" {match[1].upper()}-{match[2]} ", function.__name__)
    yield from _machine(item, module)
    if function.__module__ == module.__name__:
        yield from (_body(each) for each in _used(function, module))
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        yield from _decorators(function, "")
        return
    yield callspec.id
    yield from _decorators(function, callspec.id)
    for value in callspec.params.values():
        yield from _parameter(value, module)
    rows = _rows(module)
    for name in (callspec.id, *callspec.id.split("-")):
        yield rows.get(name, "")


def _machine(item: pytest.Item, module: ModuleType) -> Iterator[str]:
    """The classes behind `TestX = X.TestCase`, up to Hypothesis' own."""
    test_case = getattr(item, "cls", None)
    for machine in vars(module).values():
        if isinstance(machine, type) and test_case is not None and getattr(machine, "TestCase", None) is test_case:
            for each in machine.__mro__:
                if not each.__module__.startswith(("hypothesis", "builtins")):
                    yield inspect.getsource(each)


def _used(function: Any, module: ModuleType) -> list[Any]:
    """The function and every other one of its module that it reaches by name."""
    found, waiting = [], [inspect.unwrap(function)]
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        found.append(each)
        for name in sorted(_names(each.__code__)):
            other = vars(module).get(name)
            if isinstance(other, FunctionType) and other.__module__ == module.__name__:
                waiting.append(inspect.unwrap(other))
    return found


@cache
def _names(code: CodeType) -> frozenset[str]:
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return frozenset(code.co_names).union(*inner)


@cache
def _parsed(function: Any) -> tuple[list[str], ast.FunctionDef | ast.AsyncFunctionDef | None]:
    """The lines of a function with its decorators, and its syntax tree with line numbers that fit them."""
    source = textwrap.dedent(inspect.getsource(function))
    try:
        node = ast.parse(source).body[0]
    except SyntaxError:  # a lambda: its line begins somewhere inside an expression
        return source.splitlines(), None
    return source.splitlines(), node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None


def _body(function: Any) -> str:
    lines, node = _parsed(function)
    return "\n".join(lines[node.lineno - 1 :] if node is not None else lines)


def _decorators(function: Any, case: str) -> Iterator[str]:
    """What stands above the function, without what stands there for other cases than this one."""
    lines, node = _parsed(function)
    if node is None:
        return  # as Hypothesis makes them
    elsewhere: set[int] = set()
    for decorator in node.decorator_list:
        for call in (each for each in ast.walk(decorator) if isinstance(each, ast.Call)):
            for keyword in call.keywords:
                if keyword.arg == "ids":
                    elsewhere.update(_span(keyword.value))
            if (name := _row_name(call)) is not None and not _is_part(name, case):
                elsewhere.update(_span(call))
    above = range(1, node.lineno)
    yield "\n".join(lines[number - 1] for number in above if number not in elsewhere)


def _is_part(name: str, case: str) -> bool:
    """Whether the id of a case is this name, or has it among the names of several parameters."""
    return name == case or case.startswith(f"{name}-") or case.endswith(f"-{name}") or f"-{name}-" in case


def _parameter(value: object, module: ModuleType) -> Iterator[str]:
    if isinstance(value, FunctionType):
        if value.__module__ == module.__name__:
            yield from (_body(each) for each in _used(value, module))
    elif isinstance(value, Path):
        if value.suffix in _STORIES and value.is_file():
            yield value.read_text()
    elif isinstance(name := getattr(value, "name", None), str):
        yield _rows(module).get(name, "")


@cache
def _rows(module: ModuleType) -> Mapping[str, str]:
    """The lines of each row of the module's tables: a call outside of functions that begins with a name or has one."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found: dict[str, str] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for call in (each for each in ast.walk(statement) if isinstance(each, ast.Call)):
            name = _row_name(call)
            if name is not None:
                found[name] = "\n".join(lines[number - 1] for number in _span(call))
    return found


def _row_name(call: ast.Call) -> str | None:
    """`pytest.param(..., id="x")` and `Scenario("x", ...)` are rows named x."""
    named = [keyword.value for keyword in call.keywords if keyword.arg in {"id", "name"}]
    first = call.args[:1] if not isinstance(call.func, ast.Attribute) else []
    for node in (*named, *first):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
    return None


def _span(node: ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)

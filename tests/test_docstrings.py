"""Every public function with two or more arguments says what they are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

PACKAGES = ("db", "models", "screening", "workflows")


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions and methods, but for those that override a method of a base class."""
    for name in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for item in vars(module).values():
                if getattr(item, "__module__", None) != module.__name__:
                    continue
                if isinstance(item, FunctionType) and not item.__name__.startswith("_"):
                    yield f"{module.__name__}.{item.__name__}", item
                elif isinstance(item, type) and not item.__name__.startswith("_"):
                    for method in methods(item):
                        yield f"{module.__name__}.{method.__qualname__}", method


def methods(kind: type) -> Iterator[Callable[..., Any]]:
    for name, item in vars(kind).items():
        method = item.__func__ if isinstance(item, (classmethod, staticmethod)) else item
        own = not any(hasattr(base, name) for base in kind.__mro__[1:])
        if isinstance(method, FunctionType) and own and not name.startswith("_"):
            yield method


def arguments(function: Callable[..., Any]) -> list[inspect.Parameter]:
    every = inspect.signature(function).parameters.values()
    return [argument for argument in every if argument.name not in ("self", "cls")]


def is_command(function: Callable[..., Any]) -> bool:
    """Whether it is a command of the terminal, whose options have their own help."""
    return any(
        "typer." in str(a.annotation) or "options." in str(a.annotation)
        for a in arguments(function)
    )


def is_documented(function: Callable[..., Any]) -> bool:
    """Whether it has the section, or names the function that has it."""
    text = inspect.getdoc(function) or ""
    return "Parameters\n----------\n" in text or "Parameters are those of :func:" in text


def test_public_functions_say_what_their_arguments_are() -> None:
    looked_at = 0
    missing = []
    for name, function in functions():
        if len(arguments(function)) < 2 or is_command(function):
            continue
        looked_at += 1
        if not is_documented(function):
            missing.append(name)
    assert missing == []
    assert looked_at > 100

"""Expressions over named quantities, such as ``vb_gap.width >= 1.0 and dos_at_fermi > 0.5``.

Python's grammar, of which the few nodes below are walked with NumPy and nothing is ever executed.
numexpr has no ``and`` and no dotted names and compiles with `eval`; asteval and simpleeval walk
the tree too, but for one material at a time.

A condition is 1 (true), 0 (false) or NaN (not known: a comparison of what is not a finite number),
and the three combine as in Kleene's logic: ``x != 0 and 1 / x > 2`` is false where x is 0.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import Any, Literal

import numpy as np

from screening.errors import ScreeningError

Sort = Literal["number", "condition"]
Values = Any  # float or ndarray, shape (B,)

MAX_LENGTH = 2000  # characters
MAX_DEPTH = 60  # levels of nesting; each is some frames of Python's stack
_ARITHMETIC: dict[type[ast.AST], Callable[[Values, Values], Values]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_COMPARISONS: dict[type[ast.AST], Callable[[Values, Values], Values]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
FUNCTIONS: dict[str, Callable[[Values], Values]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
}
"""Of one number; besides, there are `min`, `max` and `where(condition, a, b)`."""
_REDUCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "min": np.minimum,
    "max": np.maximum,
}
_KNOWN_FUNCTIONS = (*FUNCTIONS, *_REDUCTIONS, "where")


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Use :meth:`parse`.

    Parameters
    ----------
    text : str
    tree : ast.expr
    names : tuple of str
        Those that it uses, in their order.
    """

    text: str
    tree: ast.expr
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, sort: Sort, names: Mapping[str, Sort], what: str) -> Expression:
        """Read an expression and check all of it, without any values.

        Parameters
        ----------
        text : str
        sort : {'number', 'condition'}
            What it must be.
        names : mapping of str to str
            Of what sort each known name is.
        what : str
            What the expression is, for errors.

        Raises
        ------
        ScreeningError
            In one line, with the place.
        """
        text = " ".join(text.split())
        if len(text) > MAX_LENGTH:
            raise ScreeningError(f"{what}: more than {MAX_LENGTH} characters")
        try:
            tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            column = error.offset or len(text) + 1  # 0 where it ends too early
            raise ScreeningError(f"{what}, column {column}: {error.msg}: {text}") from None
        except (ValueError, RecursionError, MemoryError):
            raise ScreeningError(f"{what}: cannot be read: {text[:60]}") from None
        checker = _Checker(what, names, text)
        checker.expect(tree, sort)
        return cls(text, tree, tuple(dict.fromkeys(checker.used)))

    def evaluate(self, values: Mapping[str, Values], size: int) -> np.ndarray:
        """Value for each material, shape (size,), not finite where there is none.

        Parameters
        ----------
        values : mapping of str to float or ndarray, shape (size,)
            Of all `names`.
        size : int
        """
        with np.errstate(all="ignore"):
            return np.broadcast_to(_value(self.tree, values), (size,)).astype(float)


class _Checker:
    """Finds what is wrong with a tree, and the names that it uses."""

    def __init__(self, what: str, names: Mapping[str, Sort], text: str) -> None:
        self.what, self.names, self.text = what, names, text
        self.used: list[str] = []
        self.depth = 0

    def expect(self, node: ast.expr, sort: Sort) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(node, f"nested more than {MAX_DEPTH} levels deep")
        found = self.sort(node)
        self.depth -= 1
        if found != sort:
            part = ast.get_source_segment(self.text, node)
            raise self.error(node, f"{part} is a {found}, needed is a {sort}")

    def sort(self, node: ast.expr) -> Sort:
        match node:
            case ast.Constant(value=bool()):
                return "condition"
            case ast.Constant(value=int() | float() as value) if _is_finite(value):
                return "number"
            case ast.Name() | ast.Attribute():
                return self.name(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self.all([operand], "number", "number")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.all([operand], "condition", "condition")
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                return self.all([left, right], "number", "number")
            case ast.BoolOp(values=operands):
                return self.all(operands, "condition", "condition")
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                return self.all([left, *others], "number", "condition")
            case ast.Call(func=ast.Name(id=function), args=args, keywords=[]):
                return self.call(node, function, args)
        part = ast.get_source_segment(self.text, node) or self.text
        raise self.error(node, f"{part[:40]} is nothing that a criterion may use")

    def all(self, operands: Iterable[ast.expr], needed: Sort, result: Sort) -> Sort:
        for operand in operands:
            self.expect(operand, needed)
        return result

    def call(self, node: ast.expr, function: str, args: list[ast.expr]) -> Sort:
        if function not in _KNOWN_FUNCTIONS:
            raise self.error(node, unknown("function", function, _KNOWN_FUNCTIONS))
        if function == "where" and len(args) == 3:
            self.expect(args[0], "condition")
            return self.all(args[1:], "number", "number")
        if (function in FUNCTIONS and len(args) == 1) or (
            function in _REDUCTIONS and len(args) > 1
        ):
            return self.all(args, "number", "number")
        counts = {"where": "a condition and two numbers"} | dict.fromkeys(FUNCTIONS, "one number")
        needed = counts.get(function, "two numbers or more")
        raise self.error(node, f"{function}() takes {needed}")

    def name(self, node: ast.expr) -> Sort:
        name = _dotted(node)
        if name not in self.names:
            raise self.error(node, unknown("feature", name, self.names))
        self.used.append(name)
        return self.names[name]

    def error(self, node: ast.expr, message: str) -> ScreeningError:
        return ScreeningError(f"{self.what}, column {node.col_offset + 1}: {message}")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """That there is no such thing, with the ones of a similar name, or else all.

    Parameters
    ----------
    what : str
        Such as ``"feature"``.
    name : str
    known : iterable of str

    Examples
    --------
    >>> unknown("feature", "vb_gap.widht", ["vb_gap.width", "n_atoms"])
    "unknown feature 'vb_gap.widht'; did you mean vb_gap.width?"
    """
    known = list(known)
    alike = get_close_matches(name, known)
    hint = f"did you mean {' or '.join(alike)}?" if alike else f"there are {', '.join(known)}"
    return f"unknown {what} {name!r:.60}; {hint}"


def _is_finite(value: float) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def _dotted(node: ast.expr) -> str:
    return ast.unparse(node)


def _value(node: ast.expr, values: Mapping[str, Values]) -> Values:
    """Value of a node that was checked."""

    def each(nodes: Iterable[ast.expr]) -> list[Values]:
        return [_value(item, values) for item in nodes]

    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name() | ast.Attribute():
            return np.asarray(values[_dotted(node)], float)
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, values)
            return {ast.USub: -value, ast.UAdd: value, ast.Not: 1.0 - value}[type(op)]
        case ast.BinOp(op=op, left=left, right=right):
            return _ARITHMETIC[type(op)](*each([left, right]))
        case ast.BoolOp(op=op, values=operands):
            return _combined(op, each(operands))
        case ast.Compare(left=left, ops=ops, comparators=others):
            chain = each([left, *others])
            pairs = zip(chain[:-1], ops, chain[1:], strict=True)
            return _combined(ast.And(), [_compared(a, op, b) for a, op, b in pairs])
        case ast.Call(func=ast.Name(id="where"), args=args):
            condition, yes, no = each(args)
            return np.where(np.isnan(condition), np.nan, np.where(condition == 1.0, yes, no))
        case ast.Call(func=ast.Name(id=function), args=args):
            if function in FUNCTIONS:
                return FUNCTIONS[function](*each(args))
            return reduce(_REDUCTIONS[function], each(args))
    raise AssertionError(ast.dump(node))


def _combined(op: ast.boolop, conditions: list[Values]) -> Values:
    """Whether all conditions are true, or any, where what is not known does not matter."""
    decisive = 0.0 if isinstance(op, ast.And) else 1.0
    parts = np.broadcast_arrays(*conditions)
    decided = np.any([part == decisive for part in parts], axis=0)
    return np.where(decided, decisive, sum(parts) * 0.0 + (1.0 - decisive))


def _compared(left: Values, op: ast.cmpop, right: Values) -> Values:
    known = np.isfinite(left) & np.isfinite(right)
    return np.where(known, _COMPARISONS[type(op)](left, right), np.nan)

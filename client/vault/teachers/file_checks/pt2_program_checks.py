"""Checks of the program in an archive of torch.export, before torch's reader sees it.

The reader looks operators up by attributes of torch, math and operator (of which one is torch.os),
evaluates sizes that are written as Python expressions, and compiles guards. So of operators only
those of torch's own libraries are let through, of expressions only sums, products and the like of
symbols, and guards are taken away. That closes the ways that we know of; it is no proof.
"""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

OPERATORS = re.compile(
    r"torch\.ops\.(?:aten|prims|higher_order|quantized|quantized_decomposed|torchvision)"
    r"\.(?!(?:from_file|save|load)\b)(?:__(?:and|or|xor|lshift|rshift)__|(?!__)\w+)"
    r"(?:\.(?!__)\w+)?"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(?:ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(?:float|int|max|min|not|ite|sum)"
)
"""Operators of a graph, as the archive spells them."""
EXPRESSIONS = frozenset(
    (
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Max", "Min", "Mod", "PythonMod"),
        *("FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "TruncToInt"),
        *("CeilToInt", "FloorToInt", "RoundToInt", "Where", "Identity", "Equality", "Unequality"),
        *("StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not"),
    )
)
"""Functions in an expression for a size, as sympy writes them."""
SYMBOL = re.compile(r"\w{1,64}")
NAME = re.compile(r"\w{0,1024}")
MAX_EXPRESSION = 4096
"""Characters of an expression."""


def checked_program(content: bytes) -> bytes:
    """The program of an archive, ``models/model.json``, without its guards.

    Raises:
        ValueError: naming what it has that could run code.
    """
    program = json.loads(content.decode())
    if not isinstance(program, dict):
        raise ValueError("a program that is none")
    program["guards_code"] = []
    for key, text in _texts(program):
        if key == "target" and not OPERATORS.fullmatch(text):
            raise ValueError(f"the operator {text[:80]!r}")
        if key == "expr_str" and not _is_plain_expression(text):
            raise ValueError(f"the size {text[:80]!r}")
        if key == "name" and not NAME.fullmatch(text):
            raise ValueError(f"the name {text[:80]!r}")
    return json.dumps(program).encode()


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a value from JSON, with the key that it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value


def _is_plain_expression(text: str) -> bool:
    """Whether sympy's evaluation of a text calls nothing but functions of numbers."""
    if len(text) > MAX_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return _is_plain(tree.body)


def _is_plain(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return bool(SYMBOL.fullmatch(text))
        case ast.Constant(value=int() | float() | bool()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _is_plain(inner)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=named):
            values = [*arguments, *(each.value for each in named)]
            return name in EXPRESSIONS and all(map(_is_plain, values))
    return False

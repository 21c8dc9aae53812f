"""A calculator as an MCP server on stdin and stdout: one tool, which evaluates arithmetic without ever running it as code.

    mcp-endpoint pipe -- python examples/calculator.py

Needs the package `mcp` (2.x or 1.x).
"""

from __future__ import annotations

import ast
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

try:
    from mcp.server.mcpserver import MCPServer
except ModuleNotFoundError:
    try:
        from mcp.server.fastmcp import FastMCP as MCPServer  # mcp 1.x
    except ModuleNotFoundError:
        sys.exit("需要 mcp 包 / the package mcp is needed: pip install mcp")

Number = int | float

EXPRESSION_CHARACTERS = 1_000
"""Longest expression."""
INTEGER_BITS = 10_000
"""Largest integer, about 3,000 digits: below what Python refuses to print, and computed in microseconds."""
FACTORIAL_OF = 1_000
"""Largest argument of factorial; its result fits INTEGER_BITS."""
ROUND_DIGITS = 300
"""Most digits to round to, on either side of the point."""

TOO_LARGE = "数字太大 / the number is too large"


class Refused(Exception):
    """The expression is not arithmetic, or too much of it."""


def _bits(number: Number) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _times(left: Number, right: Number) -> Number:
    if _bits(left) + _bits(right) > INTEGER_BITS:
        raise Refused(TOO_LARGE)
    return left * right


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and math.log2(abs(base)) * exponent > INTEGER_BITS:
        raise Refused(TOO_LARGE)
    return base**exponent


def _factorial(number: Number) -> int:
    if not isinstance(number, int) or not 0 <= number <= FACTORIAL_OF:
        raise Refused(f"factorial: 只支持 0 到 {FACTORIAL_OF} 的整数 / only integers from 0 to {FACTORIAL_OF}")
    return math.factorial(number)


def _round(number: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > ROUND_DIGITS:
        raise Refused(f"round: 位数须在 ±{ROUND_DIGITS} 之内 / digits must be within ±{ROUND_DIGITS}")
    return round(number, digits) if digits else round(number)


OPERATORS: dict[type[ast.operator | ast.unaryop], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
FROM_MATH = (
    *("sqrt", "cbrt", "isqrt", "exp", "log", "log2", "log10", "floor", "ceil", "trunc", "fabs", "fmod", "hypot", "gcd", "lcm"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "degrees", "radians"),
)
FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(math, name) for name in FROM_MATH} | {
    "abs": abs,
    "factorial": _factorial,
    "float": float,
    "int": int,
    "max": max,
    "min": min,
    "pow": _power,
    "round": _round,
}


def evaluate(expression: str) -> Number:
    """The value of an arithmetic expression in Python's notation: numbers, + - * / // % **, brackets, the constants and functions above
    (also as `math.sqrt`). It is parsed and walked, never executed.

    Raises Refused, with a sentence for the person who asked.
    """
    if len(expression) > EXPRESSION_CHARACTERS:
        raise Refused(f"表达式超过 {EXPRESSION_CHARACTERS} 个字符 / the expression has more than {EXPRESSION_CHARACTERS} characters")
    try:
        return _walk(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise Refused("不能除以零 / division by zero") from None
    except OverflowError:
        raise Refused(TOO_LARGE) from None
    except (SyntaxError, RecursionError, MemoryError):
        raise Refused("不是算术表达式 / not an arithmetic expression") from None
    except (TypeError, ValueError) as error:
        raise Refused(f"无法计算 / cannot be computed: {error}") from None


def _walk(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise Refused("不支持 / not supported: bool")
        case ast.Constant(value=int() | float() as number):
            value = number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            value = OPERATORS[type(op)](_walk(left), _walk(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            value = OPERATORS[type(op)](_walk(operand))
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="math"), attr=name) if name in CONSTANTS:
            value = CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="math"), attr=name), args=args, keywords=[]) if (
            name in FUNCTIONS
        ):
            value = FUNCTIONS[name](*map(_walk, args))
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            raise Refused(f"未知名称 / unknown name: {name}")
        case _:
            raise Refused(f"不支持 / not supported: {type(node).__name__}")
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise Refused("结果不是实数 / the result is not a real number")
    if _bits(value) > INTEGER_BITS:
        raise Refused(TOO_LARGE)
    return value


server = MCPServer("calculator")


@server.tool()
def calculator(python_expression: str) -> dict[str, Any]:
    """计算算术表达式。需要计算数字时请始终使用本工具。支持 + - * / // % **、括号与 sqrt、sin、log、factorial、pi 等。

    Evaluates arithmetic in Python's notation, such as `130000 * 130000` or `sqrt(2) * pi`. Always use it to compute with numbers.
    """
    try:
        return {"success": True, "result": evaluate(python_expression)}
    except Refused as refusal:
        return {"success": False, "error": str(refusal)}


if __name__ == "__main__":
    server.run()

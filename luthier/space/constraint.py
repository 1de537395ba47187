"""A constraint on configurations: a function of the user's, called safely, and known again by what it computes."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType
from typing import Any, final

from luthier.errors import SpaceError

REMEDY = "It takes a configuration, a dict without the names that are inactive, and returns True or False."


@final
class Constraint:
    """A condition that every configuration of a space fulfils.

    Args:
        function: ``f(config) -> bool``; None where a space was read from a store, which keeps the text alone.
        text: Its name, and the fingerprint of what it computes.
    """

    def __init__(self, function: Callable[[Mapping[str, Any]], bool] | None, text: str | None = None) -> None:
        self.function = function
        if text is None:
            name = getattr(function, "__name__", type(function).__name__)
            text = f"{name} {hashlib.sha256(_content(function).encode()).hexdigest()[:16]}"
        self.text = text

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.text.partition(" ")[0]

    def allows(self, config: Mapping[str, Any]) -> bool:
        """Return True if a configuration fulfils it; any does where the function is not available.

        Raises:
            SpaceError: If the function raises, or returns anything other than True or False.
        """
        if self.function is None:
            return True
        try:
            answer: Any = self.function(config)
        except Exception as error:
            what = f"the constraint raised {type(error).__name__} ({error}) at {dict(config)!r}"
            raise SpaceError(what, where="constraint", remedy=REMEDY) from error
        answer = answer.item() if hasattr(answer, "item") else answer  # NumPy's and torch's
        if not isinstance(answer, bool):
            what = f"the constraint returned {answer!r} at {dict(config)!r}"
            raise SpaceError(what, where="constraint", remedy=REMEDY)
        return answer


def _content(function: Any) -> str:
    """The source of a function, and the plain values that it uses from outside; of anything else its type and repr."""
    if isinstance(function, partial):
        return f"{_content(function.func)} {function.args!r} {sorted(function.keywords.items())!r}"
    function = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(function, "__code__", None)
    if code is None:
        call = type(function).__call__
        known = sorted(vars(function).items()) if hasattr(function, "__dict__") else ""
        return f"{type(function).__qualname__} {_source(call) if hasattr(call, '__code__') else ''} {known!r}"
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    used = [function.__globals__[name] for name in sorted(code.co_names) if name in function.__globals__]
    outside = [_content(value) if hasattr(value, "__code__") else _plain(value) for value in [*cells, *used]]
    return f"{_source(function)} {outside!r} {function.__defaults__!r} {function.__kwdefaults__!r}"


def _plain(value: Any) -> str:
    """The text of a value that is plain, and of anything else its type, since its repr may change from run to run."""
    plain = str | int | float | bool | None | list | tuple | dict | set | frozenset
    return repr(value) if isinstance(value, plain) else type(value).__qualname__


def _source(function: Any) -> str:
    """The source without comments and layout; of a lambda, of itself alone; where there is none, the byte code."""
    code = function.__code__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # typed in, or a part of a statement over several lines
        return _bytes(code)
    if function.__name__ != "<lambda>":
        return ast.unparse(tree)
    texts = sorted({ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Lambda)})
    same = [text for text in texts if _bytes(code) in [_bytes(one) for one in _codes(compile(text, "", "eval"))]]
    found = texts if len(texts) == 1 else same  # a lambda of a function's own variables compiles differently alone
    return found[0] if len(found) == 1 else _bytes(code)


def _codes(code: CodeType) -> list[CodeType]:
    return [part for part in code.co_consts if isinstance(part, CodeType)]


def _bytes(code: CodeType) -> str:
    inner = [_bytes(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {inner}"

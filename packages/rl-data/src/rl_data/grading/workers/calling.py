"""The user's own grading functions. Only worker processes call them."""

import asyncio
import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

from rl_data.grading.workers.messages import Call, Verdict

type UserFunction = Callable[[str, str | None, dict[str, Any]], Any]


def load_function(path: str) -> UserFunction:
    """The function that `package.module.function` or `package.module:function` names.

    Raises:
        ImportError, AttributeError, TypeError: if there is none, or it cannot be called as a grader is; whatever the
            module itself raises, too.
    """
    module_name, _, name = path.replace(":", ".").rpartition(".")
    if not module_name:
        raise ImportError(f"{path}: expected package.module.function")
    function = getattr(importlib.import_module(module_name), name)
    if not callable(function):
        raise TypeError(f"{path}: expected a function, found {type(function).__name__}")
    _check_arguments(path, function)
    return cast(UserFunction, function)


def _check_arguments(path: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # functions written in C may have none
        return
    try:
        signature.bind("", None, {})
    except TypeError as error:
        raise TypeError(f"{path}{signature}: expected a function of (response, label, metadata): {error}") from None


def call(function: UserFunction, task: Call) -> Verdict:
    """What the function says: a number, or a number and a reason; it may be a coroutine function.

    Raises:
        TypeError: if it returns anything else.
    """
    result = function(task.response, task.label, task.metadata)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    match result:
        case (int() | float() as value, str() as reason) if math.isfinite(value):
            return Verdict(value=float(value), reason=reason)
        case int() | float() if math.isfinite(result):
            return Verdict(value=float(result), reason="")
        case _:
            raise TypeError(f"expected a finite number, or a number and a reason, got {str(result)[:80]}")

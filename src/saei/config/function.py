"""A function as a strategy: the class of a kind whose one method is the function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal


def strategy_of(function: Callable[..., Any], base: type[Any], name: str, **attributes: Any) -> type[Any]:
    """Return a strategy class without fields of its own, named and documented as a function.

    Args:
        function: What gives the class its name, module and docstring.
        base: The abstract class of the kind.
        name: The strategy's name.
        attributes: Of the class: the method, and whatever else it overrides.
    """
    place = {"__module__": function.__module__, "__doc__": inspect.getdoc(function)}
    qualified = function.__qualname__
    # A computed annotation, which the text of a class statement could not hold.
    fields = {"__annotations__": {"type": Literal[name]}, "type": name, "__qualname__": f"{qualified}.Config"}
    config = type(
        "Config", (base.Config,), {**fields, **place, "__doc__": "Only the fields of every strategy of its kind."}
    )
    return type(function.__name__, (base,), {**place, "__qualname__": qualified, "Config": config, **attributes})

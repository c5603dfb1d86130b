"""Builds the object that a ``_target_`` names, and refuses mistakes that Hydra would let pass."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, TypeVar, get_type_hints

from hydra.utils import get_object
from omegaconf import MISSING
from pydantic import ConfigDict, create_model

from dataecho.errors import SettingError, refuse_unknown
from dataecho.extras import cure_of_missing
from dataecho.moved import current_name
from dataecho.settings import Node, check_types

T = TypeVar("T")

_ANY_POSITIONAL, _ANY_NAMED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def build(node: Node, contract: type[T], *given: Any, key: str) -> T:
    """Call the ``_target_`` of ``node`` with ``given`` and the node's keys; check their names, types and the result.

    A key whose value is itself a node is built first, in the same way. Nodes in a dictionary or list (a task's
    ``models``) are passed on unbuilt.

    Raises :class:`SettingError` for a missing or unknown target, a key that it does not take or lacks, a value of the
    wrong type, and a target that is not a ``contract``.
    """
    target = _target(node, contract, key=key)
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    for name, value in arguments.items():
        if isinstance(value, str) and value == MISSING:
            raise SettingError(f"{key}.{name}", value, allowed="a value", cure=f"Say which: {key}.{name}=...")
    _check_names(target, arguments, node, num_given=len(given), key=key)
    for name, value in arguments.items():
        if _is_node(value):
            arguments[name] = _build_inner(value, key=f"{key}.{name}")
    # Called here, not by Hydra: Hydra would copy what was built, and turn dataclasses into dictionaries.
    built = target(*given, **_typed(target, arguments, key=key))
    if not isinstance(built, contract):
        raise _no_contract(node, contract, key)
    return built


def _target(node: Node, contract: type, *, key: str) -> Any:
    name = node.get("_target_")
    if not isinstance(name, str):
        # A misspelt `_target_` would otherwise pass as an ordinary key.
        refuse_unknown([k for k in node if k.startswith("_")], ["_target_"], prefix=f"{key}.", values=node)
        raise SettingError(f"{key}._target_", name, allowed="the dotted path of a class", cure=f"Choose {key}=<name>.")
    try:
        target = get_object(current_name(name))
    except Exception as error:
        raise SettingError(
            f"{key}._target_",
            name,
            allowed="the dotted path of a class that can be imported",
            cure=f"The import failed: {cure_of_missing(error)}",
        ) from error
    if contract is not object and not (isinstance(target, type) and issubclass(target, contract)):
        raise _no_contract(node, contract, key)
    if not callable(target):
        raise SettingError(
            f"{key}._target_", name, allowed="the dotted path of a class or function", cure="It cannot be called."
        )
    return target


def _no_contract(node: Node, contract: type, key: str) -> SettingError:
    return SettingError(
        f"{key}._target_",
        node["_target_"],
        allowed=f"a class derived from {contract.__module__}.{contract.__qualname__}",
        cure=f"Choose {key}=<name>, or derive the class from it.",
    )


def _is_node(value: Any) -> bool:
    # By the underscore, not by the exact name, so that a misspelt `_target_` is refused and not passed on.
    return isinstance(value, dict) and any(str(name).startswith("_") for name in value)


def _build_inner(node: Node, *, key: str) -> Any:
    try:
        return build(node, object, key=key)
    except SettingError as error:
        if error.key in node:  # a class names its argument; the user typed it below `key`
            error.key = f"{key}.{error.key}"
            error.args = (f"{key}.{error}",)
        raise


def _check_names(target: Any, arguments: Node, node: Node, *, num_given: int, key: str) -> None:
    """Refuse keys that ``target`` does not take, and require those that it needs."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # a function written in C, without one
        return
    parameters = list(signature.parameters.values())[num_given:]
    named = [parameter for parameter in parameters if parameter.kind not in (_ANY_POSITIONAL, _ANY_NAMED)]
    if not any(parameter.kind is _ANY_NAMED for parameter in parameters):
        refuse_unknown(arguments, [parameter.name for parameter in named], prefix=f"{key}.", values=arguments)
    for parameter in named:
        name = parameter.name
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise SettingError(
                f"{key}.{name}", "nothing", allowed="a value", cure=f"{node['_target_']} needs it: +{key}.{name}=..."
            )


def _typed(target: Any, arguments: Node, *, key: str) -> Node:
    try:
        # A dataclass inherits fields whose annotations only its base's module can resolve.
        by_class = dataclasses.is_dataclass(target)
        hints = get_type_hints(
            target if by_class or not isinstance(target, type) else inspect.getattr_static(target, "__init__")
        )
    except (NameError, TypeError):  # annotations that only a type checker can read; functions that can have none
        return arguments
    fields: dict[str, Any] = {name: (hints.get(name, Any), ...) for name in arguments}
    model = create_model("Arguments", __config__=ConfigDict(strict=True, arbitrary_types_allowed=True), **fields)
    return check_types(key, arguments, model)

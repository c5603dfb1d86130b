"""Builds what a ``_target_`` names. Hydra's ``_target_`` is the registry; what Hydra lets pass is refused here."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, TypeVar, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from pydantic import ConfigDict, create_model

from dataecho.errors import SettingError, refuse_unknown
from dataecho.settings import Node, check_types

T = TypeVar("T")


def build(node: Node, contract: type[T], *given: Any, key: str) -> T:
    """What ``node`` describes, called with ``given`` first. Names, types and the result are checked.

    Raises :class:`SettingError` for a missing or unknown target, a key that it does not take or lacks, a value of the
    wrong type, and a target that is no ``contract``.
    """
    target = _target(node, contract, key=key)
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    parameters = _parameters(target, num_given=len(given))
    refuse_unknown(arguments, parameters, prefix=f"{key}.", values=arguments)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise SettingError(
                f"{key}.{name}", "nothing", allowed="a value", cure=f"{node['_target_']} needs it: +{key}.{name}=..."
            )
    arguments = _typed(target, arguments, key=key)
    try:
        built = instantiate({"_target_": node["_target_"]}, *given, **arguments, _recursive_=False, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise
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
        target = get_object(name)
    except Exception as error:
        raise SettingError(
            f"{key}._target_",
            name,
            allowed="the dotted path of a class that can be imported",
            cure=f"The import failed: {_first_line(error)}",
        ) from error
    if contract is not object and not (isinstance(target, type) and issubclass(target, contract)):
        raise _no_contract(node, contract, key)
    return target


def _no_contract(node: Node, contract: type, key: str) -> SettingError:
    return SettingError(
        f"{key}._target_",
        node["_target_"],
        allowed=f"a class derived from {contract.__module__}.{contract.__qualname__}",
        cure=f"Choose {key}=<name>, or derive the class from it.",
    )


def _parameters(target: Any, *, num_given: int) -> dict[str, inspect.Parameter]:
    parameters = list(inspect.signature(target).parameters.values())[num_given:]
    return {parameter.name: parameter for parameter in parameters}


def _typed(target: Any, arguments: Node, *, key: str) -> Node:
    try:
        # A dataclass inherits fields whose annotations only its base's module can resolve.
        by_class = dataclasses.is_dataclass(target)
        hints = get_type_hints(target if by_class or not isinstance(target, type) else target.__init__)
    except NameError:  # annotations that only a type checker can read
        return arguments
    fields: dict[str, Any] = {name: (hints.get(name, Any), ...) for name in arguments}
    model = create_model("Arguments", __config__=ConfigDict(strict=True, arbitrary_types_allowed=True), **fields)
    return check_types(key, arguments, model)


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"

"""Settings that are declared once: a dataclass field with its type, bounds, unit and one sentence.

The check, the error, the comment in ``conf``, the help of the command line and ``docs/reference/settings.md``
follow from it. Needs the standard library only: every layer may declare settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from dataecho.errors import require, shown


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One setting, see :func:`setting`. ``type`` is the field's annotation."""

    help: str
    unit: str = ""
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    cure: str = ""
    takes_numbers: bool = False
    choice_help: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    name: str = ""
    type: Any = None
    default: Any = MISSING

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a ``Literal``, or those that have a sentence each; empty for other settings."""
        return tuple(self.choice_help) or tuple(
            value for kind in _kinds(self.type) if get_origin(kind) is Literal for value in get_args(kind)
        )

    @property
    def allowed(self) -> str:
        """The values that :meth:`check` accepts, in words."""
        kinds = _kinds(self.type)
        words = ["null"] if NoneType in kinds else []
        words += [shown(choice) for choice in self.choices]
        words += ["true", "false"] if bool in kinds else []
        if str in kinds and not self.choice_help:
            words.append("text")
        if float in kinds or int in kinds:
            noun = "whole numbers" if float not in kinds else self.unit or "numbers"
            words.append(noun + self._bounds)
        words += ["a list"] if any(get_origin(kind) is list for kind in kinds) else []
        words += ["a mapping"] if any(get_origin(kind) is Mapping for kind in kinds) else []
        return (", " if len(words) > 2 else " or ").join(words)

    @property
    def _bounds(self) -> str:
        lower = f" >= {self.at_least:g}" if self.at_least is not None else ""
        lower = f" > {self.above:g}" if self.above is not None else lower
        upper = f" < {self.below:g}" if self.below is not None else ""
        return " and".join(bound for bound in (lower, upper) if bound)

    @property
    def advice(self) -> str:
        """The cure in the error of a value that is not allowed."""
        if self.cure:
            return self.cure
        default = f": {shown(self.default)} is the default" if _is_plain(self.default) else ""
        return f"Change {self.key}, or leave it out{default}."

    def check(self, value: Any) -> None:
        """Raise :class:`SettingError` for a value that is not allowed, or of another type."""
        require(self._allows(value), self.key, value, allowed=self.allowed, cure=self.advice)

    def _allows(self, value: Any) -> bool:
        kinds = _kinds(self.type)
        if value is None or isinstance(value, bool):
            return type(value) in kinds
        if value in self.choices:
            return True
        if isinstance(value, int | float):
            return (
                (float in kinds or (int in kinds and isinstance(value, int)) or self.takes_numbers)
                and (self.at_least is None or value >= self.at_least)
                and (self.above is None or value > self.above)
                and (self.below is None or value < self.below)
            )
        if isinstance(value, list):
            return all(item != "" for item in value)
        return not isinstance(value, str) or (value != "" and str in kinds and not self.choice_help)


def setting(default: Any = MISSING, *, help: str, choices: Mapping[str, str] | None = None, **facts: Any) -> Any:
    """A field of a :class:`SettingGroup`, required without a ``default``.

    ``help`` is one sentence; ``choices``: the only texts allowed, with a sentence each. ``facts``: ``unit``; the bounds
    ``at_least``, ``above`` and ``below``; ``cure``, the last sentence of the error, if the usual one will not do;
    ``takes_numbers``: a number stands for its text.
    """
    metadata = {"setting": Declared(help=help, choice_help=choices or {}, default=default, **facts)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class SettingGroup:
    """Base of a frozen dataclass whose fields are settings below ``key``. It checks their values when it is made; what
    several settings have to agree on is checked by the dataclass itself."""

    key: ClassVar[str]

    def __init_subclass__(cls, *, key: str) -> None:
        cls.key = key

    def __post_init__(self) -> None:
        for declared in declared_settings(type(self)):
            declared.check(getattr(self, declared.name))


def declared_settings(group: type[SettingGroup]) -> tuple[Declared, ...]:
    """The settings of a group in the order of its fields. A field that holds a group needs no declaration: the first
    line of the group's docstring is its sentence. Other fields without a declaration are no settings."""
    if group not in _declared:
        _declared[group] = _read_declarations(group)
    return _declared[group]


_declared: dict[type[SettingGroup], tuple[Declared, ...]] = {}


def _read_declarations(group: type[SettingGroup]) -> tuple[Declared, ...]:
    hints = get_type_hints(group)
    return tuple(
        replace(
            one.metadata.get("setting") or Declared(help=_first_line(hints[one.name]), default=one.default),
            key=f"{group.key}.{one.name}" if group.key else one.name,
            name=one.name,
            type=hints[one.name],
        )
        for one in fields(group)  # type: ignore[arg-type]  # every group is a dataclass
        if "setting" in one.metadata or _is_group(hints[one.name])
    )


def inner_group(declared: Declared) -> type[SettingGroup] | None:
    """The group that a setting holds; None for a value."""
    return declared.type if _is_group(declared.type) else None


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, SettingGroup)


def _first_line(group: type) -> str:
    return (group.__doc__ or "").splitlines()[0]


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; the annotation itself where it is none."""
    origin = get_origin(annotation)
    if origin is None or origin is Literal or origin is list:
        return (annotation,)
    return get_args(annotation)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)

"""Claims about a study, written in its YAML before anything runs: kinds, their fields, and the check of both.

A *selection* of cells is a mapping of axes to a value or a list of values; ``{}`` selects all. Two selections are
compared pair by pair: two cells make a pair if they agree on every axis that neither selection names. ``echo`` and
``factor`` count as one axis here, since the cell without echo differs in both. ``margin`` is a ratio of costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dataecho.errors import SettingError, refuse_unknown
from dataecho.settings import check_types
from dataecho_study.results import AXES

Selection = dict[str, float | str | list[float | str]]
Axis = Literal["echo", "factor", "batch_size", "shuffle_buffer", "throttle_ratio"]
Measure = Literal["fresh", "seconds"]
Pairs = Literal["neighbours", "ends"]


class Claim(BaseModel):
    """Base of all kinds. ``text``: the claim in words, as the report prints it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1)


class AtMost(Claim):
    """Each of ``cells`` costs at most ``margin`` times what its partner among ``than`` costs."""

    kind: Literal["at_most"] = "at_most"
    cells: Selection
    than: Selection
    margin: float = Field(1.0, gt=0)
    measure: Measure = "fresh"


class Order(Claim):
    """The cost of ``cells`` rises, or falls, along an axis. ``values``: the order of the axis, all or some of which a
    study has; None for the order of numbers."""

    kind: Literal["order"] = "order"
    cells: Selection = {}
    along: Axis
    values: list[float | str] | None = Field(None, min_length=2)
    direction: Literal["rises", "falls"] = "rises"
    pairs: Pairs = "neighbours"
    measure: Measure = "fresh"


class Stays(Claim):
    """Along an axis, the cost of ``cells`` (with ``than``: their ratio to it) changes by less than ``margin``, such as
    1.1, from one value to the next. ``direction``: a change for the better (``not_worse``) or the worse
    (``not_better``) may be of any size."""

    kind: Literal["stays"] = "stays"
    cells: Selection
    than: Selection | None = None
    along: Axis
    direction: Literal["both", "not_worse", "not_better"] = "both"
    margin: float = Field(gt=1)
    pairs: Pairs = "neighbours"
    measure: Measure = "fresh"


class NoLoss(Claim):
    """The best held-out value of each of ``cells`` is worse than that of its partner among ``than`` by less than
    ``margin``, a ratio: 1.01 allows 0.99 of an accuracy, or 1.01 of a loss."""

    kind: Literal["no_loss"] = "no_loss"
    cells: Selection
    than: Selection
    margin: float = Field(gt=1)


class OptimumGrows(Claim):
    """The best factor of ``cells`` grows along an axis."""

    kind: Literal["optimum_grows"] = "optimum_grows"
    cells: Selection = {}
    along: Axis = "batch_size"
    pairs: Pairs = "neighbours"
    measure: Measure = "fresh"


class BestNear(Claim):
    """In most repeats, the best factor of ``cells`` is within a ratio of ``margin`` of R, as measured."""

    kind: Literal["best_near"] = "best_near"
    cells: Selection = {}
    margin: float = Field(2.0, gt=1)
    measure: Measure = "seconds"


class AlwaysGains(Claim):
    """Every factor above 1 and up to R costs less than factor 1."""

    kind: Literal["always_gains"] = "always_gains"
    cells: Selection = {}
    measure: Measure = "seconds"


class WorseThan(Claim):
    """Every factor above R costs more than the factor R, or the largest below it."""

    kind: Literal["worse_than"] = "worse_than"
    cells: Selection = {}
    measure: Measure = "seconds"


_KINDS: dict[str, type[Claim]] = {
    kind.model_fields["kind"].default: kind
    for kind in (AtMost, Order, Stays, NoLoss, OptimumGrows, BestNear, AlwaysGains, WorseThan)
}


def read_claims(nodes: Sequence[Mapping[str, Any]], *, key: str = "study.claims") -> list[Claim]:
    """Return the claims of a study's configuration. Raises :class:`SettingError` for an unknown kind, field or axis,
    and for a value that is not allowed."""
    return [_read(dict(node), f"{key}.{number}") for number, node in enumerate(nodes)]


def _read(node: dict[str, Any], key: str) -> Claim:
    kind = _KINDS.get(str(node.get("kind")))
    if kind is None:
        raise SettingError(
            f"{key}.kind", node.get("kind"), allowed=", ".join(_KINDS), cure="Write one of them, such as kind=at_most."
        )
    refuse_unknown(node, kind.model_fields, prefix=f"{key}.", values=node)
    for name in ("cells", "than"):
        selection = node.get(name) or {}
        if isinstance(selection, Mapping):
            refuse_unknown(selection, AXES, prefix=f"{key}.{name}.", values=selection)
    check_types(key, node, kind)
    return kind(**node)

"""The echo point: which stage's results are used several times."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from dataecho.errors import SettingError
from dataecho.pipeline.stage import ALIASES, BATCH, DEVICE, Stage, stage_names


class EchoLevel(enum.Enum):
    """The unit that is repeated."""

    NONE = "none"
    ITEM = "item"
    BATCH = "batch"


@dataclass(frozen=True)
class EchoPoint:
    """An echo after ``stage``, a stage's own name. Where nothing is echoed, ``stage`` is ``batch``."""

    stage: str
    level: EchoLevel

    @classmethod
    def resolve(cls, after: str | None, stages: Sequence[Stage]) -> EchoPoint:
        """The echo point that ``after`` names: a stage, one of :data:`ALIASES`, or None for no echo.

        ``before_augmentation`` is the stage just before the first random one, ``after_augmentation`` the last random
        one; where nothing is random both are the same thing, called ``example``: the last stage before ``batch``.
        Raises :class:`SettingError` for a name that these stages do not have.
        """
        if after is None:
            return NO_ECHO
        stage = _stage_of(after, stages)
        return cls(stage, EchoLevel.BATCH if stage in (BATCH, DEVICE) else EchoLevel.ITEM)

    @property
    def echoes_items(self) -> bool:
        """Whether the results of single examples are repeated."""
        return self.level is EchoLevel.ITEM

    @property
    def echoes_batches(self) -> bool:
        """Whether whole batches are repeated."""
        return self.level is EchoLevel.BATCH

    @property
    def stays_on_device(self) -> bool:
        """Whether all repeats train on one batch that stays on the device."""
        return self.stage == DEVICE


NO_ECHO = EchoPoint(BATCH, EchoLevel.NONE)


def _stage_of(after: str, stages: Sequence[Stage]) -> str:
    names = stage_names(stages)
    if after in names:
        return after
    if after not in ALIASES:
        raise SettingError(
            "echo.after", after, allowed=", ".join((*names, *ALIASES)), cure="Name a stage of this task's pipeline."
        )
    randoms = [number for number, stage in enumerate(stages, start=1) if stage.random]
    if after == "example":
        if randoms:
            raise SettingError(
                "echo",
                after,
                allowed="before_augmentation or after_augmentation, for this task augments",
                cure="Choose on which side of the augmentation the copies are made.",
            )
        return names[-3]
    if not randoms:
        raise SettingError(
            "echo",
            after,
            allowed="example, for this task has no augmentation",
            cure="Before and after are the same thing here: use echo=example.",
        )
    return names[randoms[0] - 1] if after == "before_augmentation" else names[randoms[-1]]

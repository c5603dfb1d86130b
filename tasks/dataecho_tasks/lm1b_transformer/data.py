"""The One Billion Word Benchmark as a task."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho_tasks.shared.text.data import LanguageModelling


@dataclass(frozen=True, kw_only=True)
class Lm1bTransformer(LanguageModelling):
    """See :class:`LanguageModelling`."""

    name = "lm1b_transformer"

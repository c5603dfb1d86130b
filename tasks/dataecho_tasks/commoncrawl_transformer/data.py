"""Common Crawl's text as a task."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho_tasks.shared.text.data import LanguageModelling


@dataclass(frozen=True, kw_only=True)
class CommonCrawlTransformer(LanguageModelling):
    """See :class:`LanguageModelling`."""

    name = "commoncrawl_transformer"

"""``docs/reference/metrics.md`` from the table of metrics: ``python -m dataecho.report.metrics_page > <page>``."""

from __future__ import annotations

from collections.abc import Iterable

from dataecho.training.metrics import GROUPS, SUMMARY, TAGS, Metric

_HEAD = """# Metrics

Every name that leaves the program, from the table in `platform/dataecho/training/metrics.py`. A command writes this
page: `python -m dataecho.report.metrics_page > docs/reference/metrics.md`.

An item is an example of one epoch: it counts anew in every epoch. An evaluation belongs to a *mark*, a multiple of
`task.eval_interval` fresh examples. Every mark is one line of `metrics.jsonl` in the run folder. MLflow gets the same
numbers, with the mark as `step`, so that runs compare at the same number of fresh examples. `summary.json` has the
values over the whole run, without the two waits; the cost of a target that was not reached is `null` there, and counts
as infinite. Counts and clocks are those of all ranks together; times of the input side and of a step are those of
rank 0.

A task adds the metrics of its evaluator under names of their own, such as `accuracy`.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for title, metrics in GROUPS.items():
        parts.append(_section(title, metrics))
    parts.append(_section("In `summary.json` besides", SUMMARY))
    parts.append(_section("MLflow's tags", TAGS))
    return "\n".join(parts)


def _section(title: str, metrics: Iterable[Metric]) -> str:
    rows = [f"| `{one.name}` | {one.unit} | {one.meaning} | `{one.computed_in}` |" for one in metrics]
    return "\n".join([f"## {title}", "", "| name | unit | meaning | computed in |", "|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    print(page(), end="")

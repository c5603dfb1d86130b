"""Every name that leaves the program as a number; code, tests and ``docs/reference/metrics.md`` use this table.

A task adds the metrics of its evaluator, under names of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dataecho.training.target import COSTS


@dataclass(frozen=True)
class Metric:
    """``computed_in``: a module of dataecho, as a path. ``varies``: whether two runs of the same configuration differ
    in it, because it depends on time."""

    name: str
    unit: str
    meaning: str
    computed_in: str
    varies: bool = False


def _timing(name: str, unit: str, meaning: str, computed_in: str = "training/timing.py") -> Metric:
    return Metric(name, unit, meaning, computed_in, varies=True)


_COUNTS = "plan/counts.py"
_CLOCK = "training/clock.py"
_TARGET = "training/target.py"
_METER = "pipeline/accounting/meter.py"

COUNTS = (
    Metric("fresh_examples", "examples", "items whose first use has been trained, with weight 1", _COUNTS),
    Metric("entered_examples", "examples", "items that have entered the plan, shuffle buffer included", _COUNTS),
    Metric("read_examples", "examples", "reads done, look-ahead and re-reads included", _METER, varies=True),
    Metric("skipped_examples", "examples", "items that failed at their first use, once each; never fresh", _COUNTS),
    Metric("delivered_examples", "rows", "rows of weight 1 that were trained, repeats included", _COUNTS),
    Metric("steps", "steps", "updates of the model", _COUNTS),
    Metric("epochs_entered", "epochs", "epochs of which an item has entered the plan", _COUNTS),
)
TIMES = (
    _timing("wall_time", "s", "all time since the start of the run", _CLOCK),
    _timing("train_time", "s", "the same without evaluation, logging, saving and hooks", _CLOCK),
    _timing("upstream_time", "s per fresh batch", "time of all workers up to the echo point, or up to the device"),
    _timing("downstream_time", "s per step", "time of a step after the echo point"),
    _timing("upstream_downstream_ratio", "1", "R: upstream_time / downstream_time"),
    _timing("input_wait_fraction", "1", "share of train_time spent in waiting for a batch"),
    _timing("input_wait_mean", "s", "mean wait for a batch since the last mark"),
    _timing("input_wait_p95", "s", "95th percentile of these waits"),
    _timing("predicted_time_per_fresh_example", "s", "the time model's, for the same counts of steps and examples"),
    _timing("measured_time_per_fresh_example", "s", "time of steps and waits per fresh example"),
)
ECHO = (
    Metric("factor", "uses", "uses of each example or batch; with factor=auto the newest", "plan/factors.py"),
    Metric("duplicates_per_batch", "rows", "rows of a batch whose item is in it already, mean", "training/timing.py"),
    Metric("echo_lag", "steps", "steps between a repeat and the use before it, mean", "training/timing.py"),
    _timing("store_bytes", "bytes", "results kept for their next use; in summary.json the most", _METER),
)
QUALITY = (
    Metric("train_loss", "1", "mean loss of the steps since the last mark", "training/marks.py"),
    Metric("eval_loss", "1", "mean loss of the held-out examples", "training/evaluation.py"),
)
_NAMED = {metric.name: metric for metric in (*COUNTS, *TIMES)}
TARGET = (
    Metric("reached_target", "0 or 1", "whether a mark has reached the task's target", _TARGET),
    *(
        Metric(f"{name}_to_target", cost.unit, f"{name} at the first mark that reached it", _TARGET, cost.varies)
        for name, cost in ((name, _NAMED[name]) for name in COSTS)
    ),
)

#: By group, in the order of the page. All are in ``metrics.jsonl``, in MLflow and, over the whole run, in
#: ``summary.json``; the two waits are not in the latter.
GROUPS = {"Counts": COUNTS, "To the target": TARGET, "Time": TIMES, "Echo": ECHO, "Quality": QUALITY}
METRICS = {metric.name: metric for group in GROUPS.values() for metric in group}

#: What ``summary.json`` has besides metrics.
SUMMARY = (
    Metric("diverged", "true or false", "the loss is not finite or far above its start", "training/divergence.py"),
    Metric("pruned", "true or false", "a pruner ended the run", "training/marks.py"),
    Metric("metric", "name", "the metric that the target is about", "training/contracts/task.py"),
    Metric("higher_is_better", "true or false", "how it is compared", "training/contracts/task.py"),
    Metric("seed", "integer", "the seed of the run", "modes/train.py"),
    Metric("num_ranks", "processes", "processes that trained together", "training/ranks.py"),
    Metric("devices", "devices", "devices of each process", "modes/train.py"),
    Metric("emulated_source", "limits", "limits of pipeline.throttle; empty for a source at its own speed", _METER),
    _timing("memory", "bytes", "the input side's, predicted and measured (mean)", "pipeline/accounting/memory.py"),
    Metric("fetched_bytes", "bytes", "bytes fetched for shards that lie elsewhere", _METER, varies=True),
    Metric("worker_restarts", "processes", "worker processes started anew", _METER, varies=True),
    Metric("skipped", "list", "the skipped examples: name, stage and reason", "training/skips.py"),
    Metric("versions", "names", "of dataecho, Python, NumPy and the framework", "modes/train.py"),
    Metric("git_revision", "name", "of the project", "environment.py"),
    Metric("dataset", "facts", "name, digest and number of examples of the training source", "modes/train.py"),
    Metric("config", "configuration", "the whole configuration, secrets masked", "modes/train.py"),
)

#: MLflow's tags of a run.
TAGS = (
    Metric("task", "name", "the workload", "modes/train.py"),
    Metric("backend", "name", "the framework", "modes/train.py"),
    Metric("echo", "name", "the option of the group echo", "modes/train.py"),
    Metric("factor", "number", "the factor that was set; auto and recorded are words", "modes/train.py"),
    Metric("final_factor", "number", "the newest factor at the end", "modes/train.py"),
    *(metric for metric in SUMMARY if metric.name in ("num_ranks", "git_revision", "emulated_source")),
    METRICS["reached_target"],
    *(metric for metric in SUMMARY if metric.name in ("diverged", "pruned")),
)


def check_names(names: Iterable[str], *, of_task: Iterable[str]) -> None:
    """Raise ``ValueError`` for a metric of a task that takes a name of the table; a name that is neither in the table
    nor the task's is a mistake of dataecho."""
    of_task = set(of_task) - {"eval_loss"}
    taken = sorted(of_task & METRICS.keys())
    if taken:
        raise ValueError(f"the task's evaluator calls a metric {taken[0]}, which has a meaning already: rename it")
    unknown = set(names) - METRICS.keys() - of_task
    assert not unknown, f"{', '.join(sorted(unknown))}: add them to dataecho.training.metrics"

"""The checks that span two groups of settings. Each raises :class:`SettingError`."""

from __future__ import annotations

from dataecho.compose.factor import echo_of, new_factors
from dataecho.errors import require
from dataecho.pipeline.stage import stage_names
from dataecho.settings import Settings
from dataecho.sources.same_data import are_same_data
from dataecho.training.contracts import Task
from dataecho.training.ranks import Ranks
from dataecho.training.schedule import Schedule


def check_echo(settings: Settings, task: Task) -> None:
    """Check that echo, factor and the task's stages fit together."""
    stage_names(task.stages())
    factor, echo = settings.factor, settings.echo
    if echo.after is None:
        require(
            factor is None or factor == 1,
            "factor",
            factor,
            allowed=f"nothing or 1 with echo={echo.name}",
            cure="Choose what to echo as well, for instance echo=before_augmentation.",
        )
    else:
        point = echo_of(settings, task)
        require(
            factor is not None,
            "factor",
            factor,
            allowed="any real number >= 1, auto, or a recorded history (*.json)",
            cure=f"echo={echo.name} repeats the output of {point.stage!r}; say how often, for instance factor=2.",
        )
        require(
            echo.shuffle_buffer == 0 or point.echoes_batches,
            "echo.shuffle_buffer",
            echo.shuffle_buffer,
            allowed=f"0 with an echo after {point.stage!r}",
            cure="Example echo goes through the task's one buffer, task.shuffle_buffer; only batch echo has its own.",
        )
    require(
        settings.max_factor is None or factor == "auto",
        "max_factor",
        settings.max_factor,
        allowed="nothing without factor=auto",
        cure="Leave it out: it is the limit of what is measured.",
    )
    new_factors(settings, task)


def check_settings(settings: Settings, task: Task, schedule: Schedule) -> None:
    """Check what two groups or more must agree on, but for the number of ranks."""
    check_echo(settings, task)
    require(
        task.batch_size <= task.eval_interval,
        "task.eval_interval",
        task.eval_interval,
        allowed=f"at least one batch, {task.batch_size} fresh examples",
        cure="Evaluate less often or use a smaller task.batch_size.",
    )
    throttle = settings.pipeline.throttle
    require(
        throttle.ratio is None or throttle.examples_per_second is None,
        "pipeline.throttle.ratio",
        throttle.ratio,
        allowed="nothing together with pipeline.throttle.examples_per_second",
        cure="Leave one of them out: the ratio becomes a limit of examples per second.",
    )
    budget = settings.budget
    require(
        budget.fresh is None or budget.fresh >= task.batch_size,
        "budget.fresh",
        budget.fresh,
        allowed=f"at least one batch, {task.batch_size} fresh examples",
        cure="Raise budget.fresh or lower task.batch_size.",
    )
    require(
        budget.seconds is None or schedule.is_constant,
        "budget.seconds",
        budget.seconds,
        allowed="budget=fresh or budget=steps with a schedule that is not constant",
        cure="A schedule that depends on time could not be resumed exactly; use schedule=constant.",
    )


def check_held_out(task: Task) -> None:
    """Refuse to evaluate on the data that is trained on."""
    require(
        not are_same_data(task.train_source(), task.eval_source()),
        "task.eval",
        "the data of task.train",
        allowed="data that are not trained on",
        cure="Name other files for task.eval: how well a model knows what it has seen says little of anything else.",
    )


def check_ranks(settings: Settings, task: Task, ranks: Ranks) -> None:
    """Check that batches and the shuffle buffer divide evenly over ranks and devices."""
    devices = settings.accelerator.devices
    shares = f"{ranks.num_ranks} processes with {devices} devices each"
    cure = "Choose a multiple, or other numbers of processes and devices."
    for name, parts in (
        ("batch_size", ranks.num_ranks * devices),
        ("shuffle_buffer", ranks.num_ranks),
        ("eval_batch_size", devices),
    ):
        value = getattr(task, name)
        require(value % parts == 0, f"task.{name}", value, allowed=f"multiples of {parts}, for {shares}", cure=cure)

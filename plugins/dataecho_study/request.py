"""The command line of studies, divided into what each part needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser

from dataecho.errors import require
from dataecho.invocation import command
from dataecho.masking import masked_text
from dataecho_search.sweep.start import HydraParts

_MINIATURE = "miniature"
#: Axes of cells, which only a study's YAML sets.
_CELL_KEYS = ("echo", "factor", "task.batch_size", "task.shuffle_buffer", "echo.shuffle_buffer")
#: Options of a command that name places.
_PLACES = (
    "hydra.mode=",
    "hydra.sweep.dir=",
    "hydra.sweeper.storage=",
    "hydra.sweeper.name=",
    "hydra/sweeper/pool",
    "hydra.sweeper.pool",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command line, divided. ``study``: overrides of the study's definition; ``others``: of every run; ``hydra``:
    those of Hydra's own node; ``tasks``: by name."""

    study: list[str]
    others: list[str]
    hydra: list[str]
    tasks: list[str]

    @property
    def has_full_data(self) -> bool:
        """Whether other data than the miniature are chosen."""
        chosen = [text.partition("=") for text in self.others if text.startswith("task/")]
        return any(key.endswith("_data") and value != _MINIATURE for key, _, value in chosen)

    def gives(self, key: str) -> bool:
        return any(text.startswith(f"{key}=") for text in self.hydra)

    def command(self, task: str) -> str:
        """The command that makes the study of ``task`` again, without places."""
        hydra = [text for text in self.hydra if not text.startswith(_PLACES)]
        others = [text for text in self.others if not text.startswith("tracking")]
        return masked_text(command("-m", *self.study, f"task={task}", *others, *hydra))


def read_request(arguments: Sequence[str], hydra: HydraParts) -> Request:
    """Divide ``arguments``; without a task, all that have a study size are meant. Raises :class:`SettingError` for
    settings that make cells."""
    parser = OverridesParser.create(config_loader=hydra.context.config_loader)
    study, others, tasks = [], [], []
    for text in arguments:
        (override,) = parser.parse_overrides([text])
        key = override.get_key_element().lstrip("+~")
        if key.partition(".")[0].partition("/")[0] == "study":
            study.append(text)
        elif key == "task":
            tasks += (
                [str(value) for value in override.sweep_iterator()]
                if override.is_sweep_override()
                else [str(override.value())]
            )
        else:
            require(
                key not in _CELL_KEYS and not override.is_discrete_sweep(),
                key,
                override.get_value_string(),
                allowed="settings that all cells share, and intervals to search",
                cure="The cells of a study are in its YAML, conf/study: change study.cells, or take sweep=paper.",
            )
            others.append(text)
    given = [str(text) for text in hydra.config.hydra.overrides.hydra]
    return Request(study=study, others=others, hydra=given, tasks=tasks or _all_tasks(hydra))


def _all_tasks(hydra: HydraParts) -> list[str]:
    """The tasks that have a study size."""
    loader = hydra.context.config_loader
    return [task for task in loader.get_group_options("task") if task in loader.get_group_options("study/size")]

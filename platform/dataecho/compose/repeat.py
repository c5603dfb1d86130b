"""The command that repeats a run, in its folder, and the settings that a later command takes from there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dataecho.errors import SettingError
from dataecho.invocation import command
from dataecho.masking import MASK, is_secret_name, masked_text
from dataecho.training.checkpoint import find_checkpoint

#: The file of a run folder with its command, in one line, quoted for Hydra and for the shell.
FILE_NAME = "command.txt"
#: Settings that belong to one start of a run, or to the sweep that started it.
_OF_ONE_START = frozenset(
    {"checkpoint", "hydra", "mode", "pruner", "resume", "run_dir", "runs", "study", "sweep", "tracking.parent_uuid"}
)
_OF_A_SWEEP = frozenset({"tracking.run_name", "tracking.tags"})
_MULTIRUN = frozenset({"-m", "--multirun"})


def repeating_command(job: Any) -> str:
    """The command that repeats the run of ``job``, Hydra's configuration of itself, in a new folder. Secrets in it are
    masked."""
    options = [
        text
        for source in job.runtime.config_sources
        if source.provider == "command-line"
        for text in ("--config-dir", source.path)
    ]
    if job.job.config_name != "config":
        options += ["--config-name", job.job.config_name]
    overrides = list(job.overrides.task)
    dropped = _OF_ONE_START
    if any(_key(text) == "tracking.parent_uuid" for text in overrides):
        dropped |= _OF_A_SWEEP
    kept = [_masked(text) for text in overrides if not _is_below(_key(text), dropped)]
    words = [shlex.quote(text) for text in (*options, *kept)]
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun does not say how it was called
        per_node, nodes = os.environ["LOCAL_WORLD_SIZE"], os.environ["GROUP_WORLD_SIZE"]
        start = f"torchrun {'' if nodes == '1' else f'--nnodes={nodes} '}--nproc-per-node={per_node} "
        return start + command(*words).removeprefix("python ")
    return command(*words)


def with_settings_of_run(arguments: Sequence[str]) -> list[str]:
    """``arguments``, and before them those of the run that ``resume=<path>`` continues or ``checkpoint=<path>``
    evaluates. A setting that is typed replaces the run's; a group that is typed replaces all of the run's settings in
    it. Raises :class:`SettingError` for a path without a run, and for a secret that was not written down."""
    typed = {_key(text): _value(text) for text in arguments if "=" in text and not text.startswith("-")}
    mode = typed.get("mode", "train")
    path = {"train": typed.get("resume"), "evaluate": typed.get("checkpoint")}.get(mode)
    if path in (None, "", "auto", "null") or not _MULTIRUN.isdisjoint(arguments):
        return list(arguments)
    run = find_checkpoint(Path(str(path)), best=mode != "train").parent.parent
    if not (run / FILE_NAME).exists():  # of an earlier version
        return list(arguments)
    of_run = arguments_of((run / FILE_NAME).read_text(encoding="utf-8"))
    # They start from nothing; a run that is continued keeps the name of the weights that it started from.
    dropped = {*typed, *([] if mode == "train" else ["weights"])}
    kept = [text for text in of_run if text.startswith("--") or "=" not in text or not _is_below(_key(text), dropped)]
    for text in kept:
        if MASK in text:
            raise SettingError(
                _key(text),
                MASK,
                allowed=f"a value: {run / FILE_NAME} holds no secrets",
                cure=f"Type it again: {_key(text)}=...",
            )
    return [*kept, *arguments]


def arguments_of(line: str) -> list[str]:
    """The arguments in a command of :func:`repeating_command`: those behind the program."""
    words = shlex.split(line)
    program = next(n for n, word in enumerate(words) if word == "dataecho" or word.endswith(".py"))
    return words[program + 1 :]


def _parsed(text: str) -> Any:
    """A single override, or None for text that Hydra will refuse."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _key(text: str) -> str:
    """The dotted name that an override is about: ``task/images_data=own`` is about ``task.images_data``."""
    override = _parsed(text)
    name = text.partition("=")[0].lstrip("+~") if override is None else override.key_or_group
    return str(name).replace("/", ".")


def _value(text: str) -> Any:
    override = _parsed(text)
    return None if override is None or override.is_sweep_override() else override.value()


def _is_below(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _masked(text: str) -> str:
    name, equals, value = text.partition("=")
    if equals and is_secret_name(_key(text)) and value not in ("", "null") and "${" not in value:
        return f"{name}={MASK}"
    return masked_text(text)

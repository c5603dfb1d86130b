"""The command that the user has started, so that messages name the next one in the same words."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

#: Handed on to processes that this one starts, such as the trials of a sweep.
_VARIABLE = "DATAECHO_COMMAND"


def remember_command() -> None:
    """Keep the command of this process for :func:`command`."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        os.environ[_VARIABLE] = "python -m dataecho"
    else:
        os.environ[_VARIABLE] = shlex.join(["python", sys.argv[0]]) if program.suffix == ".py" else "dataecho"


def command(*arguments: str) -> str:
    """A command line with ``arguments``, which are quoted for a shell already: ``dataecho mode=sync ...``, or ``python
    train.py mode=sync ...`` where the user has started that."""
    return " ".join([os.environ.get(_VARIABLE, "dataecho"), *arguments])

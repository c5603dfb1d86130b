"""Where studies are kept: a journal file in the sweep's folder, or a database by its URL."""

from __future__ import annotations

import logging
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from dataecho.errors import SettingError
from dataecho.tracking.redact import without_credentials

T = TypeVar("T")

log = logging.getLogger(__name__)

JOURNAL = "journal.log"
_ALLOWED = (
    "nothing (a journal file in the sweep's folder), sqlite:////absolute/path.db, postgresql://user@host/database"
)
_LONGEST_PAUSE = 30.0


class StorageLost(RuntimeError):
    """The database did not answer for so long that the sweep gave up. Nothing that trials computed is lost."""


class _KernelLock(BaseJournalFileLock):
    """Lets go when its holder dies, however it dies; Optuna's own lock files make the next process wait for 30 s."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at ``url``, by default a journal in ``folder``. Raises :class:`SettingError` for a URL that cannot be
    used, whatever the database raises if it does not answer."""
    if url is None:
        return JournalStorage(_journal(folder / JOURNAL))
    shown = _shown(url)
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and not rest.startswith("//"):
        raise SettingError(
            "hydra.sweeper.storage",
            shown,
            allowed=_ALLOWED,
            cure="A relative path would depend on the current folder: write it in full, with four slashes.",
        )
    if scheme in ("postgresql", "postgres"):
        url = f"postgresql+psycopg://{rest}"
    elif scheme not in ("sqlite", "postgresql+psycopg"):
        raise SettingError("hydra.sweeper.storage", shown, allowed=_ALLOWED, cure="Leave it out for the journal.")
    try:
        # A connection that broke while trials ran is made anew.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=None)
    except ImportError as error:
        raise SettingError(
            "hydra.sweeper.storage",
            shown,
            allowed=_ALLOWED,
            cure=f'The driver is missing: pip install "dataecho[search]" ({error}).',
        ) from error


def patiently(call: Callable[[], T], *, url: str | None, timeout: float, results: Path) -> T:
    """What ``call`` returns; repeated with growing pauses while the database does not answer, for ``timeout`` seconds.
    ``call`` may be repeated though it has happened: only the answer may have been lost. Raises :class:`StorageLost`
    in the end; ``results``: where everything is that trials computed meanwhile."""
    start, pause = time.monotonic(), 0.1
    while True:
        try:
            return call()
        except _unreachable() as error:
            spent = time.monotonic() - start
            if spent >= timeout:
                raise StorageLost(
                    f"hydra.sweeper.storage={_shown(url)} has not answered for {spent:.0f} s "
                    f"(hydra.sweeper.storage_timeout). Trials that ended meanwhile have their results in {results}; "
                    f"the same command tells them to the study when the database is back. It said: {_first_line(error)}"
                ) from error
            if pause >= 1.0:
                log.warning("%s does not answer (%s); trying again in %.0f s", _shown(url), _first_line(error), pause)
            time.sleep(
                min(pause, max(0.0, timeout - spent)) * random.uniform(0.8, 1.0)
            )  # shells do not all ask at once
            pause = min(2 * pause, _LONGEST_PAUSE)


def quiet_optuna() -> None:
    """Optuna's own lines go nowhere: the sweep tells what happens."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _journal(path: Path) -> JournalFileBackend:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(path.with_suffix(".lock"))
    lock.acquire()
    try:
        _drop_torn_line(path)
    finally:
        lock.release()
    return JournalFileBackend(str(path), lock_obj=lock)


def _drop_torn_line(path: Path) -> None:
    """Of a process or machine that died while writing: with what is written after it, nobody could read the file."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start, tail = size, b""
        while start > 0 and b"\n" not in tail:
            start = max(0, start - 4096)
            file.seek(start)
            tail = file.read(size - start)
        end = start + tail.rfind(b"\n") + 1
        if end < size:
            log.warning("%s ended in a torn line, which was dropped.", path)
            file.truncate(end)


def _unreachable() -> tuple[type[BaseException], ...]:
    from sqlalchemy.exc import DBAPIError

    return (DBAPIError, optuna.exceptions.StorageInternalError, ConnectionError)


def _shown(url: str | None) -> str:
    if url is None:
        return JOURNAL
    try:
        return without_credentials(url)
    except ValueError:
        return "(no URL)"


def _first_line(error: Any) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)

"""The files that a run writes while it trains, behind one lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Skipped
from dataecho.training.checkpoint import CheckpointStore
from dataecho.training.disk import retry_while_full
from dataecho.training.heartbeat import Heartbeat
from dataecho.training.journal import Journal
from dataecho.training.skips import FILE_NAME as SKIPS
from dataecho.training.spool import Spool


class RunFolder:
    """Metrics, skipped examples, heartbeat and checkpoints in ``path``. Every write waits ``disk_timeout`` seconds for
    room on a full disk, unless ``is_ending()``; then it raises ``OSError``."""

    def __init__(
        self, path: Path, *, keep_checkpoints: int, disk_timeout: float, is_ending: Callable[[], bool]
    ) -> None:
        self.path = path
        self.heartbeat = Heartbeat(path)
        self._store = CheckpointStore(path, keep=keep_checkpoints)
        self._write = partial(retry_while_full, folder=path, timeout=disk_timeout, gives_up=is_ending)
        self._positions = {"spool_position": 0, "skips_position": 0}
        self._spool: Spool
        self._skips: Journal

    def open(self) -> None:
        """Make the folder, lock it, and cut its files at the positions of the checkpoint. Raises
        :class:`SettingError` where that cannot be done, or another process trains there."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / "run.lock", thread_local=False)
            self._lock.acquire(timeout=0)
            self._spool = Spool(self.path, position=self._positions["spool_position"])
            self._skips = Journal(self.path / SKIPS, position=self._positions["skips_position"])
        except Timeout as error:
            raise SettingError(
                "run_dir",
                str(self.path),
                allowed="a folder that no other process is training in",
                cure="Wait for that run, or choose another folder.",
            ) from error
        except OSError as error:
            raise SettingError(
                "run_dir", str(self.path), allowed="a folder that can be written", cure=f"Choose another one ({error})."
            ) from error

    @property
    def spool_position(self) -> int:
        """Bytes of metrics written so far."""
        return self._spool.position

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a mark at ``step`` fresh examples."""
        time_ms = int(time.time() * 1000)
        self._write(lambda: self._spool.append(step, metrics, time_ms=time_ms))

    def add_skips(self, skipped: list[Skipped]) -> None:
        """Examples that failed at their first use."""
        for example in skipped:
            self._write(partial(self._skips.append, asdict(example)))

    def beat(self, *, wall_time: float, train_time: float, read_examples: int) -> None:
        """Write down what has been spent, for a resume after a kill."""
        beat = partial(self.heartbeat.beat, wall_time=wall_time, train_time=train_time, read_examples=read_examples)
        self._write(beat)

    def save(self, state: dict[str, Any], *, steps: int, best_steps: int | None) -> None:
        """Write a checkpoint, after everything that it covers is on the disk."""
        self._write(self._spool.flush)
        self._write(self._skips.flush)
        self._write(partial(self._store.save, state, steps=steps, best_steps=best_steps))

    def close(self) -> None:
        """Flush, close and unlock."""
        self._spool.close()
        self._skips.close()
        self._lock.release()

    def state_dict(self) -> dict[str, Any]:
        """Where the files end."""
        return {"spool_position": self._spool.position, "skips_position": self._skips.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Call before :meth:`open`, on the first rank: the files of the others begin anew."""
        self._positions = {name: state[name] for name in self._positions}

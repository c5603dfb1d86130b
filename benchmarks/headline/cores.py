"""Who uses which core in ``headline/run.py``: ``python -m benchmarks.headline.cores``, a minute and a half.

For ``none`` and factor 6 on a seed of the tuning, from three seconds after the first batch on: what share of the time
every thread had a core, and what share it stood in the queue for one, by the kernel's books (/proc/.../schedstat).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.table import Table

from benchmarks.headline import dataset, ours, slow_line
from benchmarks.headline.arms import BYTES_PER_SECOND, ECHOED, NONE, Arm
from benchmarks.headline.server import Server
from dataecho.environment import prepare
from dataecho.pipeline.engine.executor import Executor

SEED = 0
UNCOUNTED, INTERVAL = 3.0, 0.25  # seconds after the first batch that do not count; between looks


@dataclass
class Share:
    """Seconds on a core, and in the queue for one."""

    on_core: float = 0.0
    in_queue: float = 0.0


class Books:
    """Keeps the kernel's books of this process's threads, by name, and of ``server``, from ``begin`` on."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._begun, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="books", daemon=True)
        self.seconds = 0.0
        self.shares: dict[str, Share] = defaultdict(Share)
        self._thread.start()

    def begin(self) -> None:
        """Training has its first batch."""
        self._begun.set()

    def end(self) -> None:
        """Training is over."""
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        self._begun.wait()
        time.sleep(UNCOUNTED)
        started, before = time.perf_counter(), self._look()
        while not self._ended.wait(INTERVAL):
            now = self._look()
            for task, (name, on_core, in_queue) in now.items():
                _, core_before, queue_before = before.get(task, (name, 0.0, 0.0))
                self.shares[name].on_core += on_core - core_before
                self.shares[name].in_queue += in_queue - queue_before
            before = now
            self.seconds = time.perf_counter() - started

    def _look(self) -> dict[int, tuple[str, float, float]]:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        seen = {self._server: ("nginx", *_books(Path(f"/proc/{self._server}/schedstat")))}
        for task in Path("/proc/self/task").iterdir():
            name = re.sub(r"[-_]?\d+( \(.*\))?$", "", names.get(int(task.name)) or "libraries")
            with contextlib.suppress(OSError):  # it has just ended
                seen[int(task.name)] = (name, *_books(task / "schedstat"))
        return seen


def _books(path: Path) -> tuple[float, float]:
    on_core, in_queue, _ = path.read_text().split()
    return int(on_core) / 1e9, int(in_queue) / 1e9


def _measured(arm: Arm, server: Server, held_out: Path) -> Books:
    books = Books(server.process)
    deliver = Executor.__next__

    def first_of_many(executor: Executor) -> object:
        batch = deliver(executor)
        books.begin()
        return batch

    with mock.patch.object(Executor, "__next__", first_of_many):
        ours.run(arm.new_run(SEED, where=server.url, held_out=held_out))
    books.end()
    return books


def main() -> None:
    """Run both arms in this process, print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/headline-data"))
    options = parser.parse_args()
    slow_line.enter()
    slow_line.limit(BYTES_PER_SECOND)
    prepare()
    train, held_out = dataset.write(options.data)
    with Server(train) as server:
        for arm in (NONE, ECHOED[-1]):
            books = _measured(arm, server, held_out.resolve())
            table = Table("thread", "on a core", "waits for a core", title=f"{arm.name}, {books.seconds:.0f} s")
            for name, share in sorted(books.shares.items(), key=lambda named: -named[1].on_core):
                table.add_row(name, f"{share.on_core / books.seconds:.1%}", f"{share.in_queue / books.seconds:.1%}")
            Console().print(table)


if __name__ == "__main__":
    main()

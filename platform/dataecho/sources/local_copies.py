"""Where copies of files from elsewhere lie: a temporary folder, or a cache that is kept between runs; both bounded.

Every state is in the folder, so that processes may share it. A copy is written to ``<key>.part`` and renamed when it is
whole. Whoever uses a copy holds a shared ``flock`` on it, whoever writes one an exclusive ``flock`` on its part; the
system takes both back when a process dies, so nothing stays locked, and a part that nobody holds is a leftover. What is
done to more than one file is done under the folder's own lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from dataecho.errors import DataError
from dataecho.posix import fcntl, require_posix
from dataecho.sources.remote import Stream
from dataecho.sources.retry import Proceed, sleep

_COPY, _PART = ".copy", ".part"
_TEMPORARY = "dataecho-shards-"
_ALIVE = "alive"
_POLL = 0.05


class LocalCopies:
    """Copies by key, of together at most ``max_bytes``. ``cache_dir`` keeps them between runs; None: a temporary
    folder, removed when the process ends (after a kill, by the next one).

    A copy that is pinned stays. Where room is needed, the copies that are not pinned go, least recently used first;
    where that is not enough, the caller waits for others to unpin, in the order in which callers came. Thread-safe, and
    safe between processes that share a ``cache_dir``. A pickled copy sees the same files, with pins of its own.
    """

    def __init__(self, *, cache_dir: str | None, max_bytes: int) -> None:
        require_posix("cache_dir", cache_dir, cure="Bring the shards to this machine, as files of one example each.")
        self._max_bytes = max_bytes
        self.is_kept = cache_dir is not None
        if cache_dir is not None:
            self.folder = Path(cache_dir).expanduser().absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            self.folder = _temporary_folder(self)
        self._start()

    def _start(self) -> None:
        self._pins: Counter[str] = Counter()
        self._held: dict[str, int] = {}  # key -> descriptor with the shared lock
        weakref.finalize(self, _close_all, self._held)
        self._queue: deque[object] = deque()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_max_bytes": self._max_bytes, "is_kept": self.is_kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def path(self, key: str) -> Path:
        """Where the copy lies, if it is here."""
        return self.folder / (key + _COPY)

    def pin(self, key: str) -> bool:
        """Whether the copy is here; if so it stays until :meth:`unpin` was called as often as this."""
        with self._lock:
            if key not in self._held:
                descriptor = _locked(self.path(key), fcntl.LOCK_SH)
                if descriptor is None:
                    return False
                self._held[key] = descriptor
            self._pins[key] += 1
            return True

    def unpin(self, key: str, *, remove: bool) -> None:
        """Undo one :meth:`pin` or :meth:`add`; after the last, ``remove`` takes the copy away, unless it is pinned by
        another process."""
        with self._lock:
            if key not in self._held:
                return
            self._pins[key] -= 1
            if self._pins[key] > 0:
                return
            del self._pins[key]
            now = time.time_ns()  # by name, for the system's own stamp is the same for milliseconds
            os.utime(self._held[key], ns=(now, now))
            os.close(self._held.pop(key))
            if remove:
                _remove(self.path(key))

    def add(
        self,
        key: str,
        open_stream: Callable[[], Stream],
        *,
        proceed: Proceed,
        on_place: Callable[[], None] = lambda: None,
    ) -> int:
        """Pin the copy of ``key``, and write it first if it is not here, nor just being written by another; the number
        of bytes that travelled. Calls ``on_place()`` when there is room for it. Raises :class:`DataError` for what has
        no room, or whatever the stream raises; then nothing is left of it."""
        part = self.folder / (key + _PART)
        while True:
            if self.pin(key):
                return 0
            if (descriptor := self._claimed(key, part)) is not None:
                break
            sleep(_POLL, proceed=proceed)
        try:
            size = self._written(key, descriptor, open_stream, proceed=proceed, on_place=on_place)
            with self._folder_lock():
                os.replace(part, self.path(key))
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # from now on, the lock of whoever uses it
        except BaseException:
            with self._folder_lock():
                part.unlink()
            os.close(descriptor)
            raise
        with self._lock:
            self._held[key] = descriptor
            self._pins[key] += 1
        return size

    def _written(
        self,
        key: str,
        descriptor: int,
        open_stream: Callable[[], Stream],
        *,
        proceed: Proceed,
        on_place: Callable[[], None],
    ) -> int:
        ticket, size = object(), 0
        self._queue.append(ticket)
        try:
            with open_stream() as stream, open(descriptor, "wb", closefd=False) as file:
                size = self._sized(key, stream.stat.size)
                # In turn: else a later shard could take the room of the one that everybody waits for, for ever.
                while self._queue[0] is not ticket or not self._found_room(descriptor, size):
                    sleep(_POLL, proceed=proceed)
                self._queue.popleft()
                on_place()
                for piece in stream:
                    file.write(piece)
                return size
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise self._no_room(key, size, "the disk is full") from None
        finally:
            with contextlib.suppress(ValueError):  # it has left the queue, unless this failed before
                self._queue.remove(ticket)

    def _claimed(self, key: str, part: Path) -> int | None:
        """The part, locked, to be written from its first byte on; None if the copy is here, or another writes it."""
        with self._folder_lock():
            if self.path(key).exists():
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
            except BlockingIOError:
                os.close(descriptor)
                return None
            return descriptor

    def _sized(self, key: str, size: int | None) -> int:
        if size is None:
            raise DataError(f"{key}: the server does not say its size, so that no room can be kept. Switch that on.")
        if size > self._max_bytes:
            raise self._no_room(key, size, "it is larger than all copies may be together")
        return size

    def _found_room(self, descriptor: int, size: int) -> bool:
        with self._folder_lock():
            files = self._listed()
            num_bytes = sum(stat.st_size for stat in files.values())  # the part of this one is still empty
            for path in sorted(files, key=lambda path: files[path].st_mtime_ns):
                if num_bytes + size <= self._max_bytes:
                    break
                if _remove(path):
                    num_bytes -= files[path].st_size
            if num_bytes + size > self._max_bytes:
                return False
            os.ftruncate(descriptor, size)  # so that others count it
            return True

    def _listed(self) -> dict[Path, os.stat_result]:
        """Copies and parts; without those that somebody who needs no room for it removes meanwhile."""
        files = {}
        for path in self.folder.iterdir():
            if path.suffix in (_COPY, _PART):
                with contextlib.suppress(FileNotFoundError):
                    files[path] = path.stat()
        return files

    def _no_room(self, key: str, size: int, why: str) -> DataError:
        return DataError(
            f"{key} of {size} bytes finds no room in {self.folder}: {why} (max_local_bytes={self._max_bytes}, "
            f"{shutil.disk_usage(self.folder).free} bytes free on the disk). Raise max_local_bytes, make the shards "
            "smaller, or name another folder (cache_dir, or the environment's TMPDIR)."
        )

    @contextlib.contextmanager
    def _folder_lock(self) -> Iterator[None]:
        with FileLock(self.folder / "lock", thread_local=False, is_singleton=False):
            yield


def _locked(path: Path, kind: int) -> int | None:
    """A descriptor of ``path`` with a lock of this kind; None where it is not there, or locked by another."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:  # else it was removed before the lock was ours
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove(path: Path) -> bool:
    """Remove a file that nobody holds; whether it is gone."""
    descriptor = _locked(path, fcntl.LOCK_EX)
    if descriptor is None:
        return not path.exists()
    path.unlink()
    os.close(descriptor)
    return True


def _temporary_folder(owner: object) -> Path:
    """A folder that goes when its owner goes, and takes those with it whose owners were killed."""
    for alive in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*/{_ALIVE}"):
        with contextlib.suppress(PermissionError):  # another user's
            descriptor = _locked(alive, fcntl.LOCK_EX)
            if descriptor is not None:
                shutil.rmtree(alive.parent, ignore_errors=True)
                os.close(descriptor)
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    descriptor = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.rename(folder / "new", folder / _ALIVE)  # locked before it can be seen
    weakref.finalize(owner, _remove_folder, folder, descriptor, os.getpid())
    return folder


def _close_all(held: dict[str, int]) -> None:
    """Unlock what is still pinned by an owner that goes."""
    while held:
        os.close(held.popitem()[1])


def _remove_folder(folder: Path, descriptor: int, process: int) -> None:
    if os.getpid() == process:  # a forked process has the object too, and must leave its parent's files
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)

"""Copies in a bounded folder: pinned, evicted, waited for, shared."""

import multiprocessing
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from dataecho.errors import DataError
from dataecho.sources.local_copies import LocalCopies
from dataecho.sources.remote import Remote
from dataecho.sources.retry import go_on


class Files:
    """Files of 100 bytes each, and how often they were opened."""

    def __init__(self, folder):
        self.folder = folder
        self.opened = []

    def stream(self, key, size=100):
        def open_stream():
            self.opened.append(key)
            (self.folder / key).write_bytes(key.encode() * (size // len(key)))
            return Remote().stream(str(self.folder / key))

        return open_stream


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    return Files(tmp_path / "files")


@pytest.fixture
def copies(tmp_path):
    return LocalCopies(cache_dir=str(tmp_path / "cache"), max_bytes=250)


def add(copies, files, key, **size):
    return copies.add(key, files.stream(key, **size), proceed=go_on)


def here(copies):
    return sorted(path.stem for path in copies.folder.glob("*.copy"))


def test_a_copy_is_written_once_and_pinned(copies, files):
    assert add(copies, files, "a") == 100
    assert add(copies, files, "a") == 0
    assert copies.path("a").read_bytes() == b"a" * 100
    assert files.opened == ["a"]
    copies.unpin("a", remove=True)
    assert here(copies) == ["a"]
    copies.unpin("a", remove=True)
    assert here(copies) == []
    copies.unpin("a", remove=True)  # once too often does nothing


def test_the_least_recently_used_goes_and_what_is_pinned_stays(copies, files):
    add(copies, files, "a")
    add(copies, files, "b")
    copies.unpin("a", remove=False)
    copies.unpin("b", remove=False)
    assert copies.pin("a")
    copies.unpin("a", remove=False)
    add(copies, files, "c")
    assert here(copies) == ["a", "c"]
    assert copies.pin("a")
    copies.unpin("c", remove=False)
    add(copies, files, "d")
    assert here(copies) == ["a", "d"]


def test_who_finds_no_room_waits_in_turn(copies, files):
    add(copies, files, "a")
    add(copies, files, "b")
    order, waiting = [], {}
    for key, size in (("c", 150), ("d", 50)):  # d would fit at once, and must not overtake c
        waiting[key] = threading.Thread(
            target=lambda key=key, size=size: (add(copies, files, key, size=size), order.append(key)),
            daemon=True,
        )
        waiting[key].start()
        while key not in files.opened:
            time.sleep(0.01)
    time.sleep(0.15)
    assert order == []
    assert here(copies) == ["a", "b"]
    copies.unpin("a", remove=True)
    waiting["c"].join(10)
    assert order == ["c"]
    copies.unpin("b", remove=True)
    waiting["d"].join(10)
    assert order == ["c", "d"]


def test_who_waits_may_give_up_and_lets_the_next_go_on(copies, files):
    add(copies, files, "a")
    add(copies, files, "b")

    def give_up():
        if "c" in files.opened:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        copies.add("c", files.stream("c"), proceed=give_up)
    copies.unpin("a", remove=True)
    assert add(copies, files, "d") == 100
    assert here(copies) == ["b", "d"]
    assert not list(copies.folder.glob("*.part"))


def test_what_never_fits_is_an_error_with_the_numbers(copies, files):
    with pytest.raises(
        DataError, match=r"a of 251 bytes finds no room in .*larger than all.*max_local_bytes=250, \d+ b"
    ):
        add(copies, files, "a", size=251)
    assert not list(copies.folder.glob("*.part"))
    assert add(copies, files, "b", size=250) == 250


def test_a_full_disk_is_an_error_with_the_numbers(copies, files, monkeypatch):
    def full(descriptor, size):
        if size:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(DataError, match="a of 100 bytes finds no room.*the disk is full.*Raise max_local_bytes"):
        add(copies, files, "a")
    assert not list(copies.folder.glob("*.part"))


def test_the_leftover_of_a_killed_process_makes_room(copies, files):
    (copies.folder / "dead.part").write_bytes(b"x" * 250)
    (copies.folder / "a.part").write_bytes(b"x" * 50)
    assert add(copies, files, "a") == 100
    assert copies.path("a").read_bytes() == b"a" * 100
    assert not (copies.folder / "dead.part").exists()


def test_another_process_respects_pins_and_takes_over_what_is_written(tmp_path, copies, files):
    context = multiprocessing.get_context("spawn")
    add(copies, files, "a")
    add(copies, files, "b")
    copies.unpin("b", remove=False)
    with context.Pool(1) as pool:
        assert pool.apply(_add_in_process, (copies, tmp_path / "files", "c")) == 100
        assert here(copies) == ["a", "c"]
        assert pool.apply(_add_in_process, (copies, tmp_path / "files", "a")) == 0
    # The pins of a process end with it.
    copies.unpin("a", remove=False)
    add(copies, files, "d")
    add(copies, files, "e")
    assert here(copies) == ["d", "e"]


def _add_in_process(copies, folder, key):
    return add(copies, Files(folder), key)


def test_a_pickled_copy_sees_the_files_and_does_not_remove_them(files):
    copies = LocalCopies(cache_dir=None, max_bytes=1000)
    add(copies, files, "a")
    again = pickle.loads(pickle.dumps(copies))
    assert again.path("a").read_bytes() == b"a" * 100
    assert again.pin("a")
    del again
    assert copies.path("a").exists()


def test_a_temporary_folder_goes_with_its_owner_or_with_the_next(tmp_path, monkeypatch, files):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = multiprocessing.get_context("fork").Process(target=_make_and_die, args=(files,))
    killed.start()
    killed.join()
    left = list(tmp_path.glob("dataecho-shards-*"))
    assert len(left) == 1 and (left[0] / "a.copy").exists()
    copies, other = (LocalCopies(cache_dir=None, max_bytes=1000) for _ in range(2))
    assert {copies.folder, other.folder} == set(tmp_path.glob("dataecho-shards-*"))
    folder = copies.folder
    del copies
    assert not folder.exists() and other.folder.exists()


def _make_and_die(files):
    copies = LocalCopies(cache_dir=None, max_bytes=1000)
    add(copies, files, "a")
    assert Path(copies.folder).exists()
    os._exit(1)

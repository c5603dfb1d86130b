"""The bytes of a shard at any place."""

import errno
import io
import os

import pytest

from dataecho.errors import DataError
from dataecho.sources.file import Stat
from dataecho.sources.remote import MissingFile, Remote
from dataecho.sources.shard_file import FarFile, FileView, LocalFile

DATA = bytes(range(200))


@pytest.fixture(params=["local", "far"])
def file(request, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    return LocalFile(path) if request.param == "local" else FarFile(Remote(), str(path), Stat(200, ""))


def test_bytes_come_from_any_place(file):
    assert file.stat.size == 200
    assert [file.read_at(start, length) for start, length in [(3, 4), (0, 200), (199, 1), (5, 0)]] == [
        DATA[3:7],
        DATA,
        DATA[199:],
        b"",
    ]


def test_fewer_bytes_than_asked_for_are_an_error(file):
    with pytest.raises(DataError, match=r"a\.bin: 2 bytes from byte 199 on were asked for, 1 .*cut short"):
        file.read_at(199, 2)


def test_a_view_is_read_and_moved_like_any_file(file):
    view = io.BufferedReader(FileView(file), 16)
    assert view.read(3) == DATA[:3]
    assert view.seek(-5, os.SEEK_END) == 195
    assert view.read() == DATA[195:]
    view.seek(10)
    view.seek(4, os.SEEK_CUR)
    assert (view.tell(), view.read(2)) == (14, DATA[14:16])


def test_an_open_file_stays_readable_when_it_is_removed(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    file = LocalFile(path)
    path.unlink()
    assert file.read_at(1, 3) == DATA[1:4]
    with pytest.raises(MissingFile, match=r"a\.bin: there is no such file"):
        LocalFile(path)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EMFILE, "Too many open files. This process has too many files open: raise the limit"),
        (errno.ELOOP, "Too many levels of symbolic links. A link on its way leads back to itself: remove that link"),
        (errno.EACCES, "Permission denied. Give this user the right to read it"),
        (errno.ENOTDIR, "Not a directory. Check the path"),
    ],
)
def test_what_helps_is_told_by_what_happened(tmp_path, monkeypatch, number, cure):
    def refused(path, flags):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("dataecho.sources.shard_file.os.open", refused)
    with pytest.raises(DataError, match=rf"a\.bin: {cure}"):
        LocalFile(tmp_path / "a.bin")


def test_files_are_closed_when_nobody_refers_to_them(tmp_path):
    (tmp_path / "a.bin").touch()
    before = len(os.listdir("/proc/self/fd"))
    files = [LocalFile(tmp_path / "a.bin") for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5
    files.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="Is a directory"):
        LocalFile(tmp_path).read_at(0, 1)

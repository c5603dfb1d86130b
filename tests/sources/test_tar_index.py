"""What is found in a tar file, and what is refused."""

import gzip
import json
import tarfile

import pytest

from dataecho.errors import DataError
from dataecho.sources.tar_index import TarIndex, index_tar
from tests.sources.tar_files import example, write_tar


def contents(path):
    """{key: {field: bytes}} by the index alone."""
    index, data = index_tar(path, path.name), path.read_bytes()
    return {
        index.key(k): {field: data[offset : offset + size] for field, (offset, size) in index.where(k).items()}
        for k in range(len(index))
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_that_share_a_name_are_one_example(tmp_path, format):
    members = [("a/1.5.jpg", b"x"), ("a/1.CLS", b"3"), ("b/1.seg.png", b"y"), ("b/1.cls", b""), ("a/2.jpg", b"z" * 513)]
    assert contents(write_tar(tmp_path / "s.tar", members, format=format)) == {
        "a/1": {"5.jpg": b"x", "cls": b"3"},
        "b/1": {"seg.png": b"y", "cls": b""},
        "a/2": {"jpg": b"z" * 513},
    }


def test_the_files_of_an_example_need_not_be_neighbours(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("1.jpg", b"a"), ("2.jpg", b"b"), ("1.cls", b"1"), ("2.cls", b"2")])
    assert contents(path) == {"1": {"jpg": b"a", "cls": b"1"}, "2": {"jpg": b"b", "cls": b"2"}}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path, format):
    long, foreign = "d" * 150 + "/" + "n" * 120, "löwe/Tür-獅"
    path = write_tar(tmp_path / "s.tar", [(f"{long}.jpg", b"a"), (f"{foreign}.jpg", b"b")], format=format)
    assert contents(path) == {long: {"jpg": b"a"}, foreign: {"jpg": b"b"}}
    index = index_tar(path, "s")
    again = TarIndex.from_json(json.loads(json.dumps(index.as_json())), path.stat().st_size)
    assert [again.key(k) for k in range(2)] == [long, foreign]


def test_what_is_no_part_of_an_example_is_left_out(tmp_path):
    folder = tarfile.TarInfo("images")
    folder.type = tarfile.DIRTYPE
    members = [folder, (".DS_Store", b"x"), ("a/._1.jpg", b"x"), ("README", b"x"), ("__meta__.json", b"{}")]
    assert contents(write_tar(tmp_path / "s.tar", [*members, ("1.jpg", b"y")])) == {"1": {"jpg": b"y"}}


@pytest.mark.parametrize("name", ["../../evil.jpg", "/etc/evil.jpg", "a/../../../evil.jpg"])
def test_names_that_lead_elsewhere_are_names_only(tmp_path, name):
    before = set(tmp_path.rglob("*"))
    path = write_tar(tmp_path / "inner" / "s.tar", [(name, b"bad"), ("1.jpg", b"y")])
    assert contents(path)[name[:-4]] == {"jpg": b"bad"}
    assert set(tmp_path.rglob("*")) - before == {path.parent, path}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("2.jpg")
    link.type, link.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"s\.tar: '2\.jpg' is a link, a device.*Pack plain files"):
        index_tar(write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), link]), "s.tar")


def test_a_shard_that_is_cut_short_anywhere_is_an_error(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", example(0, 0) + example(0, 1)).read_bytes()
    needed = len(whole.rstrip(b"\0")) // 512 * 512 + 1024  # the last content, and one block of zeros
    cut = tmp_path / "cut.tar"
    for size in [0, 1, 100, 511, *range(512, needed, 256), needed - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.tar (is|has) (cut short|empty|no tar file).*again|right file"):
            index_tar(cut, "cut.tar")
    cut.write_bytes(whole[:needed])
    assert len(index_tar(cut, "cut.tar")) == 2


@pytest.mark.parametrize("at", [0, 148, 300])
def test_a_damaged_header_is_an_error(tmp_path, at):
    path = write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), ("2.jpg", b"y")])
    data = bytearray(path.read_bytes())
    data[1024 + at] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"s\.tar is damaged: there is no header at byte 1024 of 10240"):
        index_tar(path, "s.tar")


def test_archives_that_were_joined_are_refused(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("1.jpg", b"x")])
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match=r"more follows the mark of its end, at byte 1024"):
        index_tar(path, "s.tar")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(DataError, match=r"s\.tar is no tar file"):
        index_tar(path, "s.tar")
    path.write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"s\.tar is compressed \(gzip\).*Unpack it"):
        index_tar(path, "s.tar")


def test_nothing_in_it_and_something_twice_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"s\.tar has no example"):
        index_tar(write_tar(tmp_path / "s.tar", [("README", b"x")]), "s.tar")
    with pytest.raises(DataError, match=r"s\.tar has no example"):
        index_tar(write_tar(tmp_path / "s.tar", []), "s.tar")
    with pytest.raises(DataError, match=r"'1\.JPG' is there twice"):
        index_tar(write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), ("1.JPG", b"y")]), "s.tar")


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": [[-1]]},
        {"offsets": [[5000]]},
        {"sizes": [[-2]]},
        {"sizes": [["a"]]},
        {"keys": []},
        {"fields": ["a", "b"]},
        {"sizes": None},
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path, change):
    content = index_tar(write_tar(tmp_path / "s.tar", [("1.jpg", b"x")]), "s").as_json()
    assert len(TarIndex.from_json(content, 4000)) == 1
    with pytest.raises((ValueError, TypeError)):
        TarIndex.from_json({**content, **change}, 4000)

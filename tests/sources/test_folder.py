"""Images in one folder per class."""

import errno
import os
import pickle
import shutil

import numpy as np
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.stage import Broken
from dataecho.sources.folder import FolderSource
from dataecho.testing.source_contract import SourceContract, all_positions
from tests.sources.listing_server import serving

FILES = (
    "cat/1.jpg",
    "cat/2 and a half.JPG",
    "cat/10.jpeg",
    "cat/kittens/1.png",
    "dog/1.jpg",
    "dog/2.jpg",
    "dog/3#1.jpg",
    "eel-fish/1.jpg",
    "eel/1.jpg",
)


def write_files(folder, files=FILES):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    return str(folder)


def everything(source):
    return source.read(*all_positions(source))


class TestFolderSource(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        url = write_files(tmp_path / "data")
        return lambda: FolderSource(url)

    @pytest.fixture
    def changed_source(self, tmp_path):
        write_files(tmp_path / "changed")
        (tmp_path / "changed" / "dog" / "1.jpg").write_bytes(b"another dog")
        return FolderSource(str(tmp_path / "changed"))


@pytest.fixture
def address(tmp_path):
    write_files(tmp_path / "data")
    with serving(tmp_path) as address:
        yield address


# ---- what is found


def test_the_numbers_of_classes_are_those_of_the_sorted_folders(tmp_path):
    source = FolderSource(write_files(tmp_path))
    assert source.classes == ("cat", "dog", "eel", "eel-fish")
    found = [(source.name(0, k), record["label"]) for k, record in enumerate(everything(source))]
    assert found == [
        ("cat/1.jpg", 0),
        ("cat/10.jpeg", 0),
        ("cat/2 and a half.JPG", 0),
        ("cat/kittens/1.png", 0),
        ("dog/1.jpg", 1),
        ("dog/2.jpg", 1),
        ("dog/3#1.jpg", 1),
        ("eel/1.jpg", 2),
        ("eel-fish/1.jpg", 3),
    ]
    assert all(record["label"].dtype == np.int64 for record in everything(source))


def test_a_record_is_the_bytes_of_its_file(tmp_path):
    source = FolderSource(write_files(tmp_path))
    for k, record in enumerate(everything(source)):
        assert record["image"] == f"content of {source.name(0, k)}".encode()


def test_files_of_this_machine_are_read_by_the_workers_in_any_order(tmp_path):
    source = FolderSource(write_files(tmp_path), num_readers=5)
    assert (source.num_shards, source.random_access, source.num_readers, source.num_fetches) == (1, True, 0, 0)


def test_other_files_and_hidden_ones_do_not_count(tmp_path):
    others = ("cat/notes.txt", "cat/.hidden.jpg", ".git/1.jpg", "README.md", "cat/1.jpg.bak")
    assert FolderSource(write_files(tmp_path, FILES + others)).num_examples(0) == len(FILES)
    classes = ["cat", "dog", "eel", "eel-fish"]
    assert FolderSource(str(tmp_path), extensions=[".TXT"], classes=classes).num_examples(0) == 1


def test_a_folder_without_any_file_is_no_class_in_silence(tmp_path):
    write_files(tmp_path)
    (tmp_path / "bee").mkdir()
    with pytest.raises(SettingError, match="an image in each of its folders, which are the classes. bee: no image"):
        FolderSource(str(tmp_path))
    (tmp_path / "bee" / "1.webp").write_bytes(b"a bee")
    assert FolderSource(str(tmp_path)).classes == ("bee", "cat", "dog", "eel", "eel-fish")


def test_a_class_behind_a_url_that_has_no_image_is_refused(tmp_path, address):
    (tmp_path / "data" / "bee").mkdir()
    (tmp_path / "data" / "bee" / "1.tif").write_bytes(b"a bee")
    with pytest.raises(SettingError, match=r"bee: no image there. 1 files are no images by their endings \(1 .tif\)"):
        FolderSource(f"{address}/data")
    (tmp_path / "data" / "bee" / "1.tif").unlink()
    with pytest.raises(SettingError, match=r"bee: no image there. Put images there"):
        FolderSource(f"{address}/data")


def test_folders_that_are_called_as_parts_of_a_data_set_may_be_given_as_classes(tmp_path):
    source = FolderSource(write_files(tmp_path, ("train/1.jpg", "test/1.jpg")), classes=["test", "train"])
    assert source.classes == ("test", "train")
    assert FolderSource(write_files(tmp_path / "b", ("train/1.jpg", "bus/1.jpg"))).classes == ("bus", "train")


def test_what_is_left_out_is_one_line_and_so_are_classes_without_an_image(tmp_path, caplog):
    others = [f"cat/{number}.tif" for number in range(12)] + ["dog/notes", "dog/1.GIF"]
    classes = ["ant", "cat", "dog", "eel", "eel-fish"]
    FolderSource(write_files(tmp_path, (*FILES, *others)), classes=classes)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 1 of 5 classes have no image: ant",
        f"{tmp_path}: 14 files are no images by their endings (12 .tif, 1 .gif, 1 no ending). They are left out: "
        "images end in .jpg, .jpeg, .jfif, .png, .webp, .bmp (extensions).",
    ]


def test_links_to_folders_are_followed(tmp_path):
    write_files(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "elsewhere" / "dog", tmp_path / "data" / "dog")
    assert FolderSource(str(tmp_path / "data")).classes == ("dog",)


def test_given_classes_fix_the_numbers_where_one_has_no_file(tmp_path):
    shutil.rmtree(write_files(tmp_path) + "/cat")
    source = FolderSource(str(tmp_path), classes=["eel-fish", "eel", "dog", "cat"])
    assert source.classes == ("eel-fish", "eel", "dog", "cat")
    assert [record["label"] for record in everything(source)] == [0, 1, 2, 2, 2]


def test_the_digest_is_that_of_a_copy_elsewhere_and_tells_the_numbers_of_classes_apart(tmp_path):
    first, second = write_files(tmp_path / "a"), write_files(tmp_path / "b" / "c")
    assert FolderSource(first).digest == FolderSource(second + "/").digest
    turned = ["eel-fish", "eel", "dog", "cat"]
    assert FolderSource(first).digest != FolderSource(first, classes=turned).digest


def test_a_copy_in_another_process_reads_the_same(tmp_path):
    source = FolderSource(write_files(tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert everything(copy) == everything(source) and copy.digest == source.digest


# ---- behind a URL


def test_a_folder_behind_a_url_has_the_same_records(tmp_path, address):
    source, here = FolderSource(f"{address}/data"), FolderSource(str(tmp_path / "data"))
    assert source.classes == here.classes
    assert everything(source) == everything(here)
    assert (source.num_readers, source.random_access) == (16, True)
    assert pickle.loads(pickle.dumps(source)).digest == source.digest


def test_a_folder_in_a_store_of_objects_has_the_same_records(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in FILES:
        memory.pipe_file(f"/test_folder/data/{name}", f"content of {name}".encode())
    source = FolderSource("memory://test_folder/data/", num_readers=3)
    assert everything(source) == everything(FolderSource(write_files(tmp_path)))
    assert source.num_readers == 3
    memory.rm("/test_folder/data/dog/1.jpg")
    records = everything(source)
    assert [isinstance(record, Broken) for record in records] == [k == 4 for k in range(9)]
    assert "dog/1.jpg: there is no such file" in records[4].reason


def test_a_url_that_cannot_be_listed_is_refused(address):
    with pytest.raises(SettingError, match=r"url=http://127.0.0.1:\d+/nothing cannot be used. .*can be listed"):
        FolderSource(f"{address}/nothing")


def test_a_url_with_a_query_is_refused_and_not_printed():
    with pytest.raises(SettingError, match="url=http://here/data cannot be used. .*storage_options") as raised:
        FolderSource("http://user:password@here/data?token=secret")
    assert "secret" not in str(raised.value) and "password" not in str(raised.value)


# ---- what is broken


def test_a_file_that_is_missing_or_empty_is_broken_and_the_others_are_not(tmp_path):
    source = FolderSource(write_files(tmp_path))
    (tmp_path / "cat" / "1.jpg").unlink()
    (tmp_path / "dog" / "1.jpg").write_bytes(b"")
    records = everything(source)
    assert [isinstance(record, Broken) for record in records] == [k in (0, 4) for k in range(9)]
    assert "No such file or directory" in records[0].reason and records[4].reason == "the file is empty"


def test_a_link_to_nothing_is_listed_and_broken(tmp_path):
    write_files(tmp_path)
    os.symlink(tmp_path / "nowhere.jpg", tmp_path / "cat" / "0.jpg")
    source = FolderSource(str(tmp_path))
    assert source.num_examples(0) == len(FILES) + 1
    assert isinstance(everything(source)[0], Broken)


def test_a_folder_that_is_gone_is_no_matter_of_one_example(tmp_path):
    source = FolderSource(write_files(tmp_path / "data"))
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match="data: the folder is gone. Was it moved or unmounted"):
        everything(source)


@pytest.mark.parametrize("target", ["cat", ""])
def test_a_link_that_leads_back_is_refused_before_everything_is_listed_again_and_again(tmp_path, target):
    write_files(tmp_path)
    for name in ("loop", "second"):
        os.symlink(tmp_path / target, tmp_path / "cat" / name)
    with pytest.raises(DataError, match="cat/(loop|second): the link leads back to a folder that it lies in.* Remove"):
        FolderSource(str(tmp_path))


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    write_files(tmp_path / "a")
    for name in ("first", "second"):
        (tmp_path / "b").mkdir(exist_ok=True)
        os.symlink(tmp_path / "a" / "dog", tmp_path / "b" / name)
    assert FolderSource(str(tmp_path / "b")).classes == ("first", "second")


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EMFILE, "too many files open: raise the limit"),
        (errno.EACCES, "Give this user the right to read it"),
        (errno.EIO, "Look at the disk"),
        (errno.ENOTDIR, "Look at the disk"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_told_with_what_helps(tmp_path, monkeypatch, number, cure):
    write_files(tmp_path)

    def refused(path):  # an administrator, who may run this, has every right
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("dataecho.sources.folder.os.scandir", refused)
    with pytest.raises(DataError, match=f"the folder cannot be listed: {os.strerror(number)}. .*{cure}"):
        FolderSource(str(tmp_path))


@pytest.mark.parametrize(("number", "is_broken"), [(errno.EMFILE, False), (errno.EACCES, True), (errno.EISDIR, True)])
def test_too_many_open_files_are_no_fault_of_an_example(tmp_path, monkeypatch, number, is_broken):
    source = FolderSource(write_files(tmp_path))

    def refused(path, mode):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("builtins.open", refused)
    if is_broken:
        assert all(isinstance(record, Broken) for record in everything(source))
        return
    with pytest.raises(DataError, match="1.jpg: Too many open files. .*raise the limit"):
        everything(source)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ((), {}, "url=.* cannot be used. .*No file below it ends in .jpg, .jpeg, .jfif, .png, .webp, .bmp: check"),
        (("cat/1.gif",), {}, r"one folder per class, and images in it.*1 files are no images .*\(1 .gif\)"),
        ((*FILES, "bee/1.gif"), {}, r"an image in each of its folders.* bee: no image there. 1 files .*\(1 .gif\)"),
        (("train/cat/1.jpg", "val/dog/1.jpg"), {}, r"url=.*whose folders are the classes.*\(train, val\): .*/train,"),
        (("Train/cat/1.jpg",), {}, r"parts of a data set \(Train\): go one level down, to .*/Train, or give classes"),
        (("train/cat/1.jpg", "val/dog/1.jpg", "devkit/notes.txt"), {}, "parts of a data set"),
        (("1.jpg", "2.jpg"), {}, r"url=.* cannot be used. .*2 lie beside them, such as \['1.jpg'\]: .*manifest"),
        (("cat/1.jpg", "1.jpg"), {}, r"url=.* cannot be used. .*1 lie beside them, such as \['1.jpg'\]"),
        (FILES, {"classes": ["cat", "dog"]}, "classes=.*cannot be used. .*Missing: eel, eel-fish"),
        (FILES, {"classes": ["cat", "cat"]}, "classes=.*cannot be used. Allowed: every class once"),
        (FILES, {"extensions": []}, r"extensions=\[\] cannot be used. Allowed: a list of endings"),
        (FILES, {"extensions": ["jpg"]}, r"extensions=\['jpg'\] cannot be used. .*For instance \[.jpg, .png\]"),
        (FILES, {"extensions": ".jpg"}, "extensions=.jpg cannot be used. Allowed: a list of endings"),
        (FILES, {"num_readers": -1}, "num_readers=-1 cannot be used. Allowed: whole numbers >= 0"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, files, settings, message):
    with pytest.raises(SettingError, match=message):
        FolderSource(write_files(tmp_path, files), **settings)


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(SettingError, match="url=.* cannot be used. Allowed: a folder that exists"):
        FolderSource(str(tmp_path / name))


# ---- resuming


def test_a_file_that_was_added_is_told_in_words_and_not_only_by_two_digests(tmp_path):
    url = write_files(tmp_path)
    settings = {"batch_size": 2, "shuffle_buffer": 0, "seed": 0}
    with Feed(FolderSource(url), [], **settings) as feed:
        state = feed.state(0)
    write_files(tmp_path, ("cat/11.jpg",))
    message = "source=.* cannot be used. Allowed: .* a file was added, removed, renamed or changed, .* start a new run"
    with pytest.raises(SettingError, match=message):
        Feed(FolderSource(url), [], **settings, state=state)

"""Data that are not there, or are something else: one line and exit 2, whatever the task."""

import os
import subprocess
import sys

import pytest

from tests.sources.tar_files import write_tar
from tests.support import PROJECT

#: Instead of a vocabulary that would have to be learnt first.
BYTES = [
    "~task.tokenizer",
    "+task.tokenizer={_target_: dataecho_tasks.shared.text.tokenizer.ByteTokenizer}",
    "task.vocab_size=256",
]


def write_files(root):
    (root / "empty").mkdir()
    (root / "a.tar").write_bytes(b"no archive")
    write_tar(root / "whole.tar", [("n01.tar", b"an archive"), ("n02.tar", b"another")])
    write_tar(root / "good.tar", [("1.jpg", b"no image"), ("1.cls", b"1")])


CASES = {
    "lm1b": (["task=lm1b_transformer", "task/lm1b_transformer_data=full", "task.train.folder=empty",
              *BYTES],
             "training-monolingual.tokenized.shuffled/news.en-00001-of-00100 is not there"),
    "wet": (["task=commoncrawl_transformer", "task/commoncrawl_transformer_data=full", "task.train.urls=empty/*.gz",
             "task.eval.urls=empty/*.gz", *BYTES],
            "empty/*.gz: no file matches"),
    "coco": (["task=coco_ssd", "task/coco_ssd_data=official", "task.train.folder=empty"],
             "task.train.folder=empty cannot be used. Allowed: a folder with annotations/instances_train2017.json"),
    "imagenet": (["task=imagenet_resnet50", "task/imagenet_resnet50_data=published", "task.train.urls=whole.tar",
                  "task.eval.url=empty", "task.eval.labels=empty"],
                 "whole.tar is an archive of 2 archives, such as n01.tar"),
    "cifar10": (["task=cifar10_resnet32", "task/cifar10_resnet32_data=official", "task.train.folder=empty"],
                "task.train.folder=empty cannot be used. Allowed: a folder with data_batch_1.bin"),
    "folder": (["task=images", "task/images_data=folder", "task.train.url=empty", "task.eval.url=empty"],
               "task.train.url=empty cannot be used. Allowed: a folder with one folder per class"),
    "manifest": (["task=images", "task/images_data=manifest", "task.train.manifest=a.csv", "task.eval.manifest=b.csv"],
                 "a.csv: there is no such file"),
    "tar": (["task=images", "task/images_data=tar", "task.train.urls=nothing/*.tar", "task.eval.urls=a.tar"],
            "nothing/*.tar: no file matches"),
    "tar, when it is read": (["task=images", "task/images_data=tar", "task.train.urls=a.tar", "task.eval.urls=good.tar",
                              "backend.compute_threads=1"],
                             "a.tar is no tar file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_data_are_one_line_and_exit_2(tmp_path, case):
    write_files(tmp_path)
    overrides, message = CASES[case]
    command = [
        sys.executable,
        str(PROJECT / "train.py"),
        *overrides,
        "tracking=none",
        "accelerator=cpu",
        "display=none",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]

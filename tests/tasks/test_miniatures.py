"""Miniatures of several tasks may share a folder."""

from dataecho_tasks.cifar10_resnet32 import miniature as cifar10
from dataecho_tasks.coco_ssd import miniature as coco


def test_two_tasks_share_a_cache_folder(tmp_path):
    settings = {"split": "eval", "num_examples": 4, "cache_dir": str(tmp_path)}
    sources = [module.miniature(**settings) for module in (cifar10, coco, cifar10, coco)]
    assert [type(source).__name__ for source in sources] == ["CifarBinarySource", "CocoSource"] * 2
    assert all(source.num_examples(0) == 4 for source in sources)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10", "coco"]

"""Names of classes that a Hugging Face dataset has in its features are compared between training and evaluation."""

from types import SimpleNamespace

import numpy as np
import pytest
from hydra.utils import get_object

from dataecho.build import build
from dataecho.errors import SettingError
from dataecho.sources.map_style import MapStyleSource
from dataecho.training.contracts import Task
from tests.support import config

NAME = "mine.Rows"


class Rows(list):
    """As Hugging Face's: ``features`` say of every column what it is; a ``ClassLabel`` has ``names``."""

    def __init__(self, names, column="label"):
        super().__init__({"image": np.zeros((20, 20, 3), np.uint8), column: k} for k in range(len(names)))
        self.features = {"image": SimpleNamespace(), column: SimpleNamespace(names=list(names))}


def test_names_are_those_of_the_column_that_becomes_the_label():
    assert MapStyleSource(Rows(["cat", "dog"])).classes == ("cat", "dog")
    fields = {"image": "image", "label": "fine"}
    assert MapStyleSource(Rows(["cat", "dog"], "fine"), fields=fields).classes == ("cat", "dog")
    assert MapStyleSource(Rows(["cat", "dog"]), fields=["image", "label"]).classes == ("cat", "dog")
    assert MapStyleSource(Rows(["cat", "dog"], "fine")).classes is None


def test_features_that_name_no_classes_say_nothing():
    plain = Rows(["cat"])
    for features in (None, {}, {"label": SimpleNamespace()}, {"label": SimpleNamespace(names=None)}, 3):
        plain.features = features
        assert MapStyleSource(plain).classes is None


def test_other_names_on_the_other_side_are_refused(monkeypatch):
    monkeypatch.setattr("dataecho.build.get_object", lambda name: Rows if name == NAME else get_object(name))
    node = config("tracking=none", "task=images", "task/images_data=own", "task.num_classes=2")["task"]

    def with_names(train, held_out):
        return node | {"train": {"_target_": NAME, "names": train}, "eval": {"_target_": NAME, "names": held_out}}

    assert build(with_names(["cat", "dog"], ["cat", "dog"]), Task, key="task").num_classes == 2
    for other in (["dog", "cat"], ["cat", "cow"]):
        with pytest.raises(SettingError, match=r"task.eval=2 classes cannot be used"):
            build(with_names(["cat", "dog"], other), Task, key="task")

"""What a `_target_` names is built, and the nodes among its arguments before it."""

import collections
from dataclasses import dataclass

import pytest

from dataecho.build import build
from dataecho.errors import SettingError, require

HERE = __name__


@dataclass
class Outer:
    inner: object
    models: dict


class Inner:
    """A nested part that checks its own arguments and cannot be copied."""

    def __init__(self, size: int, *, part: object = None):
        require(size > 0, "size", size, allowed="numbers > 0", cure="Set size.")
        self.size, self.part = size, part

    def __deepcopy__(self, memo):
        raise AssertionError("it was copied")


@dataclass
class Plain:
    """Hydra would turn this into a dictionary."""

    value: int


def open_ended(first: int, *others: int, **more: int) -> tuple:
    return first, others, more


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The tests are imported by path: their names are found here."""
    from hydra.utils import get_object

    mine = {f"{HERE}.{kind.__name__}": kind for kind in (Outer, Inner, Plain, open_ended)}
    monkeypatch.setattr("dataecho.build.get_object", lambda name: mine[name] if name in mine else get_object(name))


def node(kind, **arguments):
    return {"_target_": f"{HERE}.{kind.__name__}", **arguments}


def test_nodes_among_the_arguments_are_built_first_however_deep():
    outer = build(node(Outer, inner=node(Inner, size=1, part=node(Plain, value=3)), models={}), Outer, key="task")
    assert isinstance(outer.inner, Inner) and outer.inner.size == 1
    assert outer.inner.part == Plain(3)


def test_nodes_in_a_dictionary_of_nodes_are_left_for_later():
    models = {"torch": node(Inner, size=0)}
    assert build(node(Outer, inner=None, models=models), Outer, key="task").models == models


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (node(Inner, sise=1), "^task.inner.sise=1 cannot be used. .*Did you mean task.inner.size"),
        (node(Inner), "^task.inner.size=nothing cannot be used. Allowed: a value"),
        (node(Inner, size="???"), r"^task.inner.size=\?\?\? cannot be used. .*Say which: task.inner.size=\.\.\."),
        (node(Inner, size="one"), "^task.inner.size=one cannot be used. Allowed: .*integer"),
        (node(Inner, size=0), "^task.inner.size=0 cannot be used. Allowed: numbers > 0. Set size"),
        (node(Inner, size=1, part=node(Inner, size=0)), "^task.inner.part.size=0 cannot be used"),
        ({"_targte_": f"{HERE}.Inner"}, "^task.inner._targte_=.*Did you mean task.inner._target_"),
        ({"_target_": "no.such.thing"}, "^task.inner._target_=no.such.thing cannot be used. .*import failed"),
        ({"_target_": "os.path"}, "^task.inner._target_=os.path cannot be used. .*a class or function. It cannot be"),
    ],
)
def test_a_mistake_in_a_nested_node_is_told_by_its_whole_key(inner, message):
    with pytest.raises(SettingError, match=message):
        build(node(Outer, inner=inner, models={}), Outer, key="task")


def test_functions_of_others_may_take_any_arguments():
    assert build(node(open_ended, first=1, second=2), object, key="x") == (1, (), {"second": 2})
    with pytest.raises(SettingError, match="x.first=nothing cannot be used"):
        build(node(open_ended, second=2), object, key="x")


def test_functions_without_annotations_or_signature_can_be_built():
    assert build({"_target_": "numpy.zeros", "shape": 3}, object, key="x").tolist() == [0, 0, 0]
    assert build({"_target_": "builtins.dict", "a": 1}, object, key="x") == {"a": 1}
    assert isinstance(build({"_target_": "collections.OrderedDict"}, object, key="x"), collections.OrderedDict)

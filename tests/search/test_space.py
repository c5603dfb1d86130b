"""Which overrides are cells, which are dimensions, and what is refused."""

import json
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dataecho.errors import SettingError
from dataecho_search.space import describe, read_cells


def read(*arguments, **params):
    return read_cells(params, arguments, OverridesParser.create())


def test_comma_lists_are_cells_and_the_rest_is_their_space():
    cells, fixed = read(
        "echo=batch,example", "factor=2,4", "lr=tag(log,interval(0.01,1))", "width=int(interval(8,64))",
        "depth=range(2,9,3)", "kind=choice(a,b)", "rate=range(0.1,0.35,0.1)", "display=none",
    )  # fmt: skip
    assert [cell.name for cell in cells] == [
        "echo=batch,factor=2",
        "echo=batch,factor=4",
        "echo=example,factor=2",
        "echo=example,factor=4",
    ]
    assert cells[1].overrides == ("echo=batch", "factor=4", "display=none")
    assert cells[1].facts == {"echo": "batch", "factor": "4"}
    assert fixed == ["display=none"]
    space = {key: (item["name"], item["attributes"]) for key, item in json.loads(describe(cells[0].space)).items()}
    assert space == {
        "lr": ("FloatDistribution", {"low": 0.01, "high": 1.0, "log": True, "step": None}),
        "width": ("IntDistribution", {"low": 8, "high": 64, "log": False, "step": 1}),
        "depth": ("IntDistribution", {"low": 2, "high": 8, "log": False, "step": 3}),
        "kind": ("CategoricalDistribution", {"choices": ["a", "b"]}),
        "rate": ("FloatDistribution", {"low": 0.1, "high": 0.3, "log": False, "step": 0.1}),
    }


def test_without_an_echo_no_factor_matters_and_duplicates_collapse():
    cells, _ = read("echo=none,batch", "factor=2,4", "lr=interval(0,1)", "max_factor=interval(2,8)")
    assert [(cell.name, cell.overrides) for cell in cells] == [
        ("echo=none", ("echo=none",)),
        ("echo=batch,factor=2", ("echo=batch", "factor=2")),
        ("echo=batch,factor=4", ("echo=batch", "factor=4")),
    ]
    assert [list(cell.space) for cell in cells] == [["lr"], ["lr", "max_factor"], ["lr", "max_factor"]]
    assert len(read("seed=1,2,1")[0]) == 2


def test_a_cell_is_told_with_its_echo_even_where_that_is_fixed():
    (cell,), fixed = read("task=digits", "echo=batch", "factor=2", "lr=interval(0,1)")
    assert (cell.name, cell.facts) == ("search", {"task": "digits", "echo": "batch", "factor": "2"})
    assert fixed == ["task=digits", "echo=batch", "factor=2"]


def test_yaml_has_the_same_syntax_and_the_command_line_wins():
    cells, _ = read("lr=0.3", "seed=interval(0,9)", **{"lr": "interval(0,1)", "echo": ["a", "b"], "seed": 3, "w": None})
    assert [cell.overrides for cell in cells] == [("echo=a", "w=null", "lr=0.3"), ("echo=b", "w=null", "lr=0.3")]
    assert list(cells[0].space) == ["seed"]


def test_values_go_back_to_the_command_line_as_they_came():
    (cell,), _ = read("kind=choice(true,a b,'x,y',[1,2],1.5)")
    choices = cell.space["kind"].choices
    texts = [cell.point({"kind": choice})[0] for choice in choices]
    again = OverridesParser.create().parse_overrides(texts)
    assert [override.value() for override in again] == [True, "a b", "x,y", [1, 2], 1.5]


def test_names_can_be_folders():
    cells, _ = read("data=/a/b,'c d'")
    assert all(re.fullmatch(r"data=[a-z_]+-[0-9a-f]{6}", cell.name) for cell in cells)
    assert len({cell.name for cell in cells}) == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lr=interval(1,1)", r"lr=interval\(1,1\) cannot be used.*low < high.*no number lies between 1.* and 1"),
        ("lr=interval(2,1)", r"lr=interval\(2,1\) cannot be used"),
        ("lr=tag(log,interval(0,1))", "lr=.*above 0 with tag.*contradictory"),
        ("lr=tag(lin,interval(0,1))", "lr=.*the tag lin means nothing here"),
        ("n=range(3,3)", "n=.*the range has no number in it"),
    ],
)
def test_an_empty_or_contradictory_space_is_refused(argument, message):
    with pytest.raises(SettingError, match=message):
        read(argument)


def test_a_key_that_is_both_fixed_and_searched_is_refused():
    with pytest.raises(SettingError, match="lr=0.5 cannot be used.*given twice"):
        read("lr=interval(0,1)", "lr=0.5")
    assert read("lr=0.1", "lr=0.5")[0][0].overrides == ("lr=0.5",)  # as Hydra: the last one wins

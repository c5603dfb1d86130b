"""Which overrides are cells, which are dimensions, and what is refused."""

import json
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dataecho.errors import SettingError
from dataecho_search.space.cells import read_cells
from dataecho_search.space.dimensions import describe


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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("choice('1','2',3)", ["1", "2", 3]),
        ("str(choice(1,2))", ["1", "2"]),
        ("int(choice('1','2'))", [1, 2]),
        ("choice('true','null','1e3','a b',plain,'it\\'s')", ["true", "null", "1e3", "a b", "plain", "it's"]),
        ("choice([1,'2'],{a:'3'})", [[1, "2"], {"a": "3"}]),
        ("'1','2',3", ["1", "2", 3]),
        ("str(1,2)", ["1", "2"]),
    ],
)
def test_a_text_that_looks_like_a_number_stays_a_text(written, meant):
    cells, _ = read(f"k={written}")
    texts = [line for cell in cells for line in cell.overrides]
    texts += [cells[0].point({"k": choice})[0] for choice in getattr(cells[0].space.get("k"), "choices", ())]
    assert [override.value() for override in OverridesParser.create().parse_overrides(texts)] == meant


def test_the_text_of_a_choice_that_was_right_before_is_as_it_was():
    """A study that has begun goes on."""
    (cell,) = read("kind=choice(a,b c,'x,y',2)")[0]
    assert cell.space["kind"].choices == ("a", r"b\ c", r"x\,y", 2)


@pytest.mark.parametrize(
    ("written", "low", "high", "step"),
    [
        ("range(0.80,0.96,0.02)", 0.8, 0.94, 0.02),
        ("range(0.94,0.79,-0.02)", 0.8, 0.94, 0.02),
        ("range(9,1,-4)", 5, 9, 4),
    ],
)
def test_a_range_has_the_step_that_is_written(written, low, high, step):
    (cell,) = read(f"k={written}")[0]
    dimension = cell.space["k"]
    assert (dimension.low, dimension.high, dimension.step) == (low, high, step)


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
        ("lr=interval(0.1,inf)", r"lr=interval\(0.1,inf\) cannot be used.*finite low < high.*0.1 to inf has no middle"),
        ("lr=interval(-inf,1)", "lr=.*has no middle"),
        ("lr=interval(0,1e400)", "lr=.*has no middle"),
        ("lr=interval(nan,1)", "lr=.*no number lies between"),
        ("n=range(1,inf)", "n=.*a range goes from a number to a number"),
        ("n=range(1.5,9,0)", "n=.*a range goes from a number to a number"),
        ("n=tag(log,range(1,9))", r"n=tag\(log,range\(1,9\)\) cannot be used.*write tag\(log,int\(interval\(1,8\)\)\)"),
        ("n=tag(log,choice(1,2))", r"n=tag\(log,choice\(1,2\)\) cannot be used.*the tag log means nothing here\."),
        ("n=tag(odd,range(1,9))", "n=.*the tag odd means nothing here"),
        ("x=shuffle(range(0.80,0.96,0.02))", r"x=shuffle\(range.* without shuffle.*Leave shuffle out"),
        ("n=sort(range(1,9,3),reverse=true)", r"n=sort\(.*leave it out"),
        ("x=shuffle(choice(1,2))", "x=.*Leave shuffle out"),
        ("x=shuffle(1,2)", "x=.*Leave shuffle out"),
    ],
)
def test_an_empty_or_contradictory_space_is_refused(argument, message):
    with pytest.raises(SettingError, match=message):
        read(argument)


def test_a_key_that_is_both_fixed_and_searched_is_refused():
    with pytest.raises(SettingError, match="lr=0.5 cannot be used.*given twice"):
        read("lr=interval(0,1)", "lr=0.5")
    assert read("lr=0.1", "lr=0.5")[0][0].overrides == ("lr=0.5",)  # as Hydra: the last one wins

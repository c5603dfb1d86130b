"""Claims are read from plain nodes; a mistake is refused by its key."""

import pytest

from dataecho.errors import SettingError
from dataecho_study.claims import AtMost, Order, Stays, read_claims

AT_MOST = {"kind": "at_most", "text": "echo saves", "cells": {"echo": ["batch"]}, "than": {"echo": "none"}}


def test_claims_of_several_kinds_are_read_in_order():
    stays = {"kind": "stays", "text": "t", "cells": {"echo": "none"}, "along": "shuffle_buffer", "margin": 1.1}
    order = {"kind": "order", "text": "t", "along": "echo", "values": ["before_augmentation", "batch"]}

    first, second, third = read_claims([AT_MOST, stays, order])

    assert first == AtMost(text="echo saves", cells={"echo": ["batch"]}, than={"echo": "none"}, margin=1)
    assert (type(second), second.direction, second.than) == (Stays, "both", None)
    assert (type(third), third.values, third.measure) == (Order, ["before_augmentation", "batch"], "fresh")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"kind": "atmost"},
            r"claims.0.kind=atmost cannot be used. Allowed: at_most, order, .*Write one of them",
        ),
        ({"kind": None}, r"study.claims.0.kind=None cannot be used. Allowed: at_most"),
        ({"cell": {}}, r"study.claims.0.cell=\{\} .*Did you mean study.claims.0.cells\?"),
        ({"cells": {"colour": 1}}, r"study.claims.0.cells.colour=1 .*the keys batch_size, echo, factor"),
        ({"margin": 0}, r"study.claims.0.margin=0 cannot be used. .*greater than 0"),
        ({"measure": "time"}, r"study.claims.0.measure=time cannot be used. .*'fresh' or 'seconds'"),
        ({"text": ""}, r"study.claims.0.text= cannot be used."),
    ],
)
def test_a_mistake_in_a_claim_is_refused_by_its_key(change, problem):
    with pytest.raises(SettingError, match=problem):
        read_claims([{**AT_MOST, **change}])


def test_a_claim_that_lacks_a_field_is_refused():
    with pytest.raises(SettingError, match="study.claims.0.than=nothing cannot be used. Allowed: a value"):
        read_claims([{key: value for key, value in AT_MOST.items() if key != "than"}])

"""Where the weights lie that a run started from is no part of it; what they are is."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dataecho.errors import SettingError
from dataecho.training.checkpoint import find_checkpoint, load_checkpoint
from dataecho.training.identity import identity_of, portable_state
from tests.end_to_end.test_weights import export, train


def test_a_run_goes_on_with_its_weights_at_another_place_and_with_no_others(tmp_path):
    train(tmp_path / "other", steps=2)
    first = export(tmp_path / "other")
    marks = train(tmp_path / "run", f"weights={first}", steps=2)
    run = load_checkpoint(find_checkpoint(tmp_path / "run", best=False))
    assert str(tmp_path) not in json.dumps(run["identity"])
    moved = first.rename(tmp_path / "moved.safetensors")
    changed = {name: array + np.float32(1) for name, array in load_file(moved).items()}
    save_file(changed, tmp_path / "changed.safetensors")
    for other in (f"weights={tmp_path / 'changed.safetensors'}", "weights=null"):
        with pytest.raises(SettingError, match=r"weights \(digest of their file\)=.* cannot be used"):
            train(tmp_path / "run", other, "resume=auto", steps=2)
    # The first name is that of a file that is gone: a run that goes on does not need it.
    for same in (moved, first):
        assert train(tmp_path / "run", f"weights={same}", "resume=auto", steps=2) == marks


def test_a_checkpoint_that_names_the_place_is_read():
    def read(was, now):
        state = {"identity": {"seed": 0} | ({} if was == "nothing" else {"weights": was})}
        found = portable_state(state, held_out="d", weights=now)["identity"]
        return found == identity_of({"seed": 0, "weights": "anywhere"}, held_out="d", weights=now)

    assert read("a.safetensors", "digest") and read(None, None) and read("nothing", None)
    assert not read("a.safetensors", None) and not read(None, "digest") and not read("nothing", "digest")

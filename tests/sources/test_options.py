"""The settings that sources have in common, as keywords of a source."""

import dataclasses
import inspect

import pytest

from dataecho.errors import SettingError
from dataecho.sources.folder import FolderSource
from dataecho.sources.options import LooseFileOptions, RemoteOptions, ShardOptions
from dataecho.sources.tar import TarSource
from dataecho.training.identity import PLACES


@pytest.mark.parametrize(("source", "options"), [(TarSource, ShardOptions), (FolderSource, LooseFileOptions)])
def test_a_source_takes_every_option_by_name(source, options):
    taken = inspect.signature(source).parameters
    assert all(taken[one.name].default == one.default for one in dataclasses.fields(options))
    assert "options" not in taken
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_tries'"):
        source("somewhere", num_tries=3)


def test_options_locate_data_or_tune_their_transfer_and_are_no_part_of_a_run():
    assert {one.name for options in (ShardOptions, LooseFileOptions) for one in dataclasses.fields(options)} <= PLACES


@pytest.mark.parametrize(
    ("options", "setting", "allowed"),
    [
        (RemoteOptions, {"num_retries": -1}, "whole numbers >= 0"),
        (RemoteOptions, {"first_delay": -0.5}, "seconds >= 0"),
        (RemoteOptions, {"timeout": 0}, "seconds > 0"),
        (LooseFileOptions, {"num_readers": -1}, "whole numbers >= 0"),
        (ShardOptions, {"num_readers": 0}, "whole numbers >= 1"),
        (ShardOptions, {"num_fetches": 0}, "whole numbers >= 1"),
        (ShardOptions, {"max_local_bytes": 0}, "whole numbers > 0"),
    ],
)
def test_a_value_out_of_bounds_is_refused(options, setting, allowed):
    ((key, value),) = setting.items()
    with pytest.raises(SettingError, match=f"{key}={value} cannot be used. Allowed: {allowed}"):
        options(**setting)

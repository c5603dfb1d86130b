"""Trials as processes of this machine."""

import pytest

from tests.search.pool_contract import PoolContract


class TestProcessPool(PoolContract):
    @pytest.fixture
    def pool_source(self):
        return "ProcessPool(context(folder), preload=[])", "from dataecho_search.processes import ProcessPool"

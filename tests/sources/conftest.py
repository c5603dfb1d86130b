"""Files on a real local server."""

import pytest

from tests.sources.http_server import HttpServer


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Nothing of a test stays in the user's cache."""
    folder = tmp_path / "user_cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "dataecho"


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    server = HttpServer(folder)
    yield server
    server.close()

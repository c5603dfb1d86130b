"""From a configuration to the parts of a sweep."""

from dataecho_search.sweep.start import _modules
from tests.support import config


def test_a_server_imports_what_its_framework_needs_and_no_other_framework():
    modules = _modules([config("tracking=none"), config("backend=tensorflow")])
    assert modules.keys() == {"torch", "tensorflow"}
    assert {"dataecho.modes", "dataecho.backends.torch_backend", "dataecho_tasks.digits.torch_model"} <= set(
        modules["torch"]
    )
    assert (
        "dataecho_tasks.digits.tensorflow_model" in modules["tensorflow"] and "mlflow.tracking" in modules["tensorflow"]
    )
    assert not any("tensorflow" in name or "mlflow" in name for name in modules["torch"])
    assert not any("torch" in name for name in modules["tensorflow"])

"""What the folder layout could break in silence: a hidden package, a framework in the core."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each would hide something: the standard library's `platform`, other Hydra plugins, MLflow's dependency `docker`.
NEVER_PACKAGES = ["platform", "plugins", "plugins/hydra_plugins", "docker"]

CORE = ["dataecho.plan", "dataecho.pipeline", "dataecho.training", "dataecho.testing"]

# A backend's contract suite may know frameworks; it is named after the backend.
IMPORT_CORE = """
import importlib, pkgutil, sys

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    modules = [found.name for found in pkgutil.walk_packages(package.__path__, name + ".")]
    modules = [module for module in modules if "backend" not in module.rpartition(".")[2]]
    assert modules, f"{name}: no module found"
    for module in modules:
        importlib.import_module(module)
importlib.import_module("dataecho_tasks.digits.data")
frameworks = {"torch", "tensorflow", "jax", "hydra", "omegaconf", "mlflow", "optuna"}
print("loaded:", *sorted(frameworks & sys.modules.keys()))
"""


def run_in_root(code: str, *arguments: str) -> str:
    # With -c the working directory comes first on the path, as it does for someone who works in the repository.
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_platform_is_the_standard_librarys() -> None:
    version, file = run_in_root("import platform; print(platform.python_version(), platform.__file__)").split()
    assert version == ".".join(map(str, sys.version_info[:3]))
    assert Path(file).parent == Path(sysconfig.get_path("stdlib"))


def test_docker_is_the_installed_package() -> None:
    assert not Path(run_in_root("import docker; print(docker.__file__)")).is_relative_to(ROOT / "docker")


@pytest.mark.parametrize("folder", NEVER_PACKAGES)
def test_a_folder_that_is_no_package_has_no_init(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_core_imports_no_framework() -> None:
    assert run_in_root(IMPORT_CORE, *CORE) == "loaded:"

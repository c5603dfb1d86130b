"""Where the configuration lies, and the folder that a user works in: of a checkout, or of an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The folder that this code was checked out into; None where it was installed from a wheel."""
    folder = _PACKAGE.parents[1]
    return folder if (folder / "conf" / "config.yaml").is_file() and folder / "platform" == _PACKAGE.parent else None


def configuration() -> Path:
    """The folder with ``config.yaml`` and the groups: ``conf`` of the checkout, or inside the installed package."""
    return (checkout() or _PACKAGE) / "conf"


def project() -> Path:
    """The folder of MLflow's database and of the git revision: the checkout, else the current folder."""
    return checkout() or Path.cwd()

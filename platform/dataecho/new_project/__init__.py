"""``dataecho init my_project``: a folder with a small project that trains at once, from the files in ``files``."""

from __future__ import annotations

from pathlib import Path

from dataecho.errors import require

_FILES = Path(__file__).resolve().parent / "files"
_NAME = "my_project"  # in the files, for the name of the project


def create_project(folder: Path) -> list[Path]:
    """Write the project into ``folder``, which must be missing or empty; returns its files, relative to ``folder``.

    Raises :class:`SettingError`, before anything is written.
    """
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        "init",
        str(folder),
        allowed="a folder that is missing or empty; nothing is overwritten",
        cure="Choose another name.",
    )
    sources = sorted(path for path in _FILES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for source in sources:
        target = folder / source.relative_to(_FILES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text(encoding="utf-8").replace(_NAME, folder.resolve().name), encoding="utf-8")
    return [source.relative_to(_FILES) for source in sources]

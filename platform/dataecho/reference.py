"""The reference of all settings, for the command line and for ``docs/reference/settings.md``.

``conf`` is where both find values, options and comments. The comments and defaults of declared settings come from
their declarations: ``python -m dataecho.reference`` writes them, and the page, into the project in this folder.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import MISSING, dataclass
from pathlib import Path

from omegaconf import OmegaConf

from dataecho.declare import Declared, SettingGroup, declared_settings, inner_group
from dataecho.errors import refuse_unknown
from dataecho.settings import Settings
from dataecho.sources.options import LooseFileOptions, ShardOptions

PAGE = Path("docs") / "reference" / "settings.md"

_SOURCES = (
    "Keys of `task.train` and `task.eval`; a key that the files in `conf` lack needs a plus: `+task.train.timeout=10`."
)

_COMMENT_COLUMN, _WIDTH = 25, 120
_LINE = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z_]\w*):(?P<value>(?: [^#\s][^#]*?)?) *(?:# (?P<comment>.*))?$")
_CONTINUED = re.compile(r"^ {2,}# (?P<comment>.*)$")

#: A group with more options than this has its options' settings in its own help only.
_FEW = 4


@dataclass(frozen=True)
class Entry:
    """A key of a file in ``conf``: its dotted name, its value as it is written there, and its comment."""

    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class Option:
    """A file of a group: its name, the comment that opens it, and its keys."""

    name: str
    about: str
    entries: list[Entry]

    @property
    def commented(self) -> list[Entry]:
        """The keys that a comment explains."""
        return [entry for entry in self.entries if entry.comment and "_target_" not in entry.name]


def read_options(folder: Path) -> list[Option]:
    """The options of the group in ``folder``, by name."""
    return [_read_option(path) for path in sorted(folder.glob("*.yaml"))]


def written(project: Path) -> dict[Path, str]:
    """The text of every file of ``project`` that follows from the declarations."""
    conf = project / "conf"
    files = {conf / "config.yaml": _with_comments((conf / "config.yaml").read_text(), _all_declared(Settings))}
    for declared in declared_settings(Settings):
        path = conf / declared.name / f"{_default_option(conf, declared.name)}.yaml"
        if (group := inner_group(declared)) is not None and path.is_file():
            files[path] = _with_comments(path.read_text(), _all_declared(group))
    return {**files, project / PAGE: _page(conf, files)}


def help_text(project: Path, group: str | None = None) -> str:
    """Modes, groups and settings, each with its sentence; of one ``group`` only, where it is named. Raises
    :class:`SettingError` for an unknown one."""
    settings = declared_settings(Settings)
    if group is not None:
        refuse_unknown([group], [declared.name for declared in settings], values={group: ""})
    lines: list[str] = []
    for declared in settings:
        if group in (None, declared.name):
            lines += _help_of(declared, read_options(project / "conf" / declared.name), whole=group is not None)
    return "\n".join(lines).strip("\n")


def _help_of(declared: Declared, options: list[Option], *, whole: bool) -> list[str]:
    inner = inner_group(declared)
    if inner is None and not options:
        lines = _described(declared.name, declared.help if declared.choice_help else _sentence(declared))
        choices = [_described(f"  {declared.name}={name}", about) for name, about in declared.choice_help.items()]
        return [*lines, *(line for choice in choices for line in choice)]
    lines = ["", *_described(declared.name, declared.help)]
    for option in options:
        lines += _described(f"  {declared.name}={option.name}", option.about)
        if inner is None and (whole or len(options) <= _FEW):
            for entry in option.commented:
                lines += _described(f"    {declared.name}.{entry.name}", entry.comment)
    if inner is None and not whole and len(options) > _FEW:
        lines += _described("  ...", f"--help {declared.name} lists the settings of each.")
    for name, one in _all_declared(inner).items() if inner is not None else ():
        if inner_group(one) is None:
            lines += _described(f"  {declared.name}.{name}", _sentence(one))
    return lines


def _page(conf: Path, files: dict[Path, str]) -> str:
    lines = [
        "# Settings",
        "",
        "Written by `python -m dataecho.reference` from the declarations in the code. Every setting can be given on",
        "the command line: `key=value`. `python train.py --help` lists the same, `--help optimizer` one group.",
        "",
        "## Of every mode",
        "",
        "| mode | |",
        "|---|---|",
        *(f"| `mode={name}` | {about} |" for name, about in declared_settings(Settings)[0].choice_help.items()),
        "",
        *_table([one for one in declared_settings(Settings) if inner_group(one) is None and not _is_node(conf, one)]),
    ]
    for declared in declared_settings(Settings):
        options = read_options(conf / declared.name)
        group = inner_group(declared)
        if group is None and not options:
            continue
        lines += ["", f"## `{declared.name}`", "", declared.help, ""]
        if options:
            lines += ["| option | |", "|---|---|"]
            lines += [f"| `{declared.name}={option.name}` | {_cell(option.about)} |" for option in options]
            lines += [""]
        if group is not None:
            lines += _table(list(_all_declared(group).values()))
        else:
            lines += _option_tables(declared.name, options)
    sources: dict[str, type[SettingGroup]] = {"one file per example": LooseFileOptions, "shards": ShardOptions}
    for name, group in sources.items():
        lines += ["", f"## Sources of {name}", "", _SOURCES, "", *_table(list(_all_declared(group).values()))]
    return "\n".join(lines).rstrip() + "\n"


def _table(settings: list[Declared]) -> list[str]:
    rows = [
        f"| `{one.key}` | {_default(one)} | {_cell(one.allowed)}{_other_unit(one)} | {_cell(one.help)} |"
        for one in settings
        if inner_group(one) is None
    ]
    return ["| setting | default | allowed | |", "|---|---|---|---|", *rows]


def _option_tables(group: str, options: list[Option]) -> list[str]:
    lines: list[str] = []
    for option in options:
        if option.commented:
            lines += [f"`{group}={option.name}`:", "", "| setting | value | |", "|---|---|---|"]
            lines += [
                f"| `{group}.{one.name}` | {f'`{one.value}`' if one.value else ''} | {_cell(one.comment)} |"
                for one in option.commented
            ]
            lines += [""]
    return lines


def _all_declared(group: type[SettingGroup], prefix: str = "") -> dict[str, Declared]:
    """The settings of a group and of the groups in it, by their dotted names below it."""
    found: dict[str, Declared] = {}
    for declared in declared_settings(group):
        found[prefix + declared.name] = declared
        if (inner := inner_group(declared)) is not None:
            found |= _all_declared(inner, f"{prefix}{declared.name}.")
    return found


def _with_comments(text: str, declared: dict[str, Declared]) -> str:
    """``text`` of a file with the comment and the default of every declared setting in it."""
    lines: list[str] = []
    above: list[str] = []
    follows_declared = False
    for line in text.splitlines():
        if follows_declared and _CONTINUED.match(line):
            continue
        follows_declared = False
        if (found := _LINE.match(line)) is not None:
            above = [*above[: len(found["indent"]) // 2], found["name"]]
            if (one := declared.get(".".join(above))) is not None:
                follows_declared = True
                lines += _commented(found["indent"], found["name"], _value(found["value"].strip(), one), _sentence(one))
                continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def _value(text: str, declared: Declared) -> str:
    """``text`` where it is the default, or there is none; else the default."""
    default = declared.default
    if inner_group(declared) is not None or default is MISSING or text.startswith(("${", "???")):
        return text
    if text and OmegaConf.from_dotlist([f"value={text}"]).value == default:
        return text
    return {None: "null", True: "true", False: "false"}.get(default, str(default))


def _commented(indent: str, name: str, value: str, comment: str) -> list[str]:
    start = f"{indent}{name}: {value}".rstrip().ljust(_COMMENT_COLUMN - 1) + " # "
    wrapped = textwrap.wrap(comment, _WIDTH - max(len(start), _COMMENT_COLUMN + 2))
    return [start + wrapped[0], *(f"{'# ':>{len(start)}}{line}" for line in wrapped[1:])]


def _sentence(declared: Declared) -> str:
    choices = " | ".join(str(choice) for choice in declared.choices)
    listed = choices and all(str(choice) not in declared.help for choice in declared.choices)
    return f"{_with_unit(declared)} {choices}" if listed else _with_unit(declared)


def _with_unit(declared: Declared) -> str:
    return f"[{declared.unit}] {declared.help}" if declared.unit else declared.help


def _other_unit(declared: Declared) -> str:
    return f", in {declared.unit}" if declared.unit and declared.unit not in declared.allowed else ""


def _default(declared: Declared) -> str:
    if declared.default is MISSING:
        return ""
    return f"`{'null' if declared.default is None else str(declared.default).replace('True', 'true')}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _described(name: str, sentence: str) -> list[str]:
    lines = textwrap.wrap(sentence, 98, initial_indent=" " * 36, subsequent_indent=" " * 36)
    if lines and len(name) < 33:
        lines[0] = f"  {name:<34}{lines[0].lstrip()}"
        return lines
    return [f"  {name}", *lines]


def _is_node(conf: Path, declared: Declared) -> bool:
    return (conf / declared.name).is_dir()


def _default_option(conf: Path, group: str) -> str:
    chosen = OmegaConf.load(conf / "config.yaml").defaults
    return next((str(item[group]) for item in chosen if item != "_self_" and group in item), "")


def _read_option(path: Path) -> Option:
    about: list[str] = []
    entries: list[Entry] = []
    above: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("# ") and not entries and not above:
            about.append(line[2:])
        elif entries and (more := _CONTINUED.match(line)) is not None:
            last = entries.pop()
            entries.append(Entry(last.name, last.value, f"{last.comment} {more['comment']}"))
        elif (found := _LINE.match(line)) is not None:
            above = [*above[: len(found["indent"]) // 2], found["name"]]
            if above[0] != "defaults":
                entries.append(Entry(".".join(above), found["value"].strip(), found["comment"] or ""))
    return Option(path.stem, _first_sentence(" ".join(about)), entries)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def main() -> None:
    """Write the files that follow from the declarations."""
    for path, text in written(Path.cwd()).items():
        path.write_text(text)


if __name__ == "__main__":
    main()

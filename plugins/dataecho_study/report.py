"""The report of studies: one self-contained page, ``study.json``, and the pictures. Made of :class:`Study` alone."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from dataecho.diagnose.law import FILE_NAME as LAW
from dataecho.diagnose.law import FORMS, Laws
from dataecho_study.advice import trends
from dataecho_study.claims import Claim
from dataecho_study.figures import Picture, draw, title
from dataecho_study.law import check_law, fit_laws, law_curves, write_laws
from dataecho_study.public import public
from dataecho_study.results import EXAMPLES_PER_EPOCH, FACTOR, THROTTLE_RATIO, Repeat, Study
from dataecho_study.statistics import Interval
from dataecho_study.summary import summarize
from dataecho_study.verdicts import judge

PAGE, DATA = "report.html", "study.json"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A study with its claims and the axes of its picture. ``laws``: of another study, to check against the times of
    this one; None for those that this study gives itself, if it can."""

    study: Study
    claims: Sequence[Claim]
    picture: Picture
    laws: Laws | None = None


def write_report(folder: Path, subjects: Sequence[Subject]) -> list[Path]:
    """Write ``report.html`` of one or several studies, their pictures, and for each its ``study.json``
    (``study_<task>.json`` if there are several), and ``law.json`` where the picture is one of factors and there are
    enough of them, to ``folder``; return the paths. Nothing in them tells paths, addresses, hosts or user names."""
    folder.mkdir(parents=True, exist_ok=True)
    files, sections = [], []
    for subject in subjects:
        study = public(subject.study)
        laws = fit_laws(study) if subject.picture.x == FACTOR else None
        curves = law_curves(study, laws) if laws else {}
        pictures = draw(study, folder, subject.picture, curves=curves, curve_label="law")
        name = DATA if len(subjects) == 1 else f"study_{study.task}.json"
        files += [*pictures, _write(folder / name, study.to_json())]
        sections.append(_section(study, subject, laws, svg=pictures[1]))
        if laws:
            files.append(write_laws(folder / (LAW if len(subjects) == 1 else f"law_{study.task}.json"), laws))
    return [_write(folder / PAGE, _render(sections)), *files]


def _section(study: Study, subject: Subject, laws: Laws | None, *, svg: Path) -> dict[str, Any]:
    timed = subject.picture.y == "seconds"
    verdicts = judge(study, subject.claims)
    return {
        "study": study,
        "title": title(study),
        "picture": base64.b64encode(svg.read_bytes()).decode(),
        "verdicts": verdicts,
        "counts": Counter(verdict.result for verdict in verdicts),
        "fresh": summarize(study, "fresh"),
        "seconds": summarize(study, "seconds") if timed else [],
        "laws": laws.laws if laws else [],
        "formulas": {name: form.formula for name, form in FORMS.items()},
        "check": check_law(subject.laws, study) if subject.laws else None,
        "trends": trends(study),
        "facts": _facts(study),
        "winners": _winners(study),
        "is_emulated": any(THROTTLE_RATIO in cell.axes for cell in study.cells),
        "missed": [cell.key for cell in study.cells if any(math.isinf(repeat.fresh) for repeat in cell.repeats)],
        "border": [
            f"{cell.key}, repeat {repeat.number}: {warning}"
            for cell in study.cells
            for repeat in cell.repeats
            for warning in repeat.border
        ],
    }


def _facts(study: Study) -> list[tuple[str, str]]:
    goal = "at least" if study.goal == "max" else "at most"
    return [
        ("command", study.command),
        ("target", f"held-out {study.metric} of {goal} {study.target:g}"),
        (
            "the repeat is",
            "a fresh seed, given one tuning of the cell" if study.is_tuned_once else "a search of its own",
        ),
        *((name.replace("_", " "), _text(value)) for name, value in study.protocol.items()),
        ("machine", study.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in study.versions.items())),
        ("time of all runs", duration(study.seconds_total)),
    ]


def _winners(study: Study) -> dict[str, Any]:
    """The winner of every repeat, in columns of which at least one row has a value."""
    epoch = study.protocol.get(EXAMPLES_PER_EPOCH)
    rows = []
    for cell in study.cells:
        rows += [(cell.key, _winner(repeat, study.metric, epoch)) for repeat in cell.repeats]
        if not cell.repeats:
            rows.append((cell.key, {"repeat": "none has ended"}))
    columns = [
        name for name in dict.fromkeys(name for _, row in rows for name in row) if any(row.get(name) for _, row in rows)
    ]
    return {
        "columns": columns,
        "rows": [{"cell": key, "texts": [row.get(name, "") for name in columns]} for key, row in rows],
    }


def _winner(repeat: Repeat, metric: str, epoch: float | None) -> dict[str, str]:
    entered = repeat.entered
    return {
        "repeat": str(repeat.number),
        "seed": str(repeat.seed),
        "fresh": _number(repeat.fresh),
        "entered": _number(entered),
        "epochs entered": _number(entered / epoch) if entered is not None and epoch else "",
        "seconds": _number(repeat.seconds),
        f"best {metric}": f"{repeat.best:.4g}",
        f"training {metric}": "" if repeat.train is None else f"{repeat.train:.4g}",
        "R": _number(repeat.ratio),
        **{name: _text(value) for name, value in repeat.settings.items()},
        "trials": str(repeat.trials),
        "missed": str(repeat.missed),
        "diverged": str(repeat.diverged),
        "run": repeat.run,
    }


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _render(sections: Sequence[Mapping[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, ratio=_ratio, p=_p_value, text=_text)
    return environment.get_template("report_page.html").render(sections=sections) + "\n"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "missed"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _ratio(found: Interval | None) -> str:
    if found is None:
        return ""
    if math.isnan(found.estimate):
        return "unknown"
    if found.low == 0 and math.isinf(found.high):
        return f"{_times(found.estimate)} (no limits)"
    return f"{_times(found.estimate)} ({_times(found.low)} to {_times(found.high)})"


def _times(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(key)}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write(path: Path, text: str) -> Path:
    """Write a file in one step."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path

"""What echoing will save here, by the law of a task and the R that was measured."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho.diagnose.advice import Diagnosis, echo_setting, relative_time
from dataecho.diagnose.law import CONFIDENCE, Law, Laws, Saving, predict_saving
from dataecho.diagnose.measurements import Measurements


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """The echo point at which the law expects most. ``after``, ``saving``: None where the law has no echo that this
    task has. ``sentence``: the same in words."""

    after: str | None
    saving: Saving | None
    sentence: str


def expect(measured: Measurements, diagnosis: Diagnosis, laws: Laws) -> Expectation:
    """Apply the laws to every echo point that they know, each with the nearest batch size, and return the best."""
    found = []
    for point in diagnosis.points:
        echo = echo_setting(measured, point.name).removeprefix("echo=")
        law = laws.nearest(echo, measured.batch_size)
        if law is not None:
            time = relative_time(measured, point.name)
            found.append((point, law, predict_saving(law, time, ratio_error=measured.ratio_error)))
    if not found:
        echoes = ", ".join(dict.fromkeys(law.echo for law in laws.laws))
        sentence = (
            f"The law of {laws.task} predicts nothing here: it knows echo={echoes}, which this task does not have."
        )
        return Expectation(after=None, saving=None, sentence=sentence)
    point, law, saving = max(found, key=lambda one: one[2].estimate)
    return Expectation(after=point.name, saving=saving, sentence=_sentence(point.ratio, laws.task, law, saving))


def _sentence(ratio: float, task: str, law: Law, saving: Saving) -> str:
    like = f"if this task behaves like {task}" + (f" at batch {law.batch_size:g}" if law.batch_size else "")
    if saving.factor == 1:
        return f"R = {ratio:.2g} here: no factor saves time, {like}."
    return (
        f"R = {ratio:.2g} here: echo={law.echo} factor={saving.factor:g}, {saving.low:.2g} to {saving.high:.2g} times "
        f"less time to target (expected {saving.estimate:.2g}; {CONFIDENCE:.0%} interval for one run), {like}."
    )

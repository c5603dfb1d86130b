"""``mode=preview``: examples after every stage, and their repeats, without training."""

from __future__ import annotations

from pathlib import Path

from dataecho.compose import compose_input
from dataecho.compose.run_folder import new_folder
from dataecho.errors import shown
from dataecho.pictures.preview import FILE_NAME, TEXT_FILE_NAME, draw_preview, has_text, in_words
from dataecho.pictures.trace import trace
from dataecho.report.progress_bar import progress_bar
from dataecho.settings import Node, Settings


def preview(config: Node, *, folder: Path | None) -> None:
    """Write ``preview.png``, and ``preview.txt`` for text; print their paths."""
    given = compose_input(config)
    settings, task = given.settings, given.task
    folder = new_folder(settings, folder)
    if given.source.num_fetches > 0 and task.shuffle_buffer > task.batch_size:
        print(
            f"The first batch is drawn from {task.shuffle_buffer:,} examples of shards that are fetched for it: "
            f"task.shuffle_buffer={task.batch_size} shows another batch, but sooner.",
            flush=True,
        )
    with progress_bar("examples in the shards fetched so far", total=None) as tell:
        traced = trace(
            task,
            given.source,
            echo_after=settings.echo.after,
            factor=given.factors,
            batch_shuffle_buffer=settings.echo.shuffle_buffer,
            seed=settings.seed,
            num_examples=settings.preview.num_examples,
            num_repeats=settings.preview.num_repeats,
            on_shard=tell,
        )
    title = f"{task.name}: examples of the first batch, {_echo(settings)}"
    if has_text(traced):
        words = "\n".join([title, "", *in_words(traced)])
        print(words)
        (folder / TEXT_FILE_NAME).write_text(words, encoding="utf-8")
        print(folder / TEXT_FILE_NAME)
    print(draw_preview(traced, title=title).save(folder / FILE_NAME))


def _echo(settings: Settings) -> str:
    if settings.echo.after is None:
        return f"echo={settings.echo.name}"
    after = f" echo.after={settings.echo.after}" if settings.echo.name == "stage" else ""
    return f"echo={settings.echo.name}{after} factor={shown(settings.factor)}"

"""Where classes and functions have moved to, so that old command lines, checkpoints and run folders are understood."""

from __future__ import annotations

_MOVED = {
    "dataecho.report.display.NoDisplay": "dataecho.training.contracts.NoDisplay",
    "dataecho.tracking.no_tracker": "dataecho.training.contracts",
    "tasks": "dataecho_tasks",
    "tasks.text": "dataecho_tasks.shared.text",
    "tasks.written_once": "dataecho_tasks.shared.written_once",
    **{
        f"tasks.images.{module}": f"dataecho_tasks.shared.images.{module}"
        for module in (
            "classification",
            "drawing",
            "headers",
            "pixels",
            "resized_crops",
            "scenes",
            "tensorflow_layers",
            "torch_layers",
        )
    },
    "tasks.lm1b_transformer.mini": "dataecho_tasks.lm1b_transformer.miniature",
    "tasks.commoncrawl_transformer.mini": "dataecho_tasks.commoncrawl_transformer.miniature",
    "tasks.lm1b_transformer.mini.mini_sentences": "dataecho_tasks.lm1b_transformer.miniature.miniature",
    "tasks.commoncrawl_transformer.mini.mini_pages": "dataecho_tasks.commoncrawl_transformer.miniature.miniature",
    "dataecho_search.processes": "dataecho_search.workers.processes",
    "dataecho_search.pruning": "dataecho_search.study.pruning",
    "dataecho_search.ray_pool": "dataecho_search.workers.ray_pool",
}


def current_name(dotted: str) -> str:
    """The dotted name under which ``dotted`` is found today: itself, unless it or a module above it has moved."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if (new := _MOVED.get(".".join(parts[:length]))) is not None:
            return ".".join([new, *parts[length:]])
    return dotted

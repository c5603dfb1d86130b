"""Where the names of this package's classes and functions have moved to."""

MOVED = {
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
}

"""``mode=export``: the weights of a checkpoint, for any framework."""

from __future__ import annotations

from dataecho.compose.run_folder import chosen_checkpoint
from dataecho.errors import setting
from dataecho.settings import Settings
from dataecho.training.weights import FILE_NAME as WEIGHTS
from dataecho.training.weights import checkpoint_weights, write_weights


def export(settings: Settings) -> None:
    checkpoint = chosen_checkpoint(settings)
    path = write_weights(checkpoint.parent.parent / WEIGHTS, checkpoint_weights(checkpoint))
    print(f"The weights of {checkpoint} are in {path}. A new run, in any framework, starts from them with")
    print(setting("weights", path))

"""Continuations of a language model, drawn with fixed random numbers: two pictures differ only by their models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataecho.plan.keys import KeyStream
from dataecho.training.contracts import Predict

_STREAM = KeyStream(0, "text.sampling")


def continued(tokens: NDArray[np.int32], predict: Predict, *, num_tokens: int) -> NDArray[np.int32]:
    """``num_tokens`` tokens [b, ``num_tokens``] after all but the last of every row [b, sequence_length + 1].

    Each is drawn among the model's best ``candidates`` (top-k sampling: Fan et al., ACL 2018, section 5.1) and moves
    the row on by one, as the model knows no longer ones.
    """
    rows = np.arange(len(tokens))
    written = []
    for number in range(num_tokens):
        outputs = predict({"tokens": tokens})
        choice = _drawn(outputs["scores"], _STREAM.uniform(number, rows))
        token = outputs["candidates"][rows, choice].astype(tokens.dtype)
        written.append(token)
        # The last column is what the model is asked for: what stands there does not matter.
        tokens = np.concatenate([tokens[:, 1:-1], token[:, None], tokens[:, -1:]], axis=1)
    return np.stack(written, axis=1)


def _drawn(scores: NDArray[np.floating], uniform: NDArray[np.float64]) -> NDArray[np.intp]:
    """One column for every row [b], with the probabilities that the logits [b, k] stand for."""
    shares = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    bounds = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True)
    return np.minimum((bounds <= uniform[:, None]).sum(axis=1), scores.shape[1] - 1)

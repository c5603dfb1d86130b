"""A decoder-only Transformer in TensorFlow; see the PyTorch one for what it is."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho_tasks.shared.text.sizes import NUM_CANDIDATES, require_sizes


class Transformer(TensorflowModel):
    """``tokens`` int32 [b, sequence_length + 1] to the mean cross entropy of every row, in nats per token; for pictures
    the best ``candidates`` for each row's last token, [b, k], and their ``scores``, which are logits."""

    def __init__(
        self,
        *,
        vocab_size: int,
        sequence_length: int,
        width: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.0,
    ) -> None:
        require_sizes(
            "tensorflow", width=width, num_layers=num_layers, num_heads=num_heads, hidden=hidden, dropout=dropout
        )
        super().__init__()
        self.embedding = _embedding(vocab_size, width)
        self.positions = _embedding(sequence_length, width)
        self.dropout = keras.layers.Dropout(dropout)
        self.blocks = [Block(width, num_heads, hidden, dropout) for _ in range(num_layers)]
        self.norm = _norm(width)
        self._width = width

    def losses(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        tokens = batch["tokens"]
        return _mean_losses(self._logits(tokens[:, :-1], training=training), tokens[:, 1:])

    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tokens = batch["tokens"]
        logits = self._logits(tokens[:, :-1], training=False)
        scores, candidates = tf.math.top_k(logits[:, -1], min(NUM_CANDIDATES, logits.shape[-1]))
        return {"loss": _mean_losses(logits, tokens[:, 1:]), "candidates": candidates, "scores": scores}

    def _logits(self, tokens: tf.Tensor, *, training: bool) -> tf.Tensor:
        hidden = (self.embedding(tokens) + self.positions(tf.range(tokens.shape[1]))) * self._width**0.5
        hidden = self.dropout(hidden, training=training)
        for block in self.blocks:
            hidden = block(hidden, training=training)
        hidden = self.norm(hidden)
        weight = tf.cast(self.embedding.embeddings.value, hidden.dtype)
        return tf.cast(tf.matmul(hidden, weight, transpose_b=True), self.variable_dtype)


def _mean_losses(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """[b, n, vocabulary] and [b, n] to [b]."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits), axis=1)


class Block(keras.layers.Layer):
    """Causal self-attention, then two linear layers; both added to what came in."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = _norm(width)
        self.query, self.key, self.value, self.out = (_linear(width, width) for _ in range(4))
        self.hidden_norm = _norm(width)
        self.hidden_1, self.hidden_2 = _linear(width, hidden), _linear(hidden, width)
        self.dropout = keras.layers.Dropout(dropout)
        self._num_heads = num_heads
        self.built = True

    def call(self, hidden: tf.Tensor, training: bool = False) -> tf.Tensor:
        mixed = self.out(self._attention(self.attention_norm(hidden)))
        hidden = hidden + self.dropout(mixed, training=training)
        inner = tf.nn.relu(self.hidden_1(self.hidden_norm(hidden)))
        return hidden + self.dropout(self.hidden_2(inner), training=training)

    def _attention(self, inputs: tf.Tensor) -> tf.Tensor:
        queries, keys, values = (self._by_head(one(inputs)) for one in (self.query, self.key, self.value))
        scores = tf.matmul(queries, keys, transpose_b=True) * int(queries.shape[-1]) ** -0.5
        length = int(inputs.shape[1])
        seen = tf.linalg.band_part(tf.ones((length, length), dtype=tf.bool), -1, 0)
        shares = tf.nn.softmax(tf.where(seen, scores, scores.dtype.min))
        return tf.reshape(tf.transpose(tf.matmul(shares, values), (0, 2, 1, 3)), inputs.shape)

    def _by_head(self, values: tf.Tensor) -> tf.Tensor:
        """[b, n, width] to [b, heads, n, width / heads]."""
        batch, length, width = values.shape
        split = tf.reshape(values, (batch, length, self._num_heads, width // self._num_heads))
        return tf.transpose(split, (0, 2, 1, 3))


def _embedding(num_rows: int, width: int) -> keras.layers.Embedding:
    draws = keras.initializers.RandomNormal(stddev=width**-0.5)
    embedding = keras.layers.Embedding(num_rows, width, embeddings_initializer=draws)
    embedding.build((None,))
    return embedding


def _norm(width: int) -> keras.layers.LayerNormalization:
    norm = keras.layers.LayerNormalization(epsilon=1e-5)  # as PyTorch has it
    norm.build((None, width))
    return norm


def _linear(inner: int, outer: int) -> keras.layers.Dense:
    linear = keras.layers.Dense(outer)  # Xavier's uniform weights and biases of 0: Keras' own defaults
    linear.build((None, inner))
    return linear

"""Keras on TensorFlow, whatever this machine's Keras configuration prefers. The backend imports this before any model."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras looks once, when it is imported

import keras  # noqa: E402

__all__ = ["keras"]

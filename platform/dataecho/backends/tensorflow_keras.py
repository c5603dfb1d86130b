"""Keras on TensorFlow, whatever its configuration prefers. The backend imports this before any model."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras looks once, when it is imported

import keras

keras.config.disable_traceback_filtering()  # it would make a RuntimeError of a SettingError that a layer raises

__all__ = ["keras"]

"""The import of TensorFlow and Keras. All modules import them from here, since their first import decides.

Keras uses TensorFlow, regardless of the machine's Keras configuration, and TensorFlow prints no start-up messages.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

#: Start-up lines that TensorFlow's C++ writes at every log level.
_START_UP_LINES = (b"before absl::InitializeLog()", b"oneDNN custom operations are on")


@contextmanager
def without_start_up_lines() -> Iterator[None]:
    """Drop TensorFlow's start-up lines. Other lines on the process's standard error appear at the end."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if not any(start in line for start in _START_UP_LINES):
                    os.write(2, line)


os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras looks once; TensorFlow imports it

with without_start_up_lines():
    import keras
    import tensorflow as tf

tf.get_logger().setLevel("WARNING")  # it logs every strategy, and every sum over the workers that it traces
keras.config.disable_traceback_filtering()  # filtering turns a SettingError of a layer into a RuntimeError

__all__ = ["keras", "tf", "without_start_up_lines"]

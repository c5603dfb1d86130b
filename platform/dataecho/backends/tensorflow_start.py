"""TensorFlow and Keras as the backend wants them: to be imported from here, for what counts is who imports them first.

Keras computes with TensorFlow, whatever this machine's Keras configuration prefers, and TensorFlow does not greet.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

#: Lines about a healthy start that TensorFlow's C++ writes whatever its log level is.
_GREETINGS = (b"before absl::InitializeLog()", b"oneDNN custom operations are on")


@contextmanager
def without_greetings() -> Iterator[None]:
    """Whatever else is written to the process's standard error inside appears when it ends."""
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
                if not any(greeting in line for greeting in _GREETINGS):
                    os.write(2, line)


os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras looks once; TensorFlow imports it

with without_greetings():
    import keras
    import tensorflow as tf

tf.get_logger().setLevel("WARNING")  # it tells of every strategy, and of every sum over the workers that it traces
keras.config.disable_traceback_filtering()  # it would make a RuntimeError of a SettingError that a layer raises

__all__ = ["keras", "tf", "without_greetings"]

"""Keras and TensorFlow, imported without the lines that no setting silences; whatever needs them takes them here."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def stderr_aside() -> Iterator[None]:
    """Keep what is written to standard error, C++ included, out of sight, unless there is an error."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # where there is no AVX-512 it is off: a step costs a quarter more
with stderr_aside():
    import keras
    import tensorflow as tf

__all__ = ["keras", "stderr_aside", "tf"]

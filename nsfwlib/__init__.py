"""Build, clean and honestly evaluate an image-moderation classifier."""

import os

__version__ = "0.1.0"

# TensorFlow greets every process with a screen of messages; set the variable yourself to read them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

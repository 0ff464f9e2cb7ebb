"""Build, clean and honestly evaluate an image-moderation classifier."""

__version__ = "0.1.0"

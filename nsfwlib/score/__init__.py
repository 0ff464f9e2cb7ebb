"""What does a model say of any folder? One table, a row a file."""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

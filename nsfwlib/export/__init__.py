"""How does the model leave the notebook, and does it give the same answers there?

FORMATS  name → how the format is written, opened again, and how far it may differ
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

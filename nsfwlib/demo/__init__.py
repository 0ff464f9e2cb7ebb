"""What can be tried at once? A drawn data set with planted faults, and safe pictures that packages ship.

CLASSES        Names of the five class folders
TRUTH_COLUMNS  Columns of the hidden truth
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

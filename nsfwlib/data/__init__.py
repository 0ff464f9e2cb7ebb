"""What is in the folders, and what is wrong with it? From a folder of images to the images table.

DEFAULT_CLASSES The five of 2019
SPLITS          train, val and test, in this order
REASONS         Why a file is left out → what that means, in a sentence
MAX_BYTES       Files larger than that are not read
MAX_PIXELS      Pictures of more are not decoded, unless one says so
MOST_PIXELS     What one may say at most
MAX_DISTANCE    Bits of 64: beyond it even the second look finds more chance than copies
MIN_DETAIL      Likeness in detail from which two pictures are copies
DECISION_WORDS  What a line of the journal says but a class
VIDEO_NAMES     How names of videos end
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

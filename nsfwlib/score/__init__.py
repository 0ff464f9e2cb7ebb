"""What does a model say of any folder? One table, a row a file.

score              Score every file of `source` → the table at `out`, one row a file, in the order of the source
summary            One line: how many files, of what predicted class, and how many could not be scored, and why
read_scores        A finished table as a whole
frame_scores       One row a frame of each video, with its time: for rules over frames
class_names        The classes of a table of scores
unsafe_scores      How unsafe each file is, 0 … 1: the sum of the unsafe classes, NaN where there is a problem
chosen_thresholds  Thresholds of the model's run, or those given
counts_above       `points` with the columns `flagged` (files at or above the threshold) and `share` of the files with
thumbnails         Small, blurred, grey pictures of the rows; a white one for a file that cannot be read any more
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

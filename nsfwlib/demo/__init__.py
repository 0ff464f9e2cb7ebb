"""What can be tried at once? A drawn data set with planted faults, and safe pictures that packages ship.

CLASSES              Names of the five class folders
TRUTH_COLUMNS        Columns of the hidden truth
make_demo            Draw the stand-in data set into `out_dir` and return its hidden truth
read_truth           Return the truth of the demo in `data_dir` (`TRUTH_COLUMNS`); None if it is no demo, or not whole
truth_path           Where the hidden truth of a demo lies: `<name>_truth.csv` beside the folder, never inside it
planted_errors       Return the rows of readable pictures whose given label is wrong
simulated_answers    Play the perfect reviewer: decide the first `budget` pictures of a session, in the order shown
shipped_pictures     Copy the safe pictures that installed packages ship to `<folder>/<package>/`, and return `folder`
shipped_photographs  Safe photographs that installed packages ship: three, or fifteen where scikit-image is installed
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

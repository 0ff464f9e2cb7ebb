"""What does a person look at, and what became of it?

ReviewSession       A queue of suspected labels, shown page by page, and the decisions taken on it
ReviewGrid          A page of blurred pictures with keys and buttons, filters, exposure and progress
open                The grid on the queue that notebook 03 left in a run, in a second: nothing is fitted again
threshold_explorer  Sliders for threshold and prevalence over the curves and the expected counts
review_queue        The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge
open_session        The session that a reviewer's page shows, from what notebook 03 left in the run
cell_queue          Wrong answers as a review queue, `score` = P(predicted) - P(label), worst first
flagged_queue       The files at or above the threshold as a review queue, the highest scores first
what_review_cost    Work done and what it found
agreement           How far reviewers agree: over all pairs of answers, and for each pair of reviewers
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

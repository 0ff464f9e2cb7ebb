"""What does a person look at, and what became of it?

ReviewSession         A queue of suspected labels, shown page by page, and the decisions taken on it
ReviewGrid            The review grid: a page of blurred pictures with keys and buttons, filters, exposure and progres
threshold_explorer    Sliders for threshold and prevalence over the curves and the expected counts
review_queue          The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge
open_session          The session that a reviewer's page shows, from what notebook 03 left in the run
audit_session         The picked pictures of an audit, to be answered blind; `options` as of `ReviewSession`
cell_queue            Wrong answers as a review queue: one row a picture, `score` = P(predicted) - P(label), worst fir
flagged_queue         What `review.ReviewSession` shows: the files at or above the threshold, the highest scores first
what_review_cost      Work done and what it found
second_queue          What `reviewer` is to see a second time
disagreement_queue    Open disagreements for a session in mode "disagreement"
agreement             How far reviewers agree: over all pairs of answers, and for each pair of reviewers
agreement_by_classes  Which classes do reviewers take for one another?
cohens_kappa          Agreement beyond chance of two lists of answers: `kappa`, `kappa_low`, `kappa_high`
standing_opinions     Independent answers on pictures that somebody saw a second time
reviewer_agreement    `review.agreement` of a journal, near-duplicates counted as the images table groups them
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

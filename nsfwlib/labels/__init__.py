"""Which label is wrong, and which one is in force?

ACTIONS              what a decision says besides a class: keep, drop, unsure, escalate
LABELLING            the kinds of lines that give a label
find_label_issues    Rank the rows by how suspect their given label is
out_of_sample_probs  Class probabilities of each row from members that never saw its label: (N, K), rows sum to 1
noise_matrix         Confident joint: how many rows of each given label (rows) truly belong to each class (columns)
judge_labels         Suspect labels of the images table as it stands: decisions applied, confirmed rows trusted
fit_head             Fit the head that judges labels on all valid rows, to compare heads before and after cleansing
group_codes          (N,) group numbers from 0; a row without a group is a group of its own
check_probs          The probabilities as float64 (n, k); another shape, or a number that is none, is an error
nearest              Look up which pictures voted on a label: the `k` most similar ones of other groups
current_labels       Given labels with decisions applied → Series with the table's index; NA where a row is out
what_changed         Numbers of pictures by label before (rows) and after (columns) review, changed ones only
journal_in_use       The journal that notebook 03 wrote to: that of the simulated reviewer in the run, or the real one
read_journal         All lines of the journal in the order written
append_decisions     Write lines at the end of the journal; they are on disk when this returns
check_writable       Find out before anybody decides whether the journal can be written
refuse_class         A ValueError for a decision in force that is none of these classes; names the record
decisions_in_force   The decisions in force, one row a picture (`sha256`): columns `IN_FORCE`
standing             The lines of these kinds whose action is not undone, in the order written
Replay               What is in force in a journal as it grows, in memory
apply_decisions      Plan, and with `dry_run=False` carry out, what the decisions mean for the folders
roll_back            Undo all that this log says was done, last step first
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

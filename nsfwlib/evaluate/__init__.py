"""How good is it really? Scores, thresholds and audits, each with its interval.

held_out             The split to measure on, test or else val, and what that is worth, in a sentence
scores               All scores with their intervals
confusion_matrix     Counts (K, K), rows the labels, columns the predictions
confusion_intervals  Jeffreys interval of each share of the row-normalised confusion matrix
confused_pairs       The most frequent confusions, each also as a sentence
effective_support    How many independent images each class's images are worth, for `confusion_intervals`
save_incarnation     Keep a confusion matrix of counts with its accuracy as JSON beside its picture
read_incarnations    Saved confusion matrices, oldest first
published_matrices   Published confusion matrices of the same classes, best last
calibration_table    Confidence against accuracy, one row a bin of equal width
fit_temperature      Temperature that minimises the log-loss; fit it on validation rows
apply_temperature    Probabilities after dividing their logarithms by the temperature
compare              Paired difference of two models on the same rows, in accuracy or another mean
cohens_kappa         Agreement of two lists of answers beyond chance, with its interval
log_losses           The log-loss of each row
unsafe_score         Probability of being unsafe: the sum over the unsafe classes
threshold_curve      What each threshold does, for precision-recall and ROC curves
at_threshold         What one threshold does, or two with a person between them, one row a prevalence
Judged               Rows whose side, safe or unsafe, is known: by labels, or by an audit with its weights
audited_rows         Verdicts of an audit by path, with what each stands for
operating_points     Thresholds promised on validation rows for each wish, and what they do on test rows
slice_attributes     Attributes to slice by, one row an image
accuracy_by_slice    Share of right answers in each slice against all other rows, worst slice first
draw_audit           Which rows a person has to look at so that accuracy can be estimated without bias
audited_scores       Accuracy, balanced accuracy, macro F1, log-loss and Brier score, from such a sample
audited_accuracy     Accuracy against the truth, from an audited sample of noisily labelled rows
audited_confusion    Estimated confusion matrix against the truth, from such a sample
draw_audits          The frozen audits of a run's splits, drawn if they are not there
load_audit           The frozen audit of a split
audits_of_run        The frozen audit of a split, checked to be of the run's own predictions
audit_queue          The picked rows as the queue of a `review.ReviewSession` in mode "audit"
audit_truth          The verdict on each row of an audit
audit_progress       How far an audit is, in a sentence
second_looks         How many blind second looks agreed with the answers of an audit
audit_width          How exact an audit is by now, whenever one stops, in a sentence
errors_left          How many labels of an audited split are still wrong
audit_costs          What audits of a model's accuracy cost and buy, by split
audit_accuracies     Accuracy as the labels have it, as the audit has it, and where it is known the true one
label_errors         Share of wrong labels, over all, by class and by pair, as an audit has it
cached_robustness    Accuracy of a run's model on changed pictures
baseline_answers     Predicted classes of a baseline on the same pictures
explain_errors       Blurred thumbnails and where the model saw its answer in them
read_detector        What a detector says of these pictures, in our labels, from any table of scores
is_wrong             Whether a detector says another class than the label, or another side
shared_audit         The frozen audit that serves all detectors, enlarged by what a new one disputes
comparable_rows      The pictures that all detectors have scored, as a shared audit knows them
compare_detectors    One row a detector: accuracy, rankings, rates and precision with their intervals
differences_to_best  How far each detector is behind the best, and whether that is more than chance
write_comparison     Write `COMPARISON.md`, `comparison.parquet`, and the row of the run's own model into its card
draw_traffic         Which of a day's uploads a person looks at, each with a known chance
traffic_shares       Share of each kind in the traffic, over all or by source, format, day
traffic_at           What each threshold does to this traffic: precision, recall, missed
score_shift          Has the traffic changed, by scores alone? A test, and the new share of unsafe
review_week          A week of the review queue: backlog, waiting time, exposure
clip_scores          The k-th highest score of each clip's frames
with_intervals       A table for people: each number with its interval as one text
write_card           Write `MODEL_CARD.md` from the tables of a run
share_interval       A share, its Jeffreys interval, and how many independent rows it rests on
jeffreys             Jeffreys interval of a share of counts
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

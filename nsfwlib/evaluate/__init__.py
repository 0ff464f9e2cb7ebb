"""How good is it really? Scores, thresholds and audits, each with its interval.

scores                All scores with their intervals
confusion_matrix      Confusion matrix: int (K
confusion_intervals   Jeffreys interval of each share of the row-normalised confusion matrix
confused_pairs        The most frequent confusions, as shares of the label's images, each also as a sentence
effective_support     How many independent images each class's images are worth: float (K,), for `confusion_intervals`
save_incarnation      Keep a confusion matrix of counts with its accuracy as JSON beside its picture
read_incarnations     Saved confusion matrices, oldest first
published_matrices    Published confusion matrices of the same classes, best last: `name` and `shares` (K, K); often [
calibration_table     Confidence against accuracy, one row a bin of equal width
calibration_error     Expected calibration error of the top class in [0, 1]: Σ (n_b / N) · |accuracy_b − confidence_b|
fit_temperature       Temperature T > 0 that minimises the log-loss of softmax(log_probs / T); fit it on validation ro
apply_temperature     Probabilities (N, K) after dividing their logarithms by the temperature; the top class stays
compare               Paired difference in accuracy of two models on the same rows
unsafe_rows           Whether each picture is unsafe by its label
unsafe_score          (N,) probability of being unsafe: the sum over the unsafe classes
threshold_curve       What each threshold does, for precision-recall and ROC curves
at_threshold          One row a prevalence
operating_points      Thresholds chosen on validation rows for each wish
expected_counts       What to expect of so many uploads: `flagged`, `false_alarms`, `missed` (images) and `precision`
slice_attributes      Attributes to slice by, one row an image in the order of `images`
accuracy_by_slice     Share of right answers in each slice against all other rows, worst slice first
draw_audit            Which rows a person has to look at so that accuracy can be estimated without bias
enlarge_audit         The same audit with so many picked
audit_plan            What an audit costs and buys, before anyone looks
audited_accuracy      Accuracy against the truth, from an audited sample of noisily labelled rows
audited_share         Share of rows with an outcome
audited_label_errors  Share of wrong labels: over all, of each class, and of each pair seen
audited_confusion     Estimated confusion matrix against the truth
draw_audits           The frozen audits of these splits, drawn if they are not there
audit_costs           What audits of a model's accuracy cost and buy, by split
label_errors          Share of wrong labels, over all, by class and by pair, as an audit has it
load_audit            The frozen audit of a split; None where none was drawn
freeze_audit          Draw the audit of a split and keep it in the run
audits_of_run         The frozen audit of a run's predictions on `split`; None where none was drawn
audit_queue           The picked rows as the queue of a `review.ReviewSession` in mode "audit", strata mixed evenly
audit_truth           The verdict on each row of the audit, None where there is none
audit_progress        How far an audit is, in a sentence; what to do where there is none
audit_accuracies      Accuracy as the labels have it, as the audit has it, and where it is known the true one
audit_confusion       Estimated confusion matrix against the truth, as `audited_confusion` has it
measure_robustness    Accuracy under each change; every row costs one prediction of all the pictures, so pass a sample
cached_robustness     `evaluate.measure_robustness` of the run's model on these pictures
baseline_answers      Predicted classes of a baseline on `rows` of the images table, indexed by path
heat_maps             How much each region speaks for a class
explain_errors        Blurred thumbnails of these pictures
write_card            Write `MODEL_CARD.md` from the tables of a run; nothing in it is typed by hand
jeffreys              Jeffreys interval of a share: (low, high), Beta(½ + hits, ½ + misses); [0, 1] without a trial
effective_count       How many independent rows n rows are worth
group_correlation     Correlation in [0, 1] of an outcome within near-duplicate groups, by one-way analysis of varianc
group_codes           (N,) group numbers from 0
bootstrap_weights     Blocks (N, B) of positive row weights, one exponential draw a group; B sums to draws
tails                 The two quantiles between which an interval of this level lies
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

"""What do the numbers look like? One function a figure: numbers come in, Axes or Figure goes out.
Where one takes `ax`, it draws there, else on a new figure.

plot_counts            Images per class, stacked by split; those left out for a problem are hatched
plot_problems          Number of images left out, by reason and class (`problem`, `given_label` of the images table)
plot_formats           Number of images by sniffed file format and class (`format`, `given_label` of the images table)
plot_sizes             Width against height, and aspect ratio by class: two panels
plot_contact_sheet     Thumbnails in rows, as they are given: blur them first
plot_heat_maps         Where the model looked: heat over thumbnails, which are to be blurred first
plot_feature_map       Two-dimensional map of the features, one point an image
plot_intervals         Estimates with their intervals below one another
plot_class_scores      Scores of each class with their intervals, one panel a score
plot_calibration       Reliability: accuracy against confidence, the diagonal is honest, below it the model boasts
plot_precision_recall  Precision against recall of flagging unsafe images, with a 95% band for each threshold
plot_roc               Recall against false-positive rate, with a 95% band for each threshold
plot_detectors         ROC curves of several detectors with their bands, false-positive rates on a logarithmic axis
plot_week              How many pictures wait for a person through a week
plot_threshold         One threshold at one prevalence: where it lies on the curves, and what it does to uploads
plot_slices            Accuracy of the worst slices with intervals; filled where chance is an unlikely reason
plot_robustness        Accuracy under changes of the picture
plot_confusion         Confusion matrix: rows are the labels, columns the predictions
plot_confusion_pair    Two confusion matrices side by side
plot_score_histogram   How many files have which score, on a logarithmic count axis, with the thresholds of `points`
plot_parity            Size, time and disagreement of each format, a panel each
plot_noise_matrix      Which label was given to which class: estimated numbers of images, wrong ones shaded
plot_scores            Suspicion of every label, most suspect first, with the cut
plot_history           Loss, accuracy and learning rate of all stages of training along one axis of epochs
plot_learning_curve    Validation accuracy against the number of training images
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

"""How good does the classifier get on these pictures? Head, fine-tuning, forecast.

train_head          Stage 1: fit the "logistic" head of `model` on pooled features (N, D), in place
compile_classifier  Cross-entropy on one-hot labels, accuracy beside it
predict             Probabilities float32 (N, K) of the rows of the images table; NaN where a picture cannot be read
predictions_table   `path`, `split`, one column of probabilities a class: what `predictions.parquet` holds
fine_tune           Stage 2: train the blocks after `fine_tune_from` and the head, on augmented pictures, in place
training_cost       What training will cost on this machine
learning_curve      What would more data gain?
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)

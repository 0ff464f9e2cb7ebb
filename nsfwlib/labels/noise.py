"""How often is a picture of one class filed under another, and how likely is a given label right?"""

from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.labels.heads import SAMPLE, sampled
from nsfwlib.labels.rows import EPS, UNLABELLED, Classes, check_probs, encode, normalised

TINY_CLASS = 10  # below so many rows no ranking can be believed
WITNESS = 0.25  # weight of a divided group's other labels: near-duplicates are no independent witnesses
PRIOR_ROWS = 100  # rows a class by which the prior of the noise weighs; 50 … 300 rank alike
LEAST_RATE = 0.01  # of errors: where none is counted, there is still an order of suspicion
SHARPNESS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # exponents of the probabilities, tried until the labels say stop
EM_STEPS = 30


def noise_matrix(labels: Any, pred_probs: np.ndarray, *, classes: Classes = None) -> pd.DataFrame:
    """Confident joint: how many rows of each given label (rows) truly belong to each class (columns).

    Counted and scaled as in `confident_joint`; unlabelled rows and rows without valid probabilities are left out.
    """
    codes, classes = encode(labels, classes)
    joint = confident_joint(codes, distributions(pred_probs, len(codes), len(classes)))
    return pd.DataFrame(joint, pd.Index(classes, name="given"), pd.Index(classes, name="estimated"))


def distributions(pred_probs: np.ndarray, n: int, k: int) -> np.ndarray:
    """Copy of pred_probs whose rows sum to 1; rows that are no distribution become NaN."""
    probs = check_probs(pred_probs, n, k, gaps=True)
    fine = np.isfinite(probs).all(axis=1) & (probs >= 0).all(axis=1) & (probs.sum(axis=1) > 0)
    return normalised(np.where(fine[:, None], probs, np.nan))


def class_scale(codes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Mean self-confidence (K,) of each class; that of a tiny class is drawn towards the mean of all."""
    rows = labelled_rows(codes, probs)
    own = probs[rows, codes[rows]]
    sums = np.bincount(codes[rows], own, minlength=probs.shape[1])
    sizes = np.bincount(codes[rows], minlength=probs.shape[1])
    return (sums + TINY_CLASS * (own.mean() if len(own) else 1.0)) / (sizes + TINY_CLASS)


def confident_joint(codes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Counts (K, K) of given against estimated class over the rows that can be judged; rows sum to class sizes."""
    # Northcutt et al. 2021, Confident Learning, equations 1 and 2
    n_classes, rows = probs.shape[1], labelled_rows(codes, probs)
    y, p = codes[rows], probs[rows]
    above = p >= class_scale(codes, probs) - EPS
    confident = above.any(axis=1)
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (y[confident], np.where(above, p, -1).argmax(axis=1)[confident]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    return joint / joint.sum(axis=1, keepdims=True) * np.bincount(y, minlength=n_classes)[:, None]


def noise_rates(joint: np.ndarray) -> np.ndarray:
    """P(given | true), (K, K) indexed [given, true], from counts of given against true.

    A prior of PRIOR_ROWS rows a class says that errors are as frequent as among all, and fall on the others by their
    size. Knowing that errors run from one class to another is worth .16 AP where they do.
    """
    sizes = joint.sum(axis=1, keepdims=True)
    rate = max((joint.sum() - np.trace(joint)) / max(joint.sum(), EPS), LEAST_RATE)
    prior = rate * sizes / np.maximum(sizes.sum() - sizes.T, EPS)
    np.fill_diagonal(prior, 1 - rate)
    return (joint + PRIOR_ROWS * prior) / np.maximum((joint + PRIOR_ROWS * prior).sum(axis=0), EPS)


def posterior(codes: np.ndarray, probs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """P(true class | features, given label), (N, K), by Bayes' rule."""
    return normalised(probs * np.vstack([noise, np.ones(len(noise))])[codes])


def calibrated(codes: np.ndarray, probs: np.ndarray, rates: np.ndarray, trusted: np.ndarray, seed: int) -> np.ndarray:
    """As `posterior`, such that 1 - P(given) adds up to the number of wrong labels; `trusted` labels are certain.

    Members that learned from wrong labels doubt too much: the exponent that sharpens them and the rates (from `rates`
    on, by EM) are those that make the given labels likeliest. On the benchmark that expects 1.0 times the errors where
    labels are wrong anywhere, .8 times of confused pairs, .4 times of misfiled sub-kinds, a quarter at boundaries.
    """
    rows = sampled(labelled_rows(np.where(trusted, UNLABELLED, codes), probs), SAMPLE, seed)
    y, given, best, chosen = codes[rows], np.eye(len(rates))[codes[rows]], -np.inf, (SHARPNESS[0], rates)
    for sharpness in SHARPNESS if len(rows) else ():
        sharp, noise = normalised(probs[rows] ** sharpness), rates
        for _ in range(EM_STEPS):
            noise = noise_rates(given.T @ posterior(y, sharp, noise))
        likelihood = np.log(np.maximum((sharp * noise[y]).sum(axis=1), EPS)).mean()
        if likelihood <= best:
            break
        best, chosen = likelihood, (sharpness, noise)
    true, sure = posterior(codes, normalised(probs ** chosen[0]), chosen[1]), trusted & (codes != UNLABELLED)
    true[sure] = np.eye(len(rates))[codes[sure]]
    return true


def corrected(codes: np.ndarray, probs: np.ndarray, rates: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The probabilities as they rank: over the class scale, and with what near-duplicates are filed under.

    A class that is often mislabelled, hence unsure, would be put last. Near-duplicates under several classes testify
    against one another; if all agree they say nothing, for a wrong label is often copied along with its picture.
    """
    given = np.eye(probs.shape[1] + 1)[codes, :-1]
    filed = np.stack([np.bincount(groups, column) for column in given.T], axis=1)
    divided = ((filed > 0).sum(axis=1) > 1)[groups]
    others = filed[groups[divided]] - given[divided]
    others /= np.maximum(others.sum(axis=1, keepdims=True), 1)
    heeded = normalised(probs / class_scale(codes, probs))
    heeded[divided] = normalised(heeded[divided] * np.exp(WITNESS * others @ np.log(np.maximum(rates, 0.01))))
    return heeded


def labelled_rows(codes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Numbers of the rows that have a label and can be judged."""
    return np.flatnonzero((codes != UNLABELLED) & np.isfinite(probs[:, 0]))

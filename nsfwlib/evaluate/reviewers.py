"""How far can reviewers be believed? Agreement beyond chance, each one's accuracy, an audit with slips taken out."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from nsfwlib.evaluate.intervals import TAILS, Groups, Names, Weighed, bootstrap_weights, share_interval
from nsfwlib.labels import group_codes

DRAWS = 1000  # of each reviewer's accuracy
ROUNDS = 40  # of expectation maximisation: accuracies of .6 and more stand still by then


class Slips(NamedTuple):
    """How often the answers of an audit are right, as second looks tell."""

    right: float
    draws: np.ndarray  # (D,) of it
    classes: int
    pictures: int  # independent ones, looked at twice


def cohens_kappa(one: Names, other: Names, *, groups: Groups = None, seed: int = 0) -> dict[str, float]:
    """Agreement beyond chance of two lists of answers: `kappa`, `kappa_low`, `kappa_high`, -1 … 1; NaN where undefined.

    (p − e) / (1 − e) with p the share on which both agree and e the one that their habits alone would give: Cohen, A
    Coefficient of Agreement for Nominal Scales, 1960. Interval: their table from a Dirichlet distribution on effective
    counts, with half a picture more of agreement and of disagreement: full agreement on few pictures is no certainty.
    """
    names, codes = np.unique(np.concatenate([np.asarray(one, str), np.asarray(other, str)]), return_inverse=True)
    n, k, keys = len(one), len(names), ("kappa", "kappa_low", "kappa_high")
    if k < 2:  # no answer, or always the same
        return dict.fromkeys(keys, np.nan)
    cells, same = np.bincount(codes[:n] * k + codes[n:], minlength=k * k), np.eye(k).ravel()
    worth = share_interval(codes[:n] == codes[n:], groups).worth
    more = np.where(same, 0.5 / k, 0.5 / (k * (k - 1)))
    drawn = np.random.default_rng(seed).dirichlet(cells / n * worth + more, 4000)
    table = np.concatenate([cells[None] / n, drawn]).reshape(-1, k, k)
    chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
    kappa = np.maximum((np.trace(table, axis1=1, axis2=2) - chance) / np.maximum(1 - chance, 1e-12), -1)
    low, high = np.quantile(kappa[1:], TAILS)
    return dict(zip(keys, map(float, (kappa[0], min(low, kappa[0]), max(high, kappa[0]))), strict=True))


def reviewer_accuracies(answers: pd.DataFrame, *, classes: int, seed: int = 0) -> pd.DataFrame:
    """How often each reviewer gives the true class, from pictures that several of them answered.

    The model of Dawid and Skene (Maximum Likelihood Estimation of Observer Error-rates Using the EM Algorithm, 1979),
    with one rate a reviewer, whose wrong answers fall on any other class and independently of the others': a confusion
    matrix each would want hundreds of pictures. Of two reviewers nobody can tell who errs: they get one rate. Draws:
    Bayesian bootstrap by near-duplicate group, with half a picture more that all have right, and half a one that they
    have wrong, as heavy as groups are: full agreement on few pictures is no certainty.

    `answers` have one row a picture and reviewer: `sha256`, `reviewer`, `answer`, `group`; `classes` is their number.
    One row comes a reviewer who shares a picture with another one: column 0 the accuracy, then DRAWS draws of it.
    `attrs["pictures"]` counts the independent pictures, `attrs["of"]` all those of each reviewer.
    """
    # crowd-kit has this method, but no interval, and brings torch and transformers; cleanlab's scores are no rates
    shared = answers[answers.groupby("sha256")["reviewer"].transform("size") > 1]
    said = shared.pivot(index="sha256", columns="reviewer", values="answer")
    members = group_codes(shared.drop_duplicates("sha256").set_index("sha256")["group"][said.index], len(said))
    codes = pd.factorize(said.to_numpy().ravel())[0].reshape(said.shape)
    rng, k, size = np.random.default_rng(seed), max(classes, codes.max(initial=1) + 1), np.bincount(members)
    weight = np.concatenate([np.ones((len(said), 1)), *bootstrap_weights(members, DRAWS, rng)], axis=1)
    kinds, kind = np.unique(codes, axis=0, return_inverse=True)
    mass = np.zeros((len(kinds), weight.shape[1]))
    np.add.at(mass, kind, weight)
    says, total = (kinds[:, :, None] == np.arange(k)).astype(float), (kinds >= 0).T @ mass
    good, bad = np.c_[[0, 0], (size**2).sum() / size.sum() * rng.gamma(0.5, size=(2, DRAWS))]
    right = np.full(total.shape, 0.9)
    for _ in range(ROUNDS):
        truth = softmax(np.einsum("nrk,rd->nkd", says, np.log((k - 1) * right / (1 - right))), axis=1)
        hits = (np.einsum("nrk,nkd->nrd", says, truth) * mass[:, None]).sum(axis=0)
        right = np.clip((hits + good) / (total + good + bad), 1 / k, 1 - 1e-9)
    found = pd.DataFrame(right, said.columns)
    found.attrs = {"pictures": len(size), "of": said.notna().sum().to_dict()}
    return found


def without_slips(found: Weighed, slips: Slips) -> Weighed:
    """Shares of agreement with the truth, from those with reviewers, whose slips a prediction may share by chance."""
    rates = [slips.right] * 2 + [np.resize(slips.draws, found.plain.shape[1])] * 3
    chances = [(1 - right) / max(slips.classes - 1, 1) for right in rates]
    parts = zip(found, rates, chances, strict=True)
    return Weighed(*(np.clip((share - by) / np.maximum(right - by, 1e-3), 0, 1) for share, right, by in parts))

"""A promised threshold keeps its wish beyond the rows that chose it; the others say what it would take."""

import honest_thresholds
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from nsfwlib import evaluate, runs
from nsfwlib.evaluate import audit as audits, promises, thresholds

APART = 2.8  # standard deviations between safe and unsafe scores, so that true rates are known


def draw_rows(n, seed, *, noise=0.0, audited=False, size=1):
    """Rows alike within groups of 1 to 2·size − 1, as noisy labels have them or as an audit of them finds them."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), rng.integers(1, 2 * size, n))[:n]
    unsafe = (rng.random(n) < 0.5)[groups]
    alike = 0.9 if size > 1 else 0.0
    score = APART * unsafe + alike * rng.normal(size=n)[groups] + np.sqrt(1 - alike**2) * rng.normal(size=n)
    given = unsafe ^ (rng.random(n) < noise)
    if not audited:
        return promises.Judged(given, score, None, groups)
    chance = np.where(given == (score > APART / 2), 0.5, 1.0)
    return promises.Judged(unsafe, score, (rng.random(n) < chance) / chance, groups)


def kept(threshold, kind, wish):
    recall, fpr = norm.sf(threshold - APART), norm.sf(threshold)
    return {"recall": recall >= wish, "fpr": fpr <= wish, "precision": recall / (recall + fpr) >= wish}[kind]


@pytest.mark.parametrize(("kind", "wish"), [("fpr", 0.01), ("recall", 0.95), ("precision", 0.9)])
@pytest.mark.parametrize(
    "rows",
    [{}, {"noise": 0.02, "audited": True}, {"noise": 0.05, "audited": True}, {"size": 4, "n": 4000}],
    ids=["clean", "2 % noise, audited", "5 % noise, audited", "groups"],
)
def test_a_promised_wish_is_kept(kind, wish, rows):
    found = []
    for seed in range(60):
        units = promises.independent_units(draw_rows(**{"n": 2000, "seed": seed} | rows), seed=seed)
        found.append(promises.promised_threshold(units, kind, wish, prevalence=0.5, risk=0.05)[0])
    chosen = [threshold for threshold in found if not np.isnan(threshold)]
    assert len(chosen) >= 20, "of use"
    assert np.mean([kept(threshold, kind, wish) for threshold in chosen]) >= 0.9


def test_looks_drawn_evenly_promise_more_than_those_spent_on_disagreements_or_near_the_threshold():
    found = {}
    for design in ("even", "apart", "near"):
        units = [honest_thresholds.draw_rows(2000, np.random.default_rng(seed), noise=0.05, audited=design)
                 for seed in range(10)]  # fmt: skip
        asked = [promises.promised_threshold(promises.independent_units(some), "fpr", 0.03, prevalence=0.5, risk=0.05)
                 for some in units]  # fmt: skip
        found[design] = np.mean([norm.sf(np.nan_to_num(threshold, nan=np.inf) - APART) for threshold, _ in asked])
    assert found["even"] > found["apart"] + 0.05 and found["even"] > found["near"] + 0.05


def test_the_plain_choice_is_a_coin_toss_and_says_so():
    found = []
    for seed in range(100):
        validation = draw_rows(1000, seed)
        units = promises.independent_units(validation)
        threshold, note = promises.promised_threshold(units, "fpr", 0.02, prevalence=0.5, risk=None)
        found.append(kept(threshold, "fpr", 0.02))
    assert 0.3 < np.mean(found) < 0.7 and note.startswith("A coin toss")


def test_a_wish_that_cannot_be_promised_says_how_many_more_pictures_it_takes():
    score = np.r_[np.linspace(0.6, 1, 100), np.linspace(0, 0.5, 100)]
    rows = np.arange(200) < 100, score
    point = promises.operating_points(*rows, validation=rows, wishes=[("fpr", 0.01)], prevalence=[0.1]).iloc[0]
    assert np.isnan(point["threshold"]) and np.isnan(point["recall"])
    more = int(point["note"].split("about ")[1].split(" more safe")[0])
    assert more == pytest.approx(299 - 100, rel=0.15)  # 0.99 ** 299 < 0.05
    enough = np.r_[rows[0], np.zeros(more, bool)], np.r_[score, np.full(more, 0.1)]
    assert promises.operating_points(*rows, validation=enough, wishes=[("fpr", 0.01)])["threshold"].notna().all()


@pytest.mark.parametrize("share", [0.002, 0.05, 0.5])
def test_bounds_hold_where_rows_count_equally_and_where_they_do_not(share):
    rng, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(300):
        bad, chance = rng.random(400) < share, rng.choice([0.2, 1.0], 400)
        seen = np.flatnonzero(rng.random(400) < chance)
        for i, (rows, weight) in enumerate(((np.arange(400), np.ones(400)), (seen, 1 / chance[seen]))):
            units = promises.Judged(bad[rows], bad[rows] * 1.0, weight, np.arange(len(rows)))
            held[i] += promises.rate_bound(bad[rows], np.ones(len(rows), bool), units, risk=0.05) >= share
    assert (held / 300 >= 0.93).all()


def test_a_bound_for_rows_that_count_equally_is_the_exact_one():
    units = promises.Judged(np.zeros(100, bool), np.zeros(100), np.ones(100), np.arange(100))
    found = promises.rate_bound(np.zeros(100, bool), np.ones(100, bool), units, risk=0.05)
    assert found == pytest.approx(1 - 0.05 ** (1 / 100))


def test_copies_add_nothing_to_a_promise():
    once = draw_rows(300, 0)
    copied = promises.Judged(*(np.repeat(column, 5) for column in once[:2]), None, np.repeat(np.arange(300), 5))
    choose = [promises.promised_threshold(promises.independent_units(rows), "recall", 0.9, prevalence=0.5, risk=0.05)
              for rows in (once, copied)]  # fmt: skip
    assert choose[0] == choose[1]


def test_audited_rows_repair_rates_that_noisy_labels_spoil_and_the_interval_covers_them():
    covered, spoiled = 0, 0
    for seed in range(60):
        audited, believed = draw_rows(2000, seed, noise=0.05, audited=True), draw_rows(2000, seed, noise=0.05)
        rows = [
            thresholds.at_threshold(*some[:2], 2.0, prevalence=0.5, weights=some.weights, draws=10).iloc[0]
            for some in (audited, believed)
        ]
        covered += rows[0]["fpr_low"] <= norm.sf(2.0) <= rows[0]["fpr_high"]
        spoiled += rows[1]["fpr_low"] > norm.sf(2.0)
    assert covered >= 56 and spoiled >= 56


def test_no_number_lies_outside_its_interval():
    unsafe, score = np.arange(40) < 20, np.r_[np.full(20, 0.9), np.full(20, 0.1)]
    table = thresholds.at_threshold(unsafe, score, 0.5, prevalence=[0.5, 0.001], review_from=0.2, costs=(50, 5, 0.1))
    for name in ("recall", "fpr", "precision", "flagged", "false_alarms", "missed", "reviewed", "cost"):
        assert (table[f"{name}_low"] <= table[name]).all() and (table[name] <= table[f"{name}_high"]).all(), name


def test_a_person_between_two_thresholds_takes_what_lies_between_them():
    unsafe, score = np.tile([True, False], 50), np.repeat([0.9, 0.5, 0.1, 0.5, 0.9], 20)
    row = thresholds.at_threshold(unsafe, score, 0.8, prevalence=0.25, review_from=0.4).iloc[0]
    assert row[["flagged", "reviewed", "missed", "false_alarms"]].tolist() == pytest.approx(
        [40_000, 40_000, 5_000, 30_000]
    )


def test_what_people_can_look_at_is_kept_and_little_is_blocked_wrongly():
    found = []
    for seed in range(40):
        row = promises.operating_points(
            *draw_rows(200, seed + 1000)[:2], validation=draw_rows(4000, seed), wishes=[("reviewed", 5000)],
            prevalence=[0.1], wrongly_blocked=0.01,
        ).iloc[0]  # fmt: skip
        share = [norm.sf(row["review_from"] - at) - norm.sf(row["threshold"] - at) for at in (APART, 0)]
        found.append(100_000 * (0.1 * share[0] + 0.9 * share[1]) <= 5000 and norm.sf(row["threshold"]) <= 0.01)
    assert np.mean(found) >= 0.93


def test_dear_misses_send_more_to_a_person_and_dear_reviews_less():
    rows, asked = draw_rows(2000, 0), {"prevalence": [0.1]}
    seen = [
        promises.operating_points(*rows[:2], validation=rows, wishes=[("cost", costs)], **asked)["reviewed"][0]
        for costs in ((100, 10, 1), (1000, 10, 1), (100, 10, 30))
    ]
    assert seen[2] < seen[0] < seen[1]


def test_verdicts_of_an_audit_stand_for_those_nobody_asked_for():
    stratum = np.repeat(["disagreement", "agreement"], [20, 480])
    order = np.r_[np.arange(20), np.arange(480)]
    audit = pd.DataFrame({"stratum": stratum, "order": order, "picked": order < 40, "group": np.arange(500)})
    audit["path"] = [f"{i}.jpg" for i in range(500)]
    verdict = np.where(audit["picked"], "a", None)
    verdict[0] = "drop"
    rows = audits.audited_rows(audit, verdict, class_names=["a", "b"])
    assert rows["weight"].sum() == pytest.approx(499) and rows["weight"]["0.jpg"] == 0
    assert rows["weight"]["1.jpg"] == 1 and rows["weight"]["20.jpg"] == 12 and rows["weight"]["499.jpg"] == 0


def test_which_of_my_classes_are_unsafe_is_said_once_for_a_run(tmp_path):
    default, mine = ["hentai", "porn", "sexy"], ["fine", "gore", "nudity"]
    assert evaluate.unsafe_side(default, mine, run_dir=tmp_path) == [], "nobody has said"
    runs.write_json({"unsafe_classes": ["gore"]}, tmp_path / "metrics.json")
    assert evaluate.unsafe_side(default, mine, run_dir=tmp_path) == ["gore"]
    assert evaluate.unsafe_side(["nudity"], mine, run_dir=tmp_path) == ["nudity"]
    assert evaluate.unsafe_side(["gor"], mine, run_dir=tmp_path) == ["gor"], "a slip is for the error that follows"
    assert evaluate.unsafe_side(default, ["neutral", "porn"], run_dir=tmp_path) == default
    assert evaluate.unsafe_side([], mine, run_dir=tmp_path) == []


def test_a_class_whose_folder_is_gone_is_flagged_no_more_and_if_it_was_the_only_one_somebody_has_to_say(tmp_path):
    default = ["hentai", "porn", "sexy"]
    runs.write_json({"unsafe_classes": ["gore", "nudity"]}, tmp_path / "metrics.json")
    assert evaluate.unsafe_side(default, ["fine", "nudity", "other"], run_dir=tmp_path) == ["nudity"]
    with pytest.raises(
        ValueError, match=r"\['gore', 'nudity'\], which .*metrics\.json flags.*'other'\]\. Set unsafe_cl"
    ):
        evaluate.unsafe_side(default, ["fine", "other"], run_dir=tmp_path)
    assert evaluate.unsafe_side(["other"], ["fine", "other"], run_dir=tmp_path) == ["other"]

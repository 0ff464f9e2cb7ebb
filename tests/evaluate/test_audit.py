"""Audits: what is drawn, what it says, and that it says the truth where labels, reviewers and judges do not."""

import honest_audit
import numpy as np
import pandas as pd
import pytest
from honest_audit import NAMES, WORLDS, K, World

from nsfwlib.evaluate import audit as audits, intervals
from nsfwlib.evaluate.audit import (
    audit_costs,
    audited_accuracy,
    audited_confusion,
    audited_rows,
    audited_scores,
    audited_share,
    draw_audit,
    enlarge_audit,
)  # fmt: skip
from nsfwlib.evaluate.intervals import at_any_time, jeffreys, weigh
from nsfwlib.evaluate.reviewers import reviewer_accuracies, without_slips

CLASSES = np.array(NAMES, object)


def drawn(world=WORLDS["plain"], *, seed=0, **options):
    """An audit of a made-up test set: truth, predictions, the audit, verdicts on what was picked."""
    some = honest_audit.draw_set(world, np.random.default_rng(seed))
    predicted = CLASSES[some.probs.argmax(axis=1)]
    options = {"budget": world.budget, "seed": seed} | options
    audit = draw_audit(CLASSES[some.labels], predicted, some.judge, class_names=NAMES, **options)
    truth = CLASSES[some.truth]
    return truth, predicted, audit, np.where(audit["picked"], truth, None)


def test_a_budget_goes_where_the_answer_is_open():
    _, _, audit, _ = drawn(budget=200)
    looked = audit.groupby("stratum")["picked"].agg(["mean", "sum", "size"])
    assert looked["sum"].sum() == pytest.approx(200, abs=3)
    assert looked.loc["disagreement", "mean"] > 2.5 * looked.loc["agreement", "mean"]
    fifth = audit["stratum"].eq("suspicious agreement")
    assert fifth.sum() == round(audit["label"].eq(audit["predicted"]).sum() / 5)


def test_disagreements_are_all_taken_where_that_is_cheap_and_sampled_where_it_is_not():
    cheap, dear = drawn(World(sharp=3.5, judge=3.5), budget=400)[2], drawn(World(rows=10_000, noise=0.2), budget=200)[2]
    apart = cheap["stratum"].eq("disagreement")
    assert cheap.loc[apart, "picked"].all() and dear["picked"].sum() < 210 < dear["stratum"].eq("disagreement").sum()


def test_enlarging_an_audit_keeps_what_was_picked():
    _, _, small, _ = drawn(budget=60)
    large = enlarge_audit(small, budget=200)
    assert (large["picked"] | ~small["picked"]).all() and large["picked"].sum() > 190
    pd.testing.assert_frame_equal(large, drawn(budget=200)[2])


def test_a_budget_beyond_the_rows_there_are_takes_all():
    assert drawn(World(rows=100), budget=500)[2]["picked"].all()


def test_what_was_reviewed_before_is_a_stratum_that_is_looked_at_again():
    reviewed = np.arange(1000) < 300
    _, _, audit, _ = drawn(reviewed=reviewed)
    assert audit["stratum"].str.startswith("reviewed").eq(reviewed).all()
    assert 0 < audit.loc[reviewed, "picked"].sum() < 300


def test_weights_of_answered_rows_sum_to_the_rows_of_each_stratum():
    _, _, audit, verdict = drawn()
    verdict[np.flatnonzero(audit["picked"])[:9]] = None
    weights = audited_rows(audit.assign(path=audit.index, group=0), verdict, class_names=NAMES)["weight"]
    assert weights.gt(0).sum() == (verdict != None).sum()  # noqa: E711
    sizes = audit["stratum"].value_counts()
    assert weights.groupby(audit["stratum"]).sum().round(6).to_dict() == sizes.to_dict()


def test_a_full_audit_is_the_truth():
    truth, predicted, audit, verdict = drawn(budget=1000)
    found = audited_accuracy(verdict, predicted, audit)
    assert found["value"] == pytest.approx((truth == predicted).mean(), abs=1e-12)
    assert found["low"] < found["value"] < found["high"] and found["note"] == ""
    matrix, _ = audited_confusion(verdict, predicted, audit, class_names=NAMES)
    assert np.abs(matrix - pd.crosstab(truth, predicted).to_numpy()).max() < 1e-6


def test_looking_at_more_than_was_picked_changes_nothing():
    truth, predicted, audit, verdict = drawn()
    assert audited_accuracy(truth, predicted, audit) == audited_accuracy(verdict, predicted, audit)


def test_one_stratum_of_shares_has_the_interval_of_jeffreys():
    outcome = np.r_[np.ones(3), np.zeros(57)][:, None]
    low, high = weigh(outcome, np.zeros(60)).interval()
    assert [low[0], high[0]] == pytest.approx(np.ravel(jeffreys(3, 60)), abs=0.01)


def test_strata_without_a_miss_do_not_add_up_at_either_end():
    strata = np.repeat(np.arange(8), 50)
    one, eight = (weigh(np.ones((400, 1)), some) for some in (np.zeros(400), strata))
    assert eight.interval()[1][0] == pytest.approx(1)
    assert eight.interval()[0][0] == pytest.approx(one.interval()[0][0], abs=1e-3)


def test_a_judge_that_knows_makes_the_interval_narrower_and_one_that_does_not_costs_nothing():
    rng = np.random.default_rng(0)
    chance = rng.random(5000)
    outcome = (rng.random(5000) < chance).astype(float)
    seen = np.where(np.arange(5000) < 300, outcome, np.nan)[:, None]
    widths = [
        np.ptp(weigh(seen, np.zeros(5000), expected=control).interval())
        for control in (None, chance[:, None], rng.random((5000, 1)))
    ]
    assert widths[1] < 0.9 * widths[0] and widths[2] == pytest.approx(widths[0], rel=0.05)


@pytest.mark.parametrize("name", ["plain", "0.2 % hidden", "groups of 4", "review kept half", "judge boasts"])
def test_an_audit_is_unbiased_and_holds_what_it_promises(name, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 400)
    world = WORLDS[name]._replace(rows=500, budget=100, scores=False)
    big = honest_audit.draw_set(world._replace(rows=50_000, alike=1), np.random.default_rng(9))
    true = (big.probs.argmax(axis=1) == big.truth).mean()
    found = pd.DataFrame([honest_audit.audit_once(world, seed)[0] for seed in range(20)])
    assert ((found["low"] <= true) & (true <= found["high"])).mean() >= 0.9
    assert abs(found["value"].mean() - true) < 4 * found["value"].std() / 20**0.5


def test_unsure_rows_get_an_interval_that_holds_whatever_they_are_and_a_sentence():
    truth, predicted, audit, verdict = drawn(budget=200)
    picked = np.flatnonzero(audit["picked"])
    wrong = picked[truth[picked] != predicted[picked]][:8]
    verdict[wrong] = None
    found = audited_accuracy(verdict, predicted, audit)
    assert found["worst_low"] < found["low"] and found["worst_high"] >= found["high"]
    assert found["worst_low"] < (truth == predicted).mean() < found["worst_high"]
    assert "8 were passed over (unsure," in found["note"] and "): whatever they are, it is" in found["note"]


def test_who_stops_early_is_told_how_much_is_missing_and_has_no_unsure_rows():
    _, predicted, audit, verdict = drawn()
    seen = np.where(audit["order"] < 10, verdict, None)
    found = audited_accuracy(seen, predicted, audit)
    missing = int(audit["picked"].sum()) - 30
    assert found["note"] == f"{missing} picked images have no verdict yet." and found["worst_low"] == found["low"]


def test_a_stratum_that_nobody_looked_at_leaves_the_accuracy_unknown():
    _, predicted, audit, _ = drawn()
    found = audited_accuracy(np.full(1000, None), predicted, audit)
    assert np.isnan(found["value"]) and [found["low"], found["high"]] == [0, 1]
    assert "No image was audited in: agreement, disagreement" in found["note"]


@pytest.mark.parametrize("others", [(0.06,), (0.01, 0.01), (0.15, 0.15)], ids=["alike", "careful", "careless"])
def test_slips_of_whoever_audits_are_taken_out_by_second_looks_of_others(others):
    rng = np.random.default_rng(0)
    truth, predicted, audit, _ = drawn(World(rows=3000), budget=3000)
    codes = pd.Categorical(truth, NAMES).codes
    answers = [honest_audit.slipped(codes, slips, rng) for slips in (0.06, *others)]
    slips = honest_audit.slips_of(answers, np.arange(3000), np.arange(3000))
    right, plain = (truth == predicted).mean(), audited_accuracy(CLASSES[answers[0]], predicted, audit)
    cleared = audited_accuracy(CLASSES[answers[0]], predicted, audit, slips=slips)
    assert plain["high"] < right - 0.03 and cleared["low"] < right < cleared["high"]
    assert slips.right == pytest.approx(0.94, abs=0.01) and cleared["value"] == pytest.approx(right, abs=0.015)


def test_few_second_looks_leave_it_open_how_often_reviewers_slip():
    found = weigh(np.r_[np.ones(900), np.zeros(100)][:, None], np.zeros(1000))
    widths = []
    for n in (20, 2000):
        answers = [np.zeros(n, int), (np.arange(n) % 10 == 0).astype(int)]
        slips = honest_audit.slips_of(answers, np.arange(n), np.arange(n))
        widths.append(np.ptp(without_slips(found, slips).interval()))
    assert widths[0] > 1.2 * widths[1]


def test_each_reviewers_accuracy_is_found_and_covered_and_full_agreement_is_no_certainty():
    true, inside, found = np.array([0.9, 0.98, 0.98]), [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, K, 60)
        answers = [honest_audit.slipped(truth, 1 - right, rng) for right in true]
        rows = {"sha256": np.tile(np.arange(60), 3), "reviewer": np.repeat(list("abc"), 60), "group": 0}
        table = pd.DataFrame(rows | {"answer": np.concatenate(answers)}).assign(group=lambda some: some["sha256"])
        drawn_each = reviewer_accuracies(table, classes=K, seed=seed).to_numpy()
        low, high = np.quantile(drawn_each[:, 1:], [0.025, 0.975], axis=1)
        inside.append((np.fmin(low, drawn_each[:, 0]) <= true) & (true <= np.fmax(high, drawn_each[:, 0])))
        found.append(drawn_each[:, 0])
    assert np.abs(np.mean(found, axis=0) - true).max() < 0.015 and np.mean(inside, axis=0).min() >= 0.9
    same = reviewer_accuracies(table[table["reviewer"].ne("c")].assign(answer="x"), classes=K)
    assert same[0].min() > 0.999 and 0.9 < np.quantile(same.to_numpy()[:, 1:], 0.025) < 0.99


@pytest.mark.parametrize("name", ["plain", "0.2 % hidden", "groups of 4, 0.2 % hidden", "50,000 rows, 200 looks"])
def test_the_plan_foretells_the_width_that_comes(name, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 500)
    world = WORLDS[name]._replace(scores=False)
    plans, audits = (2, 2) if world.rows > 10_000 else (5, 20)
    planned = np.mean([honest_audit.forecast(world, seed) for seed in range(plans)])
    came = [honest_audit.audit_once(world, seed)[0] for seed in range(audits)]
    assert 1 / 1.3 < planned / np.mean([100 * (row["high"] - row["low"]) for row in came]) < 1.3


def test_a_plan_has_one_line_a_size_and_narrower_intervals_for_more_looks():
    plan = audit_costs({"test": drawn(World(rows=150))[2]}, budgets=(50, 100, 200, 400))
    assert plan["pictures"].round(-1).tolist() == [50, 100, 150] and plan["width"].is_monotonic_decreasing


def test_a_plan_never_says_that_more_looks_buy_a_wider_interval(monkeypatch):
    found = {"val": {10: 0.4, 20: 0.1, 40: 0.3, 100: 0.2}, "test": {10: 0.9, 20: 0.8, 40: 0.85, 100: 0.7}}
    monkeypatch.setattr(audits, "audited_share", lambda _, audit, **__: {
        "low": 0, "high": found[audit.attrs["of"]][round(int(audit["picked"].sum()), -1)]
    })  # fmt: skip
    frozen = {split: drawn(World(rows=100))[2] for split in found}
    for split, audit in frozen.items():
        audit.attrs["of"] = split
    plan = audit_costs(frozen, budgets=(10, 20, 40, 100))
    widths = {split: some.round().tolist() for split, some in plan.groupby(level="split")["width"]}
    assert widths == {"val": [40, 30, 30, 20], "test": [90, 85, 85, 70]}, "each split by itself"


def test_rows_that_the_judge_stands_for_are_a_sample_too():
    values, widths = [], []
    for seed in range(150):  # of 284 rows 120 are looked at, and the judge is nearly sure of each
        rng = np.random.default_rng(seed)
        expected = rng.beta(0.15, 0.15, (284, 1))
        outcome = np.where(np.arange(284)[:, None] < 120, rng.random((284, 1)) < expected, np.nan)
        found = weigh(outcome, np.zeros(284), expected=expected, draws=400, seed=seed)
        values.append(found.value[0])
        widths.append(np.ptp(found.interval()))
    assert 0.9 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.1


def test_audited_confusion_sums_to_the_set_and_is_narrow_about_the_true_one():
    truth, predicted, audit, verdict = drawn(World(rows=3000, sharp=2.4), budget=600)
    matrix, cells = audited_confusion(verdict, predicted, audit, class_names=NAMES)
    true = pd.crosstab(truth, predicted).to_numpy()
    shares = true / true.sum(axis=1, keepdims=True)
    assert matrix.sum() == pytest.approx(3000, rel=0.01) and np.abs(matrix - true).max() < 45
    assert ((cells[..., 0] <= shares) & (shares <= cells[..., 1])).mean() >= 0.9
    assert np.ptp(cells, axis=-1).mean() < 0.12


def test_audited_scores_are_near_those_against_the_truth():
    some = honest_audit.draw_set(WORLDS["plain"], np.random.default_rng(0))
    _, _, audit, verdict = drawn(budget=400)
    found = audited_scores(verdict, some.probs, audit, class_names=NAMES).set_index("score")
    true = honest_audit.scores_of(some)[found.index]
    assert (found["low"] <= true).all() and (true <= found["high"]).all() and len(found) == 5


def test_a_picture_without_a_class_is_wrong_and_in_no_row_of_the_matrix():
    truth, predicted, audit, _ = drawn(budget=1000)
    truth[:100] = "drop"
    assert audited_accuracy(truth, predicted, audit)["value"] == pytest.approx((truth == predicted).mean())
    assert audited_confusion(truth, predicted, audit, class_names=NAMES)[0].sum() == pytest.approx(900)


def test_an_interval_for_any_time_is_wider_and_least_so_at_the_planned_end():
    factors = [at_any_time(1.0, seen, 200) for seen in (10, 100, 200, 400)]
    assert min(factors) == factors[2] and 1.3 < factors[2] < 1.7 < factors[0]


def test_whoever_stops_where_the_estimate_looks_best_still_has_the_truth_inside(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 400)
    world = WORLDS["small"]._replace(noise=0.2)
    true = honest_audit.scores_of(honest_audit.draw_set(world._replace(rows=100_000), np.random.default_rng(9)))
    stops = honest_audit.stopping_coverage(world, 25, true["accuracy"], every=10)
    assert stops["coverage"].mean() >= 0.92


def test_an_audit_of_no_rows_at_all_knows_nothing():
    audit = draw_audit([], [], np.zeros((0, K)), class_names=NAMES)
    found = audited_accuracy([], [], audit)
    assert np.isnan(found["value"]) and [found["low"], found["high"]] == [0, 1]


def test_an_audit_of_another_length_is_refused():
    _, _, audit, _ = drawn(World(rows=50))
    with pytest.raises(ValueError, match="Expected one outcome a row of the audit: 50"):
        audited_share([np.nan] * 3, audit, expected=np.zeros(50))

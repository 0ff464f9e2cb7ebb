"""How much of the traffic is it, has it changed, what does review cost, and what rule over frames keeps its promise?"""

import numpy as np
import pandas as pd
import pytest

from nsfwlib import evaluate

UNSAFE = {"unsafe": ["porn"]}


def day(n, prevalence, *, seed=0, skill=2.0):
    """Uploads with scores, and what they truly are."""
    rng = np.random.default_rng(seed)
    unsafe = rng.random(n) < prevalence
    score = 1 / (1 + np.exp(4 - 2 * rng.normal(size=n) - 2 * skill * unsafe))
    table = pd.DataFrame(
        {"path": [f"{i}" for i in range(n)], "sha256": [f"{i:064x}" for i in range(n)], "score": score}
    )
    return table, pd.Series(np.where(unsafe, "porn", "neutral"), dtype=object)


def looked_at(table, truth, **options):
    audit = evaluate.draw_traffic(table, table["score"], **options)
    return audit, truth.where(audit["picked"], None)


def test_more_looks_add_to_the_same_draw_and_nothing_is_without_a_chance():
    table, _ = day(3000, 0.05)
    few, many = (evaluate.draw_traffic(table, table["score"], budget=n, seed=1)["picked"] for n in (100, 300))
    assert (many | ~few).all() and many.sum() > 2 * few.sum()
    audit = evaluate.draw_traffic(table, table["score"], budget=100)
    assert audit.groupby("stratum")["picked"].sum().gt(0).all()
    assert audit.groupby("picked")["score"].mean().diff()[True] > 0, "what scores high is looked at more"
    with pytest.raises(ValueError, match="none with one"):
        evaluate.draw_traffic(table, np.full(3000, np.nan))


def test_a_share_of_half_a_per_cent_is_covered_by_four_hundred_looks():
    covered = 0
    for seed in range(60):
        table, truth = day(4000, 0.005, seed=seed)
        audit, verdict = looked_at(table, truth, budget=385, seed=seed)
        row = evaluate.traffic_shares(audit, verdict, kinds=UNSAFE).iloc[0]
        assert row["looks"] == audit["picked"].sum() <= 400
        covered += row["low"] <= 0.005 <= row["high"]
    assert covered >= 0.93 * 60


def test_parts_of_the_traffic_and_thresholds_are_estimated_near_what_they_are():
    table, truth = day(4000, 0.1)
    source = np.where(np.arange(4000) % 4 == 0, "forum", "mail")
    truth[(source == "mail") & (np.arange(4000) % 2 == 0)] = "neutral"
    audit, verdict = looked_at(table, truth, budget=600)
    parts = evaluate.traffic_shares(audit, verdict, kinds=UNSAFE, by=source).set_index("part")
    assert parts["uploads"].to_dict() == {"forum": 1000, "mail": 3000}
    for name, row in parts.iterrows():
        assert row["low"] <= truth[source == name].eq("porn").mean() <= row["high"]
    unsafe = truth.eq("porn").to_numpy()
    for row in evaluate.traffic_at(audit, verdict, [0.2, 0.5, 0.9], unsafe_classes=["porn"]).itertuples():
        flag = table["score"].to_numpy() >= row.threshold
        assert row.flagged == pytest.approx(flag.mean())
        assert row.precision_low <= unsafe[flag].mean() <= row.precision_high
        assert row.recall_low <= flag[unsafe].mean() <= row.recall_high
        assert row.missed_low <= (unsafe & ~flag).mean() <= row.missed_high


def test_before_anybody_has_looked_nothing_is_known():
    table, truth = day(500, 0.1)
    audit, verdict = looked_at(table, truth, budget=60)
    nobody = verdict.where(np.zeros(500, bool), None)
    row = evaluate.traffic_shares(audit, nobody, kinds=UNSAFE).iloc[0]
    assert np.isnan(row["value"]) and (row["low"], row["high"]) == (0, 1) and row["looks"] == 0


def test_a_changed_mix_is_seen_in_scores_alone_and_no_change_is_not():
    table, truth = day(4000, 0.05)
    audit, verdict = looked_at(table, truth, budget=400)
    same, more = (day(4000, share, seed=seed)[0]["score"] for share, seed in ((0.05, 1), (0.15, 2)))
    calm, alarm = (evaluate.score_shift(audit, verdict, some, unsafe_classes=["porn"]) for some in (same, more))
    assert calm["p"] > 0.01 and alarm["p"] < 1e-6
    assert (
        calm["low"] <= 0.05 <= calm["high"]
        and alarm["low"] <= 0.15 <= alarm["high"]
        and calm["high"] < alarm["low"] + 0.05
    )


def test_a_queue_loses_nobody_and_waits_as_arithmetic_says():
    staff = np.tile([0] * 8 + [3] * 8 + [0] * 8, 7)
    week = evaluate.review_week([1000] * 168, staff, to_person=0.1, seconds=10, unsafe=0.5)
    assert week["reviewed"].sum() + week["backlog"].iloc[-1] == pytest.approx(week["arrived"].sum())
    assert week["arrived"].mean() == pytest.approx(100, rel=0.05)
    assert week["reviewed"][staff == 0].sum() == 0
    assert 400 < week["waiting"].iloc[0] < 600, "what comes at midnight waits until eight"
    assert week["exposure"].sum() == pytest.approx(week["reviewed"].sum() * 10 / 60 / 2)
    ample = evaluate.review_week([1000] * 24, [50] * 24, to_person=0.1, seconds=1)
    assert ample["waiting"].max() == 0 and ample["backlog"].max() == 0
    nobody = evaluate.review_week([1000] * 24, [0] * 24, to_person=0.1, seconds=10)
    assert np.isinf(nobody["waiting"]).all() and nobody["backlog"].iloc[-1] == nobody["arrived"].sum()
    with pytest.raises(ValueError, match="same hours"):
        evaluate.review_week([1000] * 24, [1], to_person=0.1, seconds=10)


def clips(count, *, seed):
    """Half of the clips are unsafe in a third of their frames; a safe frame scores above 0.35 in 6 of 100 cases."""
    rng = np.random.default_rng(seed)
    bad, clip = rng.random(count) < 0.5, np.repeat(np.arange(count), rng.integers(20, 60, count))
    shows = bad[clip] & (rng.random(len(clip)) < 1 / 3)
    score = np.where(shows, rng.beta(6, 2, len(clip)), rng.beta(1.2, 6.5, len(clip)))
    return pd.DataFrame({"clip": clip, "score": score}), pd.Series(bad)


def test_the_kth_highest_frame_decides():
    frames = pd.DataFrame({"clip": ["a", "a", "a", "b"], "score": [0.1, 0.9, 0.5, 0.7]})
    assert evaluate.clip_scores(frames, 2).to_dict() == {"a": 0.5, "b": 0.0}
    assert evaluate.clip_scores(frames, 1).to_dict() == {"a": 0.9, "b": 0.7}


def test_a_rule_over_frames_keeps_its_promised_rate():
    world, truth = clips(3000, seed=999)
    broken = 0
    for seed in range(20):
        frames, unsafe = clips(400, seed=seed)
        best, caught = None, -1.0
        for k in (1, 3, 5):
            score = evaluate.clip_scores(frames, k)
            rows, rule = (unsafe.to_numpy(), score.to_numpy()), {"wishes": [("fpr", 0.05)], "prevalence": [0.5]}
            point = evaluate.operating_points(*rows, validation=rows, promise=1 - 0.05 / 3, **rule).iloc[0]
            if point["recall"] > caught:
                best, caught = (k, point["threshold"]), point["recall"]
        fires = evaluate.clip_scores(world, best[0]).ge(best[1])
        broken += fires[~truth].mean() > 0.05
        assert fires[truth].mean() > 0.9
    assert broken <= 2
    assert evaluate.clip_scores(world, 1).ge(0.35)[~truth].mean() > 0.8, (
        "a still's threshold fires on nearly every clip"
    )

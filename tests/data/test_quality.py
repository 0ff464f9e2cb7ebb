import numpy as np
import pandas as pd
import pytest

from nsfwlib.data import quality


@pytest.fixture
def table(rng):
    n = 400
    labels = np.repeat(["a", "b"], n // 2)
    return pd.DataFrame(
        {
            "path": [f"{label}/{i}.jpg" for i, label in enumerate(labels)],
            "given_label": labels,
            "problem": "",
            "group": np.arange(n),
            "format": "JPEG",
            "width": rng.integers(200, 800, n),
            "height": rng.integers(200, 800, n),
            "bytes": rng.integers(10_000, 90_000, n),
            "transparent": False,
            "grey": rng.random(n) < 0.1,
            "brightness": rng.random(n),
            "sharpness": rng.random(n) * 1000,
            "entropy": rng.random(n) * 8,
        }
    )


def test_a_format_that_gives_the_class_away_is_the_first_shortcut(table):
    table.loc[table["given_label"].eq("b"), "format"] = "PNG"
    found = quality.shortcuts(table)
    assert found["attribute"].iloc[0] == "format" and found["accuracy"].iloc[0] > 0.99
    assert found["gain"].iloc[1:].abs().max() < 0.1


def test_without_a_shortcut_nothing_beats_chance(table):
    assert quality.shortcuts(table)["gain"].max() < 0.1


def test_near_duplicates_do_not_count_as_evidence_of_a_shortcut(table, rng):
    pictures = rng.integers(0, 8, len(table))  # each of 8 pictures, many times, has a size and one label of its own
    table = table.assign(
        group=pictures,
        width=1000 + 37 * pictures,
        height=700 - 11 * pictures,
        given_label=np.where(pictures % 2, "a", "b"),
    )
    found = quality.shortcuts(table).set_index("attribute")
    assert found.loc["size in pixels", "accuracy"] < 0.9


def test_pictures_that_are_all_alike_have_no_shortcut_and_are_said_to_teach_nothing(table):
    table = table.assign(group=7)
    found, nothing = quality.shortcuts(table), table.iloc[:0]
    steps = quality.next_steps(table, conflicts=nothing, leaks=nothing, hubs=nothing, shortcuts=found)
    assert found.empty and list(found.columns) == ["attribute", "accuracy", "chance", "gain"]
    assert steps[0].startswith("All 400 usable pictures are near-duplicates of one another: add others")


def test_features_that_are_all_equal_or_not_finite_are_mapped_too(rng):
    rows, places = quality.feature_map(np.ones((9, 4), np.float16))
    assert rows.tolist() == list(range(9)) and not places.any()
    features = rng.normal(size=(12, 4)).astype(np.float16)
    features[3, 2], features[5] = np.inf, np.nan
    rows, places = quality.feature_map(features)
    assert {3, 5}.isdisjoint(rows) and len(rows) == 10 and np.isfinite(places).all()


def test_the_darkest_and_the_most_blurred_are_odd(table):
    table.loc[3, "brightness"], table.loc[7, "sharpness"] = -1, -1
    odd = quality.outliers(table)
    assert table["path"][3] in set(odd.loc[odd["kind"].eq("dark"), "path"])
    assert table["path"][7] in set(odd.loc[odd["kind"].eq("blurred"), "path"])
    assert len(odd) <= 0.05 * len(table)


def test_files_with_a_problem_are_never_odd(table):
    table.loc[3, ["brightness", "problem"]] = [-1, "screened"]
    assert table["path"][3] not in set(quality.outliers(table)["path"])


def test_next_steps_name_what_was_planted_and_nothing_else(table):
    def steps(table, conflicts=0, leaks=0, hubs=0):
        frames = {"conflicts": conflicts, "leaks": leaks, "hubs": hubs}
        tables = {name: pd.DataFrame({"group": range(n)}) for name, n in frames.items()}
        return quality.next_steps(table, shortcuts=quality.shortcuts(table), **tables)

    assert steps(table) == ["Train: 02_fine_tune."]
    table.loc[0, "problem"], table.loc[1, "problem"] = "screened", "truncated"
    found = steps(table, conflicts=2, leaks=3)
    assert [
        word in step
        for word, step in zip(["known-bad", "3 pairs", "2 groups", "truncated", "Train"], found, strict=True)
    ] == [True] * 5


def test_the_map_keeps_neighbours_and_leaves_out_rows_without_features(rng):
    features = np.concatenate([rng.normal(0, 0.1, (30, 16)), rng.normal(5, 0.1, (30, 16)), np.full((2, 16), np.nan)])
    rows, places = quality.feature_map(features.astype(np.float16))
    centre = places[:30].mean(axis=0), places[30:].mean(axis=0)
    nearer = np.linalg.norm(places - centre[0], axis=1) < np.linalg.norm(places - centre[1], axis=1)
    assert len(rows) == 60 and nearer[:30].all() and not nearer[30:].any()

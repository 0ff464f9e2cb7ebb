"""Copies are found, strangers are not joined, and blank pages glue nothing together."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from nsfwlib.data import duplicates, hash_search, inspection, likeness


def random_hashes(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def with_flips(hashes, bits, seed=0):
    generator = np.random.default_rng(seed)
    changed = hashes.copy()
    for i in range(len(changed)):
        for bit in generator.choice(64, bits, replace=False):
            changed[i] ^= np.uint64(1) << np.uint64(bit)
    return changed


@given(st.integers(0, 12), st.integers(0, 3), st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_near_pairs_are_those_that_comparing_all_finds(distance, seed, n):
    hashes = random_hashes(n, seed) & np.uint64(0xFFFF)  # few bits, so that many are near
    others = with_flips(hashes, 3, seed)
    left, right = hash_search.near_pairs(hashes, others, max_distance=distance)
    expected = np.nonzero(np.bitwise_count(hashes[:, None] ^ others[None, :]) <= distance)
    assert sorted(zip(left, right, strict=True)) == sorted(zip(*expected, strict=True))


@pytest.mark.parametrize("at_once", [100, 10**6])
@pytest.mark.parametrize("distance", [0, 3, 7, 11, 15])
def test_the_bands_find_every_pair_that_comparing_all_finds(distance, at_once, monkeypatch):
    monkeypatch.setattr(hash_search, "_AT_ONCE", at_once)
    hashes = random_hashes(3000)
    hashes[1500:] = np.concatenate([with_flips(hashes[k * 100 : k * 100 + 100], k) for k in range(15)])
    expected = hash_search.near_pairs(hashes, hashes, max_distance=distance)
    plain = hash_search._ranges
    compared = []

    def counting(first, last):
        compared.append((last - first).sum())
        return plain(first, last)

    monkeypatch.setattr(hash_search, "_ranges", counting)
    monkeypatch.setattr(hash_search, "_OUTRIGHT", 0)
    found = hash_search.near_pairs(hashes, hashes, max_distance=distance)
    np.testing.assert_array_equal(found, expected)
    across = hash_search.near_pairs(hashes[:1500], hashes[1500:], max_distance=distance)
    assert len(across[0]) == (expected[0] < 1500).sum() - ((expected[1] < 1500).sum())
    assert sum(compared) < 3000**2 / 2
    assert len(found[0]) >= 100 * min(distance, 14)


def test_groups_are_numbered_in_order_of_appearance_and_hold_planted_copies():
    hashes = random_hashes(2000)
    hashes[1000:1100] = with_flips(hashes[:100], 4)
    groups = duplicates.group_near_duplicates(hashes, max_distance=6)
    assert groups.dtype == np.int64
    assert (groups[1000:1100] == groups[:100]).all()
    assert groups.max() + 1 == 1900
    assert (np.diff(pd.unique(groups)) == 1).all()


def test_mirror_images_join_where_their_hashes_are_given():
    hashes, mirrored = random_hashes(100), random_hashes(100, 1)
    hashes[50], mirrored[50] = mirrored[7], hashes[7]
    assert duplicates.group_near_duplicates(hashes, max_distance=4)[50] != 7
    assert duplicates.group_near_duplicates(hashes, mirrored=mirrored, max_distance=4)[50] == 7


def test_hashes_alone_do_not_percolate():
    """At distance 22 of 64 random hashes are one big group; the safe distance keeps them apart."""
    hashes = random_hashes(3000)
    left, right = hash_search.near_pairs(hashes, hashes, max_distance=22)
    assert len(np.unique(duplicates.joined_pairs(left, right, 3000))) < 100
    groups = duplicates.group_near_duplicates(hashes, max_distance=22)
    assert len(np.unique(groups)) > 2980


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_the_safe_distance_holds_what_it_promises(shared):
    generator = np.random.default_rng(0)
    factors = shared * generator.normal(size=(5000, 1)) * np.linspace(1, 0, 64)  # bits correlated, as in photographs
    bits = generator.normal(size=(5000, 64)) + factors > 0
    hashes = np.packbits(bits, axis=1).view(np.uint64).ravel()
    left, right = hash_search.near_pairs(hashes, hashes, max_distance=15)
    counts = np.cumsum(np.bincount(np.bitwise_count(hashes[left] ^ hashes[right]), minlength=16))
    largest = np.flatnonzero(counts * 2 / 5000 <= 0.01).max()
    assert largest - 5 <= hash_search.safe_distance(hashes) <= largest


def test_true_copies_do_not_make_the_safe_distance_smaller():
    hashes = random_hashes(4000)
    crowded = np.concatenate([hashes[:2000], with_flips(hashes[:2000], 3)])
    assert abs(hash_search.safe_distance(crowded) - hash_search.safe_distance(hashes)) <= 1


def photographs():
    """Forty different pieces of photographs that scikit-learn and scikit-image ship, 160 pixels wide."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    wholes = [load_sample_image("china.jpg"), load_sample_image("flower.jpg"), data.coffee(), data.astronaut()]
    wholes += [data.chelsea(), data.rocket(), data.immunohistochemistry(), data.retina()[::2, ::2]]
    pieces = []
    for whole in wholes:
        for top in range(0, whole.shape[0] - 160, 160):
            for left in range(0, whole.shape[1] - 160, 160):
                piece = whole[top : top + 160, left : left + 160]
                if piece.mean(axis=2).std() > 20:
                    pieces.append(Image.fromarray(np.ascontiguousarray(piece)))
    return pieces[:40]


def recompressed(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def captioned(picture):
    picture = picture.copy()
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((0, 136, 160, 160), fill="white")
    drawing.text((5, 140), "when you see it", fill="black")
    return picture


EDITS = {  # edit → share of copies to be found
    recompressed: 1.0,
    lambda picture: picture.resize((80, 80)): 0.97,
    lambda picture: ImageEnhance.Brightness(picture).enhance(1.3): 0.95,
    ImageOps.mirror: 0.97,
    lambda picture: picture.crop((4, 4, 156, 156)): 0.8,
    captioned: 0.8,
    lambda picture: picture.crop((0, 12, 148, 160)): 0.5,  # off the centre
    lambda picture: picture.rotate(3): 0.55,
}


def grouped(pictures):
    rows = [inspection.measure(picture) for picture in pictures]
    hashes, mirrors = (np.array([row[key] for row in rows], np.uint64) for key in ("phash", "phash_mirror"))
    pixels = np.stack([np.frombuffer(row["thumb"], np.uint8).reshape(32, 32) for row in rows])
    return duplicates.group_near_duplicates(
        hashes, mirrored=mirrors, max_distance=duplicates.MAX_DISTANCE, thumbs=lambda positions: pixels[positions]
    )


def test_edited_photographs_are_found_and_different_ones_kept_apart():
    originals = photographs()
    n = len(originals)
    assert n >= 35
    for edit, share in EDITS.items():
        groups = grouped([*originals, *map(edit, originals)])
        assert (groups[:n] == groups[n:]).mean() >= share
        assert len(np.unique(groups[:n])) == n  # no two originals joined


def pie_chart(draw, generator):
    angles = np.cumsum([0, *generator.dirichlet([3] * generator.integers(3, 8))]) * 360
    for k, colour in zip(
        range(len(angles) - 1), ("navy", "orange", "green", "red", "purple", "brown", "pink"), strict=False
    ):
        draw.pieslice((50, 50, 350, 350), angles[k], angles[k + 1], fill=colour, outline="white")


def bar_chart(draw, generator):
    draw.line((40, 20, 40, 350, 380, 350), fill="black", width=2)
    for left in range(60, 360, 50):
        draw.rectangle((left, int(generator.integers(40, 330)), left + 30, 349), fill="navy")


def document(draw, generator):
    for y in range(30, 370, 12):
        lengths = np.cumsum(generator.integers(8, 40, 20))
        for left, right in zip([0, *lengths], lengths, strict=False):
            if right < 346:
                draw.rectangle((30 + left, y, 24 + right, y + 5), fill="black")


def screenshot(draw, generator):
    draw.rectangle((0, 0, 400, 30), fill="navy")
    draw.rectangle((0, 30, 100, 400), fill="silver")
    for y in range(50, 50 + 25 * generator.integers(4, 12), 25):
        draw.rectangle((120, y, 120 + int(generator.integers(60, 260)), y + 10), fill="black")


def meme(draw, generator):
    for x, y in np.ndindex(5, 4):
        fill = tuple(generator.integers(0, 255, 3).tolist())
        draw.rectangle((x * 80, 60 + y * 70, x * 80 + 79, 129 + y * 70), fill=fill)
    draw.rectangle((60, 20, 340 - int(generator.integers(0, 100)), 45), fill="black")
    draw.rectangle((60, 360, 340 - int(generator.integers(0, 100)), 385), fill="black")


@pytest.mark.parametrize("drawn", [pie_chart, bar_chart, document, screenshot, meme])
def test_graphics_of_one_layout_are_no_copies_of_one_another(drawn):
    pictures = [Image.new("RGB", (400, 400), "white") for _ in range(12)]
    for seed, picture in enumerate(pictures):
        drawn(ImageDraw.Draw(picture), np.random.default_rng(seed))
    groups = grouped([*pictures, *(picture.resize((200, 200)) for picture in pictures)])
    assert (groups[:12] == groups[12:]).all()  # true copies are
    assert len(np.unique(groups)) >= 11


def test_lookalikes_make_no_chain_of_digits_and_frames_of_a_film_stay_together():
    from skimage import data
    from sklearn.datasets import load_digits

    digits, film = load_digits(), Image.fromarray(data.astronaut())
    pictures = [Image.fromarray((image * 15.9).astype(np.uint8)).resize((96, 96)) for image in digits.images[:400]]
    frames = [film.crop((3 * i, i, 3 * i + 300, i + 300)) for i in range(60)]
    groups = grouped([*(picture.convert("RGB") for picture in pictures), *frames])
    assert len(set(groups[400:])) == 1, "each frame is like the next, the last not like the first"
    assert np.bincount(groups[:400]).max() <= 40
    assert max(len(set(digits.target[:400][groups[:400] == group])) for group in set(groups[:400])) <= 2


def test_likeness_is_one_for_copies_and_low_for_strangers(rng):
    thumbs = np.stack([np.frombuffer(inspection.measure(p)["thumb"], np.uint8).reshape(32, 32) for p in photographs()])
    np.testing.assert_allclose(likeness.quick_likeness(thumbs, thumbs), 1, atol=1e-4)
    np.testing.assert_allclose(likeness.quick_likeness(thumbs, thumbs // 2 + 60), 1, atol=0.02)
    strangers = likeness.quick_likeness(thumbs, np.roll(thumbs, 1, axis=0))
    assert strangers.max() < likeness.MIN_CORRELATION
    flat = np.full((1, 32, 32), 250, np.uint8)
    assert likeness.quick_likeness(flat, flat)[0] < 0.1  # nothing to compare is no likeness


@pytest.mark.parametrize("second_look", [likeness.quick_likeness, likeness.aligned_likeness])
def test_the_same_bar_does_not_make_strangers_alike(second_look):
    thumbs = np.stack([np.frombuffer(inspection.measure(p)["thumb"], np.uint8).reshape(32, 32) for p in photographs()])
    thumbs = thumbs // 3
    thumbs[:, 26:] = 255
    alike = second_look(thumbs, np.roll(thumbs, 1, axis=0))
    bare = likeness._correlation(thumbs.astype(np.float32), np.roll(thumbs, 1, axis=0).astype(np.float32))
    assert (bare > likeness.MIN_CORRELATION).mean() > 0.5  # the trap
    assert alike.max() < likeness.MIN_CORRELATION


def images_table(**columns):
    n = len(columns["given_label"])
    defaults = {"path": [f"{i}.png" for i in range(n)], "sha256": [f"{i:064x}" for i in range(n)], "problem": ""}
    return pd.DataFrame({**defaults, "split": "", "contrast": 0.2, "group": range(n), **columns})


def test_blank_pages_glue_nothing_together_and_are_reported_apart():
    blank = np.zeros(40, bool)
    blank[10:] = True
    hashes = random_hashes(40)
    hashes[blank] = 0
    groups = duplicates.group_near_duplicates(hashes, max_distance=4, blank=blank)
    assert len(np.unique(groups)) == 40
    table = images_table(given_label=["a", "b"] * 20, contrast=np.where(blank, 0.001, 0.2), group=groups)
    found = duplicates.hubs(table)
    assert found[["kind", "images", "classes"]].to_numpy().tolist() == [["blank", 30, 2]]


def test_placeholders_are_reported_as_a_hub():
    table = images_table(given_label=["a", "b", "c"] * 10, group=[0] * 12 + list(range(1, 19)))
    found = duplicates.hubs(table)
    assert found[["kind", "group", "images", "classes"]].to_numpy().tolist() == [["repeated", 0, 12, 3]]


def test_label_conflicts_name_whole_groups_and_exact_copies():
    table = images_table(given_label=["a", "b", "a", "a", "b", ""], group=[0, 0, 1, 1, 2, 1])
    table.loc[4, "sha256"] = table.loc[2, "sha256"]  # the same bytes, however grouped
    found = duplicates.label_conflicts(table)
    assert set(found["path"]) == {"0.png", "1.png", "2.png", "4.png"}
    assert found.set_index("path")["exact"].to_dict() == {"0.png": False, "1.png": False, "2.png": True, "4.png": True}


def test_leaks_list_each_pair_once():
    table = images_table(given_label=["a"] * 5, group=[0, 0, 0, 1, 1], split=["train", "test", "train", "val", "val"])
    found = duplicates.leaks(table)
    assert found[["path", "other_path"]].to_numpy().tolist() == [["0.png", "1.png"], ["1.png", "2.png"]]


def test_features_join_what_no_hash_recognises(rng):
    features = rng.normal(size=(300, 32))
    features[200:220] = features[:20] + 0.05 * rng.normal(size=(20, 32))
    features[299] = np.nan
    left, right = duplicates.feature_pairs(features, min_cosine=0.98)
    assert sorted(zip(left, right, strict=True)) == [(i, 200 + i) for i in range(20)]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"0…64 bits. Received: 65"):
        duplicates.group_near_duplicates(random_hashes(3), max_distance=65)
    with pytest.raises(ValueError, match="shape of hashes"):
        duplicates.group_near_duplicates(random_hashes(3), mirrored=random_hashes(2), max_distance=3)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_tables_are_grouped(n):
    groups = duplicates.group_near_duplicates(random_hashes(n), mirrored=random_hashes(n, 1), max_distance=8)
    assert groups.tolist() == list(range(n))

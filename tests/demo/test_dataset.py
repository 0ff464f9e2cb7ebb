"""The embedded data set: what is planted is there, is written down, and nothing else is touched."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from nsfwlib.demo import dataset

BROKEN = {"truncated", "zero_byte", "html", "tiny", "not_an_image", "placeholder"}
ODD = {"wrong_extension", "cmyk", "exif_orientation", "alpha_only", "webp", "animated"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The smallest demo, for tests that only read it."""
    data = tmp_path_factory.mktemp("demo") / "data"
    return SimpleNamespace(data=data, truth=dataset.make_demo(data, images_per_class=8))


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """Large enough for rates to mean something, and to be drawn by several processes."""
    data = tmp_path_factory.mktemp("demo") / "data"
    return SimpleNamespace(data=data, truth=dataset.make_demo(data, images_per_class=40))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return ImageOps.exif_transpose(image).convert("RGB")


def copy_of(demo_data, folder: Path) -> Path:
    """The demo once more, to be spoiled."""
    shutil.copytree(demo_data.data, folder)
    shutil.copy(dataset.truth_path(demo_data.data), dataset.truth_path(folder))
    return folder


def with_defect(demo_data, defect: str) -> Path:
    (path,) = demo_data.truth.loc[demo_data.truth["defect"].eq(defect), "path"]
    return demo_data.data / path


def drawn(truth: pd.DataFrame) -> pd.DataFrame:
    return truth[truth["defect"].eq("") & truth["duplicate_of"].eq("")]


class StandInSession:
    """What `answer` needs of a review session, and nothing more."""

    def __init__(self, truth: pd.DataFrame):
        self.queue = truth[["path", "given_label"]].rename(columns={"given_label": "given"})
        self.decided = []

    def decide(self, path, decision):
        self.decided.append((path, decision))


def test_truth_lists_exactly_the_files_of_the_five_class_folders(small):
    assert set(small.truth["path"]) == set(contents(small.data))
    assert {p.name for p in small.data.iterdir()} == set(dataset.CLASSES)
    assert list(small.truth.columns) == list(dataset.TRUTH_COLUMNS)
    assert small.truth["given_label"].tolist() == [path.split("/")[0] for path in small.truth["path"]]


def test_truth_lies_beside_the_data_and_reads_back_the_same(small):
    assert dataset.truth_path(small.data) == small.data.parent / "data_truth.csv"
    assert sorted(p.name for p in small.data.parent.iterdir()) == ["data", "data_truth.csv"]
    pd.testing.assert_frame_equal(dataset.read_truth(small.data), small.truth)


def test_a_truth_that_a_spreadsheet_saved_again_is_still_the_truth(small, tmp_path):
    shutil.copytree(small.data, tmp_path / "demo")
    table = dataset.truth_path(tmp_path / "demo")
    small.truth.to_csv(table, index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n")
    pd.testing.assert_frame_equal(dataset.read_truth(tmp_path / "demo"), small.truth, check_dtype=False)


def test_every_labelled_picture_can_be_read_and_is_160_to_320_pixels(small):
    sizes = [load(small.data / path).size for path in drawn(small.truth)["path"]]
    assert np.min(sizes) >= 160 and np.max(sizes) <= 320
    for path in small.truth.loc[small.truth["true_label"].ne(""), "path"]:
        assert np.asarray(load(small.data / path)).ndim == 3


def test_every_class_has_as_many_pictures_as_asked_for(small):
    assert drawn(small.truth)["true_label"].value_counts().to_dict() == dict.fromkeys(dataset.CLASSES, 8)


def test_every_planted_kind_is_there_even_in_the_smallest_data_set(small):
    assert set(small.truth["defect"]) == {""} | BROKEN | ODD
    assert set(small.truth["noise"]) == {"", "random", "ambiguous", "conflict"}
    assert small.truth["duplicate_of"].ne("").any()
    assert drawn(small.truth)["group"].duplicated().any()


def test_broken_files_and_placeholders_have_no_true_label_and_odd_ones_have(small):
    assert small.truth.loc[small.truth["defect"].isin(BROKEN), "true_label"].eq("").all()
    odd = small.truth[small.truth["defect"].isin(ODD)]
    assert odd["true_label"].tolist() == odd["given_label"].tolist()


@pytest.mark.parametrize("defect", ["truncated", "zero_byte", "html", "not_an_image"])
def test_broken_files_cannot_be_decoded(small, defect):
    for path in small.truth.loc[small.truth["defect"].eq(defect), "path"]:
        with pytest.raises(OSError):
            load(small.data / path)


def test_odd_files_are_odd_in_the_way_the_truth_says(small):
    def look(defect):
        with Image.open(with_defect(small, defect)) as image:
            return image.format, image.mode, getattr(image, "n_frames", 1), image.getexif().get(0x0112)

    assert look("cmyk")[:2] == ("JPEG", "CMYK")
    assert look("exif_orientation")[3] == 6
    assert look("webp")[0] == "WEBP"
    assert look("animated")[0] == "GIF" and look("animated")[2] == 3
    assert look("wrong_extension")[0] == "PNG" and with_defect(small, "wrong_extension").suffix == ".jpg"
    assert load(with_defect(small, "tiny")).size == (1, 1)


def test_the_alpha_only_picture_shows_nothing_without_its_alpha(small):
    with Image.open(with_defect(small, "alpha_only")) as image:
        colours, alpha = np.split(np.asarray(image), [3], axis=2)
    assert not colours.any()
    assert alpha.std() > 10


def test_about_eight_percent_of_labels_are_wrong_half_of_them_on_ambiguous_pictures(medium):
    noise = drawn(medium.truth)["noise"].value_counts()
    assert 0.06 <= 1 - noise[""] / noise.sum() <= 0.10
    assert abs(noise["random"] - noise["ambiguous"]) <= 1
    assert medium.truth.loc[medium.truth["noise"].eq("ambiguous"), "ambiguity"].gt(0).all()


def test_most_planted_errors_lie_on_the_confusable_pairs(medium):
    pairs = dataset.planted_errors(drawn(medium.truth))[["true_label", "given_label"]].apply(set, axis=1)
    confusable = [pair in ({"drawings", "hentai"}, {"porn", "sexy"}) for pair in pairs]
    assert np.mean(confusable) > 0.6


def test_planted_errors_are_the_readable_pictures_in_a_wrong_folder(small):
    errors = dataset.planted_errors(small.truth)
    assert set(errors.index) == set(small.truth.index[small.truth["noise"].ne("")])
    assert errors["noise"].eq("conflict").any()
    assert errors["true_label"].ne("").all()


def test_copies_are_exact_and_some_lie_under_two_labels(medium):
    copies = medium.truth[medium.truth["duplicate_of"].ne("")].merge(
        medium.truth, left_on="duplicate_of", right_on="path", suffixes=("", "_original")
    )
    for copy, original in zip(copies["path"], copies["duplicate_of"], strict=True):
        assert (medium.data / copy).read_bytes() == (medium.data / original).read_bytes()
    assert copies["group"].tolist() == copies["group_original"].tolist()
    conflict = copies["noise"].eq("conflict")
    assert conflict.any() and copies.loc[conflict, "given_label"].ne(copies.loc[conflict, "true_label"]).all()


def test_members_of_a_series_look_more_alike_than_other_pictures_of_the_class(medium):
    def signature(path):
        grey = np.asarray(load(medium.data / path).convert("L").resize((8, 8)), float)
        return grey + grey[:, ::-1]  # the same for the mirror image

    rows = drawn(medium.truth)
    rows = rows[rows["true_label"].eq("neutral")]
    alike = np.corrcoef([signature(path).ravel() for path in rows["path"]])
    same = rows["group"].to_numpy()[:, None] == rows["group"].to_numpy()
    same_pair, other_pair = alike[np.triu(same, 1)], alike[np.triu(~same, 1)]
    assert len(same_pair) >= 5
    assert np.median(same_pair) > np.quantile(other_pair, 0.9)


def test_a_small_data_set_is_byte_for_byte_part_of_a_larger_one(small, medium):
    def by_name(demo_data):
        return {Path(p).name: (demo_data.data / p).read_bytes() for p in drawn(demo_data.truth)["path"]}

    assert by_name(small).items() <= by_name(medium).items()  # one drawn by this process, one by several
    faulty = small.truth.loc[small.truth["defect"].ne(""), "path"]
    assert all((small.data / p).read_bytes() == (medium.data / p).read_bytes() for p in faulty)


def test_the_same_seed_draws_the_same_files_and_another_seed_others(small, tmp_path):
    again = dataset.make_demo(tmp_path / "again", images_per_class=8)
    assert contents(tmp_path / "again") == contents(small.data)
    pd.testing.assert_frame_equal(again, small.truth)
    dataset.make_demo(tmp_path / "other", images_per_class=8, seed=1)
    other = contents(tmp_path / "other")
    assert not set(drawn(dataset.read_truth(tmp_path / "other"))["path"]) & set(small.truth["path"])
    assert len(other) == len(small.truth)


def test_names_do_not_tell_the_class_of_a_picture(small):
    names = [Path(path).stem for path in small.truth.loc[small.truth["defect"].eq(""), "path"]]
    assert all(set(name.removeprefix("img_")) <= set("0123456789abcdef") for name in names)
    assert len(set(names)) == len(names)


def test_the_global_random_state_is_neither_read_nor_changed(tmp_path, small):
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    dataset.make_demo(tmp_path / "data", images_per_class=8)
    assert np.random.get_state()[1].tolist() == before
    assert contents(tmp_path / "data") == contents(small.data)


def test_a_demo_that_is_there_already_is_reused_without_drawing(small, monkeypatch):
    monkeypatch.setattr(dataset, "_write", lambda *args: pytest.fail("drew again"))
    before = contents(small.data.parent)
    pd.testing.assert_frame_equal(dataset.make_demo(small.data, images_per_class=8), small.truth)
    assert contents(small.data.parent) == before


def test_files_added_to_a_demo_by_others_are_left_alone(small, tmp_path):
    data = copy_of(small, tmp_path / "data")
    (data / "porn" / ".DS_Store").write_bytes(b"x")
    pd.testing.assert_frame_equal(dataset.make_demo(data, images_per_class=8), small.truth)
    assert (data / "porn" / ".DS_Store").exists()


@pytest.mark.parametrize("other", [{"images_per_class": 9}, {"images_per_class": 8, "seed": 1}])
def test_a_demo_with_other_parameters_is_refused_and_kept(small, other):
    before = contents(small.data.parent)
    with pytest.raises(FileExistsError, match="of 8 images a class"):
        dataset.make_demo(small.data, **other)
    assert contents(small.data.parent) == before


def test_a_folder_with_somebodys_files_is_refused_and_kept(tmp_path):
    (tmp_path / "data" / "porn").mkdir(parents=True)
    (tmp_path / "data" / "porn" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"data is there and is no complete demo.*pass another out_dir"):
        dataset.make_demo(tmp_path / "data", images_per_class=8)
    assert contents(tmp_path) == {"data/porn/mine.txt": b"precious"}


def test_a_demo_with_a_missing_file_is_refused_and_no_longer_has_a_truth(small, tmp_path):
    data = copy_of(small, tmp_path / "data")
    assert dataset.read_truth(data) is not None
    (data / small.truth["path"][7]).unlink()
    before = contents(tmp_path)
    assert dataset.read_truth(data) is None
    with pytest.raises(FileExistsError, match="no complete demo"):
        dataset.make_demo(data, images_per_class=8)
    assert contents(tmp_path) == before


def test_a_foreign_file_where_the_truth_goes_is_not_overwritten(tmp_path):
    (tmp_path / "data_truth.csv").write_text("path,my_label\na.jpg,cat\n")
    with pytest.raises(FileExistsError, match="holds something else"):
        dataset.make_demo(tmp_path / "data", images_per_class=8)
    assert list(tmp_path.iterdir()) == [tmp_path / "data_truth.csv"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(FileExistsError, match="data is there"):
        dataset.make_demo(tmp_path / "data", images_per_class=8)


def test_an_empty_folder_and_missing_parents_are_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    assert len(dataset.make_demo(tmp_path / "empty", images_per_class=8)) == len(contents(tmp_path / "empty"))
    assert len(dataset.make_demo(tmp_path / "a" / "b", images_per_class=8)) == len(contents(tmp_path / "a" / "b"))


def test_an_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_add_copies", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dataset.make_demo(tmp_path / "data", images_per_class=8)
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_a_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at least 8\. Received: 7"):
        dataset.make_demo(tmp_path / "data", images_per_class=7)


def test_a_folder_that_is_no_demo_has_no_truth(tmp_path):
    (tmp_path / "real" / "cats").mkdir(parents=True)
    assert dataset.read_truth(tmp_path / "real") is None
    assert dataset.read_truth(tmp_path / "nowhere") is None


def test_the_simulated_reviewer_finds_every_error_it_is_shown(small):
    session = StandInSession(small.truth)
    answers = dataset.simulated_answers(session, small.truth, budget=len(small.truth))
    assert session.decided == list(zip(answers["path"], answers["decision"], strict=True))
    errors = dataset.planted_errors(small.truth).set_index("path")["true_label"]
    found = answers[answers["was_error"]].set_index("path")["decision"]
    assert found.sort_index().to_dict() == errors.sort_index().to_dict()


def test_the_simulated_reviewer_keeps_right_labels_and_drops_what_is_no_picture(small):
    answers = dataset.simulated_answers(StandInSession(small.truth), small.truth, budget=len(small.truth))
    answers = answers.merge(small.truth, on="path")
    assert answers.loc[answers["true_label"].eq(""), "decision"].eq("drop").all()
    right = answers[~answers["was_error"] & answers["true_label"].ne("")]
    assert right["decision"].isin(["keep", *dataset.CLASSES]).all()
    assert (right["decision"].eq("keep") | right["decision"].eq(right["true_label"])).all()
    assert right["decision"].eq("keep").mean() > 0.9


def test_a_copy_under_two_labels_gets_its_class_wherever_it_lies(small):
    conflict = small.truth[small.truth["noise"].eq("conflict")].iloc[0]
    session = StandInSession(small.truth[small.truth["path"].isin([conflict["path"], conflict["duplicate_of"]])])
    answers = dataset.simulated_answers(session, small.truth, budget=2)
    assert answers["decision"].tolist() == [conflict["true_label"]] * 2
    assert sorted(answers["was_error"]) == [False, True]


def test_the_simulated_reviewer_looks_at_the_first_of_the_queue_and_no_more_than_its_budget(small):
    session = StandInSession(small.truth.sample(frac=1, random_state=3))
    answers = dataset.simulated_answers(session, small.truth, budget=5)
    assert [path for path, _ in session.decided] == session.queue["path"].head(5).tolist()
    assert list(answers.columns) == ["path", "given", "decision", "was_error"]
    assert len(dataset.simulated_answers(session, small.truth, budget=0)) == 0


def test_the_simulated_reviewer_refuses_pictures_that_the_truth_does_not_know(small):
    session = StandInSession(pd.DataFrame({"path": ["porn/mine.jpg"], "given_label": ["porn"]}))
    with pytest.raises(ValueError, match=r"first: porn/mine\.jpg"):
        dataset.simulated_answers(session, small.truth, budget=1)
    assert session.decided == []
    with pytest.raises(ValueError, match=r"0 or more\. Received: -1"):
        dataset.simulated_answers(session, small.truth, budget=-1)


def test_the_demo_is_drawn_without_tensorflow():
    check = "import sys; import nsfwlib.demo; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


def test_an_unguarded_script_draws_the_same_with_several_processes_and_runs_once(small, tmp_path):
    script = f"""
from pathlib import Path
from nsfwlib.demo import dataset
dataset.PARALLEL_FROM = 1
dataset.cpu_count = lambda: 2
print("once")
dataset.make_demo(Path({str(tmp_path / "data")!r}), images_per_class=8)
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], text=True, timeout=120, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")
    assert contents(tmp_path / "data") == contents(small.data)

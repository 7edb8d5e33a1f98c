"""What was said of each image reads back as it was, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from toolkit.errors import RunError
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.prediction_io import decode_mask, encode_mask, read_predictions, write_predictions

finite = st.floats(allow_nan=False, allow_infinity=False)
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
ids = st.lists(st.sampled_from(["test", "a", "b__c", "ä ö", "0.png"]), min_size=1, max_size=4)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    count = draw(st.integers(0, 3))
    boxes = Boxes(
        draw(arrays(np.float32, (count, 4), elements=finite32)),
        draw(arrays(np.float32, (count,), elements=finite32)),
        tuple(draw(st.lists(st.text(), min_size=count, max_size=count))),
    )
    grid = array_shapes(min_dims=2, max_dims=2, max_side=9)
    return Prediction(
        sample_id="/".join(draw(ids)),
        score=draw(finite),
        class_probabilities=draw(st.none() | st.dictionaries(st.text(), finite, max_size=3)),
        boxes=draw(st.sampled_from([None, boxes])),
        mask=draw(st.none() | arrays(np.bool_, grid)),
        anomaly_map=draw(st.none() | arrays(np.float32, grid, elements=finite32)),
        seconds=draw(st.none() | finite),
    )


def assert_equal(first: Prediction, second: Prediction) -> None:
    for name in ("sample_id", "score", "class_probabilities", "seconds"):
        assert getattr(first, name) == getattr(second, name), name
    assert (first.boxes is None) == (second.boxes is None)
    if first.boxes is not None and second.boxes is not None:
        assert first.boxes.labels == second.boxes.labels
        np.testing.assert_array_equal(first.boxes.xyxy, second.boxes.xyxy, strict=True)
        np.testing.assert_array_equal(first.boxes.scores, second.boxes.scores, strict=True)
    for one, other in ((first.mask, second.mask), (first.anomaly_map, second.anomaly_map)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other, strict=True)


@settings(max_examples=60)
@given(st.lists(predictions(), max_size=4, unique_by=lambda p: p.sample_id))
def test_predictions_read_back(
    tmp_path_factory: pytest.TempPathFactory, made: list[Prediction]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    assert write_predictions(folder, "test", made) == len(made)
    again = list(read_predictions(folder, "test"))
    assert len(again) == len(made)
    for first, second in zip(made, again, strict=True):
        assert_equal(first, second)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_masks_survive_json(mask: np.ndarray) -> None:
    again = decode_mask(json.loads(json.dumps(encode_mask(mask))))
    np.testing.assert_array_equal(again, mask, strict=True)


def test_a_mask_may_be_a_view() -> None:
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    for view in (mask.T, mask[::2, ::-1]):
        np.testing.assert_array_equal(decode_mask(encode_mask(view)), view)


def test_raw_scores_keep_every_bit(tmp_path: Path) -> None:
    scores = [1e300, -1e-300, 0.1 + 0.2, np.float32(0.1), 5]
    made = [Prediction(s, sample_id=str(i)) for i, s in enumerate(scores)]
    write_predictions(tmp_path, "val", made)
    assert [p.score for p in read_predictions(tmp_path, "val")] == [float(s) for s in scores]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    made = Prediction(
        np.float64(1), class_probabilities={"good": np.float32(0.5)}, sample_id="a", seconds=0.1
    )
    write_predictions(tmp_path, "val", [made])
    (again,) = read_predictions(tmp_path, "val")
    assert again.class_probabilities == {"good": 0.5}


def test_no_boxes_are_not_the_same_as_none(tmp_path: Path) -> None:
    made = [Prediction(0.0, sample_id="a", boxes=Boxes.none()), Prediction(0.0, sample_id="b")]
    write_predictions(tmp_path, "val", made)
    empty, none = read_predictions(tmp_path, "val")
    assert empty.boxes is not None
    assert empty.boxes.xyxy.shape == (0, 4)
    assert none.boxes is None


def test_ids_that_look_alike_have_their_own_maps(tmp_path: Path) -> None:
    made = [
        Prediction(0.0, sample_id=name, anomaly_map=np.full((2, 2), i, np.float32))
        for i, name in enumerate(("a/b.png", "a__b.png", "a/b", "a%2Fb.png"))
    ]
    write_predictions(tmp_path, "test", made)
    assert [p.anomaly_map[0, 0] for p in read_predictions(tmp_path, "test")] == [0, 1, 2, 3]  # type: ignore[index]


def test_parts_do_not_mix(tmp_path: Path) -> None:
    for i, part in enumerate(("val", "test")):
        made = Prediction(float(i), sample_id="a", anomaly_map=np.full((1, 1), i, np.float32))
        write_predictions(tmp_path, part, [made])
    for i, part in enumerate(("val", "test")):
        (again,) = read_predictions(tmp_path, part)
        assert (again.score, again.anomaly_map[0, 0]) == (i, i)  # type: ignore[index]


def test_without_pixels(tmp_path: Path) -> None:
    made = Prediction(
        1.0,
        boxes=Boxes.none(),
        mask=np.ones((2, 2), bool),
        anomaly_map=np.ones((2, 2), "f4"),
        sample_id="a",
    )
    write_predictions(tmp_path, "test", [made])
    for file in tmp_path.rglob("*.npy"):
        file.unlink()  # not read
    (again,) = read_predictions(tmp_path, "test", pixels=False)
    assert (again.mask, again.anomaly_map) == (None, None)
    assert again.boxes is not None


def test_predictions_are_taken_one_by_one_and_appear_together(tmp_path: Path) -> None:
    def source() -> Iterator[Prediction]:
        for i in range(3):
            assert not (tmp_path / "test.jsonl").exists()
            yield Prediction(0.0, sample_id=str(i))

    assert write_predictions(tmp_path, "test", source()) == 3
    assert (tmp_path / "test.jsonl").is_file()


def test_an_interrupted_part_leaves_nothing(tmp_path: Path) -> None:
    def source() -> Iterator[Prediction]:
        yield Prediction(0.0, sample_id="a")
        raise FileNotFoundError(2, "No such file or directory", "image.png")

    with pytest.raises(FileNotFoundError, match=r"image\.png"):  # not blamed on the predictions
        write_predictions(tmp_path, "test", source())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("score", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_score_that_is_no_number_is_refused(tmp_path: Path, score: float) -> None:
    with pytest.raises(RunError, match=r"^test/x\.png: its score is (nan|inf|-inf)"):
        write_predictions(tmp_path, "test", [Prediction(score, sample_id="test/x.png")])
    assert not (tmp_path / "test.jsonl").exists()


GOOD = '{"schema": 1, "id": "a", "score": 0.5, "seconds": null}'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "5",
        "[]",
        '{"schema": 1, "score": 1}',
        # of another version of this program
        GOOD.replace('"schema": 1', '"schema": 99'),
        # boxes that do not fit
        GOOD[:-1] + ', "boxes": {"xyxy": [[1, 2, 3]], "scores": [1], "labels": ["x"]}}',
        GOOD[:-1] + ', "boxes": {}}',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "test.jsonl").write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(RunError, match="line 2 is damaged") as caught:
        list(read_predictions(tmp_path, "test"))
    assert "\n" not in str(caught.value)


def test_no_predictions(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no stored predictions"):
        list(read_predictions(tmp_path, "test"))


@pytest.mark.parametrize("name", ["cut.npy", "empty.npy", "missing.npy"])
def test_a_damaged_anomaly_map_is_named(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "cut.npy", np.zeros((9, 9), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-50])
    (tmp_path / "empty.npy").touch()
    line = GOOD[:-1] + f', "anomaly_map": "{name}"}}'
    (tmp_path / "test.jsonl").write_text(f"{line}\n")
    with pytest.raises(RunError, match=rf"{name}: the anomaly map") as caught:
        list(read_predictions(tmp_path, "test"))
    assert "\n" not in str(caught.value)

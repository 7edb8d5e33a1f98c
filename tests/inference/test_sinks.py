"""New images: which are taken, under which name, and what is written of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.inference.sinks import image_samples, write_answers
from toolkit.prediction import Boxes, Prediction


def image_at(path: Path, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), grey, np.uint8))
    return path


def test_files_and_folders_in_order(tmp_path: Path) -> None:
    single = image_at(tmp_path / "z.png")
    inside = [image_at(tmp_path / f"folder/{n}") for n in ("a.jpg", "b.PNG", "deep/c.bmp")]
    (tmp_path / "folder/notes.txt").write_text("no image")
    samples = image_samples([single, tmp_path / "folder"])
    assert [s.image for s in samples] == [single, *inside]
    assert [s.id for s in samples] == ["z", "a", "b", "c"]


def test_equal_names_in_two_folders_stay_apart(tmp_path: Path) -> None:
    for folder in ("good", "bad"):
        image_at(tmp_path / folder / "000.png")
    ids = [s.id for s in image_samples([tmp_path])]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "no such file or folder"),
        (lambda p: p.mkdir(), "no images there"),
        (lambda p: p.write_text("words"), "not a readable image"),
        (lambda p: p.write_bytes(b""), "not a readable image"),
    ],
)
def test_what_is_no_image(tmp_path: Path, make: object, said: str) -> None:
    make(tmp_path / "x.png")  # type: ignore[operator]
    with pytest.raises(DataError, match=said) as caught:
        image_samples([tmp_path / "x.png"])
    assert str(tmp_path / "x.png") in str(caught.value)


def test_a_cut_short_image_is_found_before_any_work(sample_dir: Path, tmp_path: Path) -> None:
    whole = next(sample_dir.rglob("*.png"))
    shutil.copyfile(whole, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"b\.png"):
        image_samples([tmp_path])


def test_three_of_one_name(tmp_path: Path) -> None:
    for folder in ("x/d", "y/d", "z/d"):
        image_at(tmp_path / folder / "1.png")
    with pytest.raises(DataError, match="has the name of"):
        image_samples([tmp_path])


def said_of(samples: Sequence[Sample], scores: Sequence[float]) -> Iterator[Prediction]:
    box = Boxes(np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), ("dent",))
    for sample, score in zip(samples, scores, strict=True):
        yield Prediction(score, sample_id=sample.id, boxes=box, class_probabilities={"good": 0.25})


@pytest.mark.parametrize(
    ("threshold", "wanted"), [(1.0, [False, True, True]), (None, [None, None, None])]
)
def test_answers(tmp_path: Path, threshold: float | None, wanted: list[bool | None]) -> None:
    images = [image_at(tmp_path / f"{n}.png") for n in "abc"]
    samples, out = image_samples(images), tmp_path / "out"
    answers = write_answers(
        samples, said_of(samples, [0.5, 1.0, 2.0]), out=out, threshold=threshold
    )
    assert [defective for _, _, defective in answers] == wanted
    records = json.loads((out / "predictions.json").read_text())
    assert [r["image"] for r in records] == [str(i) for i in images]
    assert [r["score"] for r in records] == [0.5, 1.0, 2.0]
    assert [r["defective"] for r in records] == wanted
    assert records[0]["boxes"] == [{"box_xyxy": [1, 2, 3, 4], "score": 0.5, "label": "dent"}]
    assert {f.name for f in out.iterdir()} == {"a.jpg", "b.jpg", "c.jpg", "predictions.json"}


def test_too_few_predictions_are_no_answers(tmp_path: Path) -> None:
    samples = image_samples([image_at(tmp_path / f"{n}.png") for n in "ab"])
    with pytest.raises(ValueError, match="shorter"):
        list(
            write_answers(samples, said_of(samples[:1], [1.0]), out=tmp_path / "out", threshold=1.0)
        )
    assert not (tmp_path / "out/predictions.json").exists()


def _boxes(*scores: float, label: str = "dent") -> Boxes:
    rows = [[3 * i, 2, 3 * i + 3, 12] for i in range(len(scores))]
    return Boxes(
        np.array(rows, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        (label,) * len(scores),
    )


@pytest.mark.parametrize(
    ("score", "scores", "threshold", "shown"),
    [
        (0.9, [0.9, 0.5, 0.1], 0.4, 2),  # from the run's threshold on
        (0.2, [0.2, 0.1], 0.15, 1),  # also where it is low: what is called a defect is shown
        (0.3, [0.3], 0.5, 0),  # good: nothing is listed
        (7.0, [0.9, 0.3, 0.1], 5.0, 2),  # the score is not that of a box: from 0.25 on
        (0.9, [0.9, 0.2], None, 1),  # no threshold
        (0.0, [], 0.4, 0),
    ],
)
def test_yolo_labels_list_the_boxes_that_are_drawn(
    score: float, scores: list[float], threshold: float | None, shown: int, tmp_path: Path
) -> None:
    samples = image_samples([image_at(tmp_path / "a.png")])
    answer = Prediction(score, sample_id="a", boxes=_boxes(*scores))
    out = tmp_path / "out"
    list(
        write_answers(
            samples, iter([answer]), out=out, threshold=threshold, classes=["chip", "dent"]
        )
    )
    rows = (out / "labels/a.txt").read_text().splitlines()
    assert len(rows) == shown
    assert (out / "labels/classes.txt").read_text() == "chip\ndent\n"
    if shown:  # the image is 30 by 20
        label, *numbers = rows[0].split()
        assert label == "1"
        expected = [1.5 / 30, 7 / 20, 3 / 30, 10 / 20, scores[0]]
        np.testing.assert_allclose([float(n) for n in numbers], expected, atol=1e-6)


def test_without_boxes_or_classes_there_are_no_labels(tmp_path: Path) -> None:
    samples = image_samples([image_at(tmp_path / "a.png")])
    for name, boxes, classes in (("x", None, ["dent"]), ("y", _boxes(0.9), [])):
        answer = Prediction(0.9, sample_id="a", boxes=boxes)
        list(
            write_answers(
                samples, iter([answer]), out=tmp_path / name, threshold=0.5, classes=classes
            )
        )
        assert not (tmp_path / name / "labels").exists()

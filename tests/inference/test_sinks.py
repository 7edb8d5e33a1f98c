"""What is written for each result: plots, JSON Lines and YOLO labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from toolkit.files import OutputError
from toolkit.inference.result import Result
from toolkit.inference.sinks import PREDICTIONS, ResultWriter
from toolkit.prediction import Boxes, Prediction

IMAGE = np.full((20, 30, 3), 90, np.uint8)


def boxes(*scores: float, label: str = "dent") -> Boxes:
    rows = [[3 * i, 2, 3 * i + 3, 12] for i in range(len(scores))]
    return Boxes(
        np.array(rows, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        (label,) * len(scores),
    )


def result(
    score: float, *, name: str = "a.png", threshold: float | None = 1.0, found: Boxes | None = None
) -> Result:
    prediction = Prediction(score, boxes=found, class_probabilities={"good": 0.25})
    return Result(prediction, IMAGE, threshold, name=name)


def write(results: Iterable[Result], out: Path, classes: Sequence[str] = ()) -> None:
    with ResultWriter(out, classes=classes) as writer:
        for one in results:
            writer.add_line(writer.add_files(one, writer.free_name(one.name)))


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / PREDICTIONS).read_text().splitlines()]


@pytest.mark.parametrize(
    ("threshold", "wanted"), [(1.0, [False, True, True]), (None, [None, None, None])]
)
def test_one_plot_and_one_line_per_result(
    tmp_path: Path, threshold: float | None, wanted: list[bool | None]
) -> None:
    made = [
        result(score, name=f"{name}.png", threshold=threshold, found=boxes(0.5))
        for name, score in zip("abc", [0.5, 1.0, 2.0], strict=True)
    ]
    write(made, tmp_path)
    assert [r["image"] for r in records(tmp_path)] == ["a.png", "b.png", "c.png"]
    assert [r["score"] for r in records(tmp_path)] == [0.5, 1.0, 2.0]
    assert [r["is_defect"] for r in records(tmp_path)] == wanted
    assert records(tmp_path)[0]["boxes"] == [
        {"box_xyxy": [0, 2, 3, 12], "score": 0.5, "label": "dent"}
    ]
    assert {f.name for f in tmp_path.iterdir()} == {"a.jpg", "b.jpg", "c.jpg", PREDICTIONS}


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    names = ["a.png", "deep/a.png", "a.jpg", "a.png"]
    write([result(1, name=name) for name in names], tmp_path)
    plots = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*.jpg")}
    assert plots == {"a.jpg", "deep/a.jpg", "a-2.jpg", "a-3.jpg"}
    assert len(records(tmp_path)) == 4


def test_lines_are_written_as_the_results_come(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    writer.add_line(writer.add_files(result(1.0), "a"))
    assert len(records(tmp_path)) == 1  # before the writer is closed
    writer.add_line(writer.add_files(result(2.0), "b"))
    assert [r["score"] for r in records(tmp_path)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("score", "scores", "threshold", "drawn"),
    [
        (0.9, [0.9, 0.5, 0.1], 0.4, 2),  # from the run's threshold on
        (0.2, [0.2, 0.1], 0.15, 1),  # also where it is low: a defective image shows why
        (0.3, [0.3], 0.5, 0),  # good: nothing is listed
        (7.0, [0.9, 0.3, 0.1], 5.0, 2),  # the score is not that of a box: from 0.25 on
        (0.9, [0.9, 0.2], None, 1),  # no threshold
        (0.0, [], 0.4, 0),
    ],
)
def test_yolo_labels_list_the_boxes_that_are_drawn(
    score: float, scores: Sequence[float], threshold: float | None, drawn: int, tmp_path: Path
) -> None:
    made = result(score, threshold=threshold, found=boxes(*scores))
    write([made], tmp_path, classes=["chip", "dent"])
    rows = (tmp_path / "labels/a.txt").read_text().splitlines()
    assert len(rows) == drawn
    assert (tmp_path / "labels/classes.txt").read_text() == "chip\ndent\n"
    if drawn:  # the image is 30 by 20
        label, *numbers = rows[0].split()
        assert label == "1"
        expected = [1.5 / 30, 7 / 20, 3 / 30, 10 / 20, scores[0]]
        np.testing.assert_allclose([float(n) for n in numbers], expected, atol=1e-6)


@pytest.mark.parametrize(("found", "classes"), [(None, ["dent"]), (boxes(0.9), [])])
def test_without_boxes_or_classes_there_are_no_labels(
    found: Boxes | None, classes: Sequence[str], tmp_path: Path
) -> None:
    write([result(0.9, found=found)], tmp_path, classes=classes)
    assert not (tmp_path / "labels").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write([result(1.0)], tmp_path / "file")

import json
import subprocess
import sys

import numpy as np
import pytest

from toolkit.errors import ToolkitError
from toolkit.metrics import MetricError, Undefined, image_metrics, to_json, value_from_json
from toolkit.metrics.values import mean_of


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        # a plain number stays a number
        (0.5, "0.5"),
        # numpy scalars are no reason to fail
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        # an undefined metric is null with its reason, never 0 or NaN
        (Undefined("no good images"), '{"value": null, "reason": "no good images"}'),
        # mappings are sorted by key, whatever the order in which they were filled
        ({"b": 1.0, "a": 2.0}, '{"a": 2.0, "b": 1.0}'),
        # nested tuples are arrays
        (((1, 2), (3, 4)), "[[1, 2], [3, 4]]"),
        (np.array([[1, 2]]), "[[1, 2]]"),
        # flags and text pass
        ([True, None, "x"], '[true, null, "x"]'),
    ],
)
def test_json_form(metric, text):
    assert json.dumps(to_json(metric)) == text


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), np.float64("nan"), object()])
def test_json_refuses_what_is_no_metric(metric):
    with pytest.raises(MetricError):
        to_json({"x": [metric]})


@pytest.mark.parametrize("value", [0.25, 1.0, Undefined("no defect images")])
def test_value_survives_the_round_trip(value):
    assert value_from_json(json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize("stored", [None, "0.5", True, float("nan"), {"value": 0.5}, []])
def test_value_from_json_refuses(stored):
    with pytest.raises(MetricError):
        value_from_json(stored)


def test_equal_metrics_give_equal_bytes():
    scores, truth, types = [0.1, 0.9, 0.8], [False, True, True], ["good", "scratch", "dent"]
    once = image_metrics(scores, truth, threshold=0.5, defect_types=types)
    again = image_metrics(scores[::-1], truth[::-1], threshold=0.5, defect_types=types[::-1])
    assert json.dumps(to_json(once)) == json.dumps(to_json(again))


def test_mean_leaves_undefined_out():
    assert mean_of([1.0, Undefined("x"), 0.0], reason="none") == 0.5
    assert mean_of([Undefined("x")], reason="none") == Undefined("none")


def test_metric_error_is_the_users():
    assert issubclass(MetricError, ToolkitError)


def test_import_is_light():
    heavy = {"torch", "sklearn", "pycocotools", "cv2", "scipy"}
    code = f"import sys, toolkit.metrics; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

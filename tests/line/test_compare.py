"""May a new model take over? Counts on the frozen set, and every defect of the feedback."""

from __future__ import annotations

import pytest

from toolkit.line.compare import Comparison


@pytest.mark.parametrize(
    ("overkill", "escapes", "forgotten", "accepted"),
    [
        ((5, 3), (4, 4), (), True),
        ((5, 5), (4, 2), (), True),
        ((5, 6), (4, 2), (), False),
        ((5, 3), (4, 5), (), False),
        ((5, 3), (4, 2), ("defect/a.png",), False),
    ],
)
def test_a_model_is_accepted_if_nothing_grew_and_no_feedback_is_forgotten(
    overkill: tuple[int, int], escapes: tuple[int, int], forgotten: tuple[str, ...], accepted: bool
) -> None:
    lost = ("nok/b.png", *forgotten)
    found = Comparison(20, 20, overkill, escapes, lost, forgotten, raised=False)
    assert found.accepted is accepted
    assert "lost: nok/b.png" in found.text()

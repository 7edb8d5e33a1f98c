"""The decoder in inference engines answers as it does in torch, and says by how much it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.data.layouts import load_dataset
from toolkit.inference.engine_files import open_engine, write_network
from toolkit.methods.sam.decoder_graph import decoder_graph
from toolkit.methods.sam.engine_decoder import predicted_ious
from toolkit.methods.sam.model import copy_decoder
from toolkit.methods.sam.prompts import with_click
from toolkit.methods.sam.tta import Decoders, TTAConfig, View, predict_masks, refine
from toolkit.runtime.prompts import Prompt, box_prompt, click_prompt
from toolkit.runtime.segmentation import POINTS

pytestmark = pytest.mark.slow
SIZE = (300, 200)
PROMPTS = [box_prompt((20, 30, 90, 80)), click_prompt(150, 60), box_prompt((0, 0, 300, 200))]


@pytest.fixture(scope="module")
def network(small_sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "model.onnx"
    write_network(decoder_graph(small_sam), path, "the decoder")
    return path


def _embedding_of(view: View) -> torch.Tensor:
    return torch.randn(256, 64, 64, generator=torch.manual_seed(view.number)).half()


class _Counted:
    """An engine that counts its calls and their prompts."""

    def __init__(self, path: Path, name: str) -> None:
        self._run, self.prompts = open_engine(path, name), []

    def __call__(self, *inputs: np.ndarray) -> Any:
        self.prompts.append(len(inputs[1]))
        return self._run(*inputs)


@pytest.mark.parametrize("engine", ["openvino float32", "onnxruntime float32"])
@pytest.mark.parametrize(
    ("prompts", "views", "calls"),
    [(PROMPTS[:1], 1, [1]), (PROMPTS, 2, [3, 3]), (6 * PROMPTS, 1, [16, 2])],
)
def test_engines_decode_as_torch(
    small_sam, network: Path, engine: str, prompts: list[Prompt], views: int, calls: list[int]
) -> None:
    counted, tta = _Counted(network, engine), TTAConfig(views)
    decoders = Decoders(small_sam, engines={"tuned": counted})
    found = predict_masks(decoders, _embedding_of, prompts, SIZE, tta)
    wanted = predict_masks(Decoders(small_sam), _embedding_of, prompts, SIZE, tta)
    assert counted.prompts == calls  # of a view together, and not more than the memory allows
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.mean_iou_prediction() == pytest.approx(theirs.mean_iou_prediction(), abs=0.01)
        assert list(ours.answers) == list(theirs.answers)
        for view, answer in ours.answers.items():
            logits = theirs.answers[view].logits
            # torch decodes in bfloat16 where the processor has it
            assert float((answer.logits - logits).norm() / logits.norm()) < 0.02


def test_each_decoder_has_an_engine_of_its_own(small_sam, network: Path) -> None:
    tuned, untrained = (_Counted(network, "openvino float32") for _ in range(2))
    decoders = Decoders(
        small_sam, copy_decoder(small_sam), {"box": {"large": "zero_shot"}},
        {"tuned": tuned, "zero_shot": untrained},
    )  # fmt: skip
    predict_masks(decoders, _embedding_of, PROMPTS, SIZE)
    assert (tuned.prompts, untrained.prompts) == ([1], [2])


def test_a_further_click_is_decoded_in_torch(small_sam, network: Path) -> None:
    engine = _Counted(network, "openvino float32")
    decoders = Decoders(small_sam, engines={"tuned": engine})
    (first,) = predict_masks(decoders, _embedding_of, [PROMPTS[1]], SIZE)
    more = with_click(PROMPTS[1], 10, 20, positive=False)
    assert len(more.labels) > POINTS
    assert refine(_embedding_of, more, SIZE, first).mask().shape == SIZE[::-1]
    assert engine.prompts == [1]


def test_other_weights_have_another_key(small_sam) -> None:
    other = copy_decoder(small_sam)
    assert _key(other) == _key(small_sam)
    with torch.no_grad():
        other.mask_decoder.mask_tokens.weight[0, 0] += 1e-3
    assert _key(other) != _key(small_sam)


def _key(sam) -> str:
    shared = decoder_graph(sam).shared
    assert shared is not None
    return shared.key


def _outputs(sam, samples) -> tuple[Any, list[list[np.ndarray]]]:
    graph = decoder_graph(sam, lambda: samples)
    assert graph.shared is not None
    with torch.no_grad():
        return graph.shared, [
            [one.numpy() for one in graph.module(*map(torch.from_numpy, inputs))]
            for inputs in graph.shared.inputs()
        ]


def test_what_an_engine_loses_is_in_masks_or_in_predicted_ious(small_sam, sample_dir: Path) -> None:
    defects = [s for s in load_dataset(sample_dir).samples if s.is_defect]
    shared, wanted = _outputs(small_sam, defects)
    assert len(wanted) == 4
    assert shared.distance(wanted, wanted) == 0
    empty = [[tokens, np.full_like(logits, -9)] for tokens, logits in wanted]
    full = [[tokens, np.full_like(logits, 9)] for tokens, logits in wanted]
    assert shared.distance(empty, full) > shared.tolerance
    assert shared.distance(full, empty) == 0  # better masks lose nothing
    moved = [[tokens + 1, logits] for tokens, logits in wanted]
    apart = [
        np.abs(predicted_ious(small_sam, one + 1) - predicted_ious(small_sam, one)).mean()
        for one, _ in wanted
    ]
    assert shared.distance(moved, wanted) == pytest.approx(np.mean(apart), abs=1e-6)


def test_without_samples_the_distance_is_that_of_masks(small_sam) -> None:
    shared, wanted = _outputs(small_sam, [])
    assert len(wanted) == 2
    assert shared.distance(wanted, wanted) == 0
    turned = [[tokens, -logits] for tokens, logits in wanted]
    assert shared.distance(turned, wanted) == pytest.approx(1.0, abs=0.01)

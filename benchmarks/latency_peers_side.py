"""One tool for `latency_peers.py`: reads names of files, answers with the seconds of each.

python latency_peers_side.py toolkit|anomalib|ultralytics '{"run": …}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = tuple[dict[str, Any], Callable[[str], object]]


def open_toolkit(run: str) -> Answer:
    """Return what our model is, and what predicts a file."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import toolkit

    model = toolkit.load_model(run)
    return {"engine": model.engine}, model.predict


def open_anomalib(folder: str, size: int, patches: int) -> Answer:
    """Export anomalib's PatchCore with a bank of random patches; return what predicts a file."""
    os.chdir(folder)  # it leaves files where it runs
    import cv2
    import torch
    from anomalib.data.utils import read_image
    from anomalib.deploy import OpenVINOInferencer
    from anomalib.models import Patchcore

    model = Patchcore(
        backbone="tf_efficientnet_lite0", layers=("blocks.2", "blocks.4"), pre_trained=False,
        pre_processor=Patchcore.configure_pre_processor(image_size=(size, size)),
    )  # fmt: skip
    model.model.eval()
    model.model.memory_bank = torch.empty(0)
    model.model.train()
    with torch.no_grad():
        model.model(torch.rand(1, 3, size, size))
    (embedded,) = model.model.embedding_store
    bank = torch.rand(patches, embedded.shape[1])
    model.model.memory_bank = bank
    model.model.eval()
    # Its own export takes two images, whatever it is given; torch's older exporter takes one.
    path = Path(folder) / "anomalib.onnx"
    torch.onnx.export(
        model,
        (torch.rand(1, 3, size, size),),
        path,
        dynamo=False,
        input_names=["input"],
        output_names=["pred_score", "pred_label", "anomaly_map", "pred_mask"],
    )
    inferencer = OpenVINOInferencer(path, device="CPU")
    about = {"patches": list(bank.shape), "cells": embedded.shape[0]}

    def predict(file: str) -> object:
        return inferencer.predict(cv2.resize(read_image(file), (size, size)))

    return about, predict


def open_ultralytics(folder: str, size: int, weights: str) -> Answer:
    """Export Ultralytics' network to OpenVINO, and return what predicts a file."""
    os.chdir(folder)  # it leaves files where it runs
    import shutil

    from ultralytics import YOLO

    copy = shutil.copy(weights, folder)
    path = YOLO(copy).export(format="openvino", imgsz=size)
    model = YOLO(path, task="detect")
    return {"size": size}, lambda file: model.predict(file, imgsz=size, verbose=False)


OPENED: dict[str, Callable[..., Answer]] = {
    "toolkit": open_toolkit,
    "anomalib": open_anomalib,
    "ultralytics": open_ultralytics,
}


def main() -> None:
    """Open the tool, then answer until the input ends."""
    about, predict = OPENED[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"tool": sys.argv[1], **about}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        predict(line.strip())
        seconds = time.perf_counter() - started
        print(json.dumps({"tool": sys.argv[1], "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()

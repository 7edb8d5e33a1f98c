"""Anomalib's PatchCore on a folder in MVTec's layout; run by the Python that has anomalib.

    python anomalib_side.py '{"root": …, "category": …}' OUT.npz

Fits and predicts with anomalib's own data module, preprocessing and model, without its trainer,
metrics and pictures, which would only cost time. Raw scores and maps go to OUT.npz, in the order of
`names`; prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from anomalib.data import MVTecAD
from anomalib.models import Patchcore
from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy
from torchvision.transforms.v2 import Compose, Normalize, Resize

_ORIGINAL = timm.create_model


def give_weights(state: str) -> None:
    """Let timm build networks with these weights; random ones without a file."""

    def create(name: str, pretrained: bool = False, **words: object) -> torch.nn.Module:
        network = _ORIGINAL(name, pretrained=False, **words)
        if state:
            tensors = torch.load(state, weights_only=True)
            missing = network.load_state_dict(tensors, strict=False).missing_keys
            assert not missing, missing
        return network

    timm.create_model = create


def time_choices(noted: dict[str, float]) -> None:
    """Note how long the coreset's choices take."""
    choose = KCenterGreedy.select_coreset_idxs

    def timed(self: KCenterGreedy) -> list[int]:
        started = time.perf_counter()
        chosen = choose(self)
        seconds = time.perf_counter() - started
        noted.update(
            patches=self.n_observations,
            dimensions=self.features.shape[1],
            chosen=len(chosen),
            seconds_per_choice=seconds / len(chosen),
        )
        return chosen

    KCenterGreedy.select_coreset_idxs = timed


def peak_memory_mb() -> float:
    """Return the peak of this program alone; what was before it in the process does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 1024


def main() -> None:
    """Fit, predict, print."""
    options = json.loads(sys.argv[1])
    libraries = peak_memory_mb()
    torch.set_num_threads(options["threads"])
    give_weights(options["state"])
    coreset: dict[str, float] = {}
    time_choices(coreset)
    size = (options["image_size"], options["image_size"])
    data = MVTecAD(
        root=options["root"], category=options["category"], augmentations=Resize(size),
        train_batch_size=8, eval_batch_size=1, num_workers=0,
    )  # fmt: skip
    data.setup()
    method = Patchcore(
        backbone=options["backbone"], layers=options["layers"], pre_trained=False,
        coreset_sampling_ratio=options["ratio"],
        pre_processor=Patchcore.configure_pre_processor(image_size=size),
    )  # fmt: skip
    prepare = Compose([Resize(size), Normalize(mean=options["mean"], std=options["std"])])

    started = time.perf_counter()
    method.model.train()
    method.model.feature_extractor.eval()
    for batch in data.train_dataloader():
        method.model(prepare(batch.image))
    embedded = time.perf_counter()
    method.fit()
    fitted = time.perf_counter()

    method.model.eval()
    names, scores, maps, seconds = [], [], [], []
    loader = iter(data.test_dataloader())
    for _ in range(len(data.test_data)):
        begun = time.perf_counter()
        with torch.inference_mode():
            batch = next(loader)
            output = method.model(prepare(batch.image))
        seconds.append(time.perf_counter() - begun)
        names.append(str(batch.image_path[0]))
        scores.append(float(output.pred_score[0]))
        maps.append(output.anomaly_map[0, 0].numpy())
    peak = peak_memory_mb()
    np.savez(sys.argv[2], names=names, scores=scores, maps=np.stack(maps))
    print(json.dumps({
        "train_images": len(data.train_data),
        "embed_seconds": embedded - started,
        "fit_seconds": fitted - started,
        "coreset": coreset,
        "predict_ms_median": 1000 * statistics.median(seconds[1:]),
        "peak_memory_mb": peak,
        "libraries_memory_mb": libraries,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

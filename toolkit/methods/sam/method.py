"""SAM as a method: the decoder learns from masks; in prediction another run or a grid prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Exported, Method, Predictor
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.size import note_parameters
from toolkit.runs.run import Run


class Sam(Method[SamSettings]):
    """Fine-tuned mask decoder, prompted by another run's boxes or peaks, or by a grid of points."""

    name = "sam"
    Settings = SamSettings
    labels = "mask"
    score_description = "predicted mask IoU (x box confidence, where boxes prompt)"
    inputs = ("prompt_run", "decoder_run")

    def fit(self, split: Split, run: Run) -> None:
        """Cache the embeddings, train the decoder, keep the epoch that validates best.

        With `decoder_run`, that run's decoder is taken and nothing is trained.
        """
        from toolkit.methods.sam.encoder import EmbeddingCache
        from toolkit.methods.sam.model import DECODER, ENCODER_KEY, save_decoder, start_model
        from toolkit.methods.sam.reuse_decoder import reuse_decoder
        from toolkit.methods.sam.targets import TrainingData, region_targets
        from toolkit.methods.sam.train import train
        from toolkit.methods.sam.tta import WHOLE

        if reuse_decoder(self.settings, run):
            return
        defects = [s for s in split.train if s.is_defect]
        if not defects:
            raise DataError(
                f"{split.dataset.root}: no defective training image, so SAM has nothing to learn "
                f"from under the protocol {split.protocol}; use supervised, or --epochs 0"
            )
        targets = region_targets(
            defects,
            augmentations=self.settings.augmentations,
            crops_per_region=self.settings.crops_per_region,
            crop_scale=self.settings.crop_scale,
        )
        val = region_targets(split.val)
        sam = start_model(self.settings, run)
        note_parameters(run, sam)
        if self.settings.epochs == 0:
            save_decoder(sam, run.weights / DECODER)
            return
        rng = np.random.default_rng(run.seed)
        good = [s for s in split.train if not s.is_defect]
        good = [good[i] for i in rng.permutation(len(good))[: self.settings.negative_images]]
        cache = EmbeddingCache(sam, run.metadata[ENCODER_KEY])
        views = [(t.sample, t.view) for t in [*targets, *val]]
        cache.fill([*views, *((sample, WHOLE) for sample in good)])
        train(sam, cache, TrainingData(targets=targets, good=good, val=val), self.settings, run)

    def load(self, run: Run) -> Predictor:
        """Return the run's model with its prompter, ready to predict.

        Raises:
            WeightsError: the run's weights are missing, damaged or of another network.
        """
        from toolkit.methods.registry import load_method
        from toolkit.methods.sam.model import fine_tuned_model
        from toolkit.methods.sam.predictor import SamPredictor

        other = run.input("prompt_run")
        prompter = None if other is None else load_method(other).load(other)
        return SamPredictor(fine_tuned_model(self.settings, run), self.settings, prompter)

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return the IoU under true prompts, zero-shot beside fine-tuned, per kind of prompt.

        Zero-shot is without test-time augmentation, as SAM is commonly used. With it, first prompts
        are also evaluated with only training or only augmentation, so that the gain of each shows.
        """
        from toolkit.methods.sam.encoder import EmbeddingCache
        from toolkit.methods.sam.evaluate import (
            FIRST_KINDS,
            KINDS,
            Evaluated,
            compare,
            evaluate_prompts,
        )
        from toolkit.methods.sam.model import (
            DECODER,
            ENCODER_KEY,
            copy_decoder,
            initial_model,
            load_decoder,
        )
        from toolkit.methods.sam.plots import plot_training, save_gallery
        from toolkit.methods.sam.predictor import tta_config
        from toolkit.methods.sam.reuse_decoder import reused_report
        from toolkit.methods.sam.targets import region_targets
        from toolkit.methods.sam.tta import tta_views
        from toolkit.progress import progress

        known = reused_report(self.settings, run)
        if known is not None:
            return known
        tta, threshold = tta_config(self.settings), self.settings.mask_threshold
        targets = region_targets(split.test)
        untrained = initial_model(self.settings, run)
        tuned = copy_decoder(untrained)
        load_decoder(tuned, run.weights / DECODER)
        cache = EmbeddingCache(untrained, run.metadata[ENCODER_KEY])
        cache.fill([(t.sample, view) for t in targets for view in tta_views(tta.views)])
        models: dict[str, tuple[Evaluated, tuple[str, ...]]] = {
            "zero_shot": (Evaluated(untrained), KINDS),
            "tuned": (Evaluated(tuned, tta, threshold), KINDS),
        }
        if self.settings.tta:
            models["zero_shot_tta"] = (Evaluated(untrained, tta, threshold), FIRST_KINDS)
            models["finetuned_no_tta"] = (Evaluated(tuned, threshold=threshold), FIRST_KINDS)
        with progress("evaluate true prompts", len(models) * len(targets)) as bar:
            results = {
                name: evaluate_prompts(model, cache, targets, kinds, bar)
                for name, (model, kinds) in models.items()
            }
        plot_training(run.results(), run.plots / "training.png")
        for kind in ("box", "1-click"):
            save_gallery(
                models["zero_shot"][0], models["tuned"][0], cache, targets,
                [r.iou for r in results["tuned"][kind]],
                kind=kind, path=run.plots / f"gallery-{kind}.png",
            )  # fmt: skip
        prompted = {}
        for kind in KINDS:
            prompted[kind] = compare(results["zero_shot"][kind], results["tuned"][kind])
            for name in results.keys() - {"zero_shot", "tuned"}:
                if kind in FIRST_KINDS:
                    ious = [r.iou for r in results[name][kind]]
                    prompted[kind][f"iou_{name}"] = float(np.mean(ious))
        regions = {
            name: [asdict(r) for rows in by_kind.values() for r in rows]
            for name, by_kind in results.items()
        }
        return {"prompted": prompted, "regions": regions}

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write whole and decoder-only checkpoints, and the decoder in Meta's ONNX interface."""
        from toolkit.methods.sam.export import export_sam
        from toolkit.methods.sam.model import fine_tuned_model

        sam = fine_tuned_model(self.settings, run).cpu()
        return export_sam(sam, self.settings.model, out, samples)

"""SAM as a method: the decoder learns from masks; in prediction another run or a grid prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError, ToolkitError
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

        Per kind of prompt and size of region, the decoder before training answers where it
        validates better; the metadata say so. With `decoder_run`, that run's decoders are taken
        and nothing is trained.
        """
        from toolkit.methods.sam.data_parallel import training_processes
        from toolkit.methods.sam.embeddings import training_cache
        from toolkit.methods.sam.evaluate import Evaluated, choose_decoders, evaluate_prompts
        from toolkit.methods.sam.model import (
            DECODER,
            DECODERS,
            ENCODER_ENGINE,
            ENCODER_KEY,
            copy_decoder,
            reuse_decoder,
            save_decoder,
            start_model,
        )
        from toolkit.methods.sam.predictor import tta_config
        from toolkit.methods.sam.targets import TrainingData, region_targets
        from toolkit.methods.sam.train import HelpTrain, train
        from toolkit.methods.sam.tta import WHOLE, Decoders
        from toolkit.progress import progress

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
            about=self.settings.samples_per_epoch,
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
        cache = training_cache(sam, run.metadata[ENCODER_KEY], defects)
        run.update_metadata(**{ENCODER_ENGINE: cache.engine})
        views = [(t.sample, t.view) for t in [*targets, *val]]
        views += [(sample, WHOLE) for sample in good]
        untrained = copy_decoder(sam)
        data = TrainingData(targets=targets, good=good, val=val)
        help_train = HelpTrain(self.settings, run.path, data, tuple(views))
        count = self.settings.processes
        with training_processes(count, help_train, device=run.device) as shards:
            cache.fill(shards.own_part(views))
            train(sam, cache, data, self.settings, run, shards)
        tta, threshold = tta_config(self.settings), self.settings.mask_threshold
        with progress("choose decoders", 2 * len(val)) as bar:
            before, after = (
                evaluate_prompts(
                    Evaluated(Decoders(one), tta, threshold), cache, val, ("box", "1-click"), bar
                )
                for one in (untrained, sam)
            )
        chosen = choose_decoders(before, after, tta.crop_below)
        run.update_metadata(**{DECODERS: chosen})
        for kind, sizes in chosen.items():
            answers = ", ".join(f"{size}: {one['decoder']}" for size, one in sizes.items())
            run.log(f"decoder for a {kind}, by the validation part: {answers}")

    def load(self, run: Run) -> Predictor:
        """Return the run's model with its prompter, ready to predict.

        While a run is made, its encodings are stored for other prompters of the same images.

        Raises:
            WeightsError: the run's weights are missing, damaged or of another network.
        """
        from toolkit.methods.registry import load_method
        from toolkit.methods.sam.embeddings import EmbeddingCache
        from toolkit.methods.sam.model import ENCODER_KEY, chosen_decoders
        from toolkit.methods.sam.predictor import SamPredictor

        other = run.input("prompt_run")
        prompter = None if other is None else load_method(other).load(other)
        decoders, digest = chosen_decoders(self.settings, run), run.metadata[ENCODER_KEY]
        store = None if run.finished else EmbeddingCache(decoders.tuned, digest)
        return SamPredictor(
            decoders, self.settings, digest, prompter, store, partial(_validation_defects, run)
        )

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return the IoU under true prompts, per kind of prompt, before and after the training.

        Zero-shot is SAM as it is commonly used: the whole image, once. `tuned` is what the run
        answers. First prompts are also answered without the choice between both decoders, without
        crops, and by the decoder before training with crops, so that the gain of each shows.
        `images` are IoUs of whole masks: all true boxes of an image joined, and the prompter's.
        """
        from toolkit.methods.sam.embeddings import EmbeddingCache, training_cache
        from toolkit.methods.sam.evaluate import (
            FIRST_KINDS,
            KINDS,
            Evaluated,
            compare,
            evaluate_prompts,
            joined_iou,
            stored_iou,
        )
        from toolkit.methods.sam.model import (
            DECODERS,
            ENCODER_ENGINE,
            ENCODER_KEY,
            chosen_decoders,
            initial_model,
            reused_report,
        )
        from toolkit.methods.sam.plots import plot_training, save_gallery
        from toolkit.methods.sam.predictor import tta_config
        from toolkit.methods.sam.targets import region_targets
        from toolkit.methods.sam.tta import Decoders, tta_views
        from toolkit.progress import progress

        targets = region_targets(split.test)
        known = reused_report(self.settings, run)
        if known is not None:
            return {**known, "images": {**known["images"], "prompter": stored_iou(run, targets)}}
        tta, threshold = tta_config(self.settings), self.settings.mask_threshold
        untrained, chosen = initial_model(self.settings, run), chosen_decoders(self.settings, run)
        digest = run.metadata[ENCODER_KEY]
        if ENCODER_ENGINE in run.metadata:
            cache = training_cache(untrained, digest, split.train)
        else:  # nothing was trained, so that few images do not pay for an engine's files
            cache = EmbeddingCache(untrained, digest)
        cache.fill([(t.sample, view) for t in targets for view in tta_views(tta.views)])
        models: dict[str, tuple[Evaluated, tuple[str, ...]]] = {
            "zero_shot": (Evaluated(Decoders(untrained)), KINDS),
            "tuned": (Evaluated(chosen, tta, threshold), KINDS),
            "without_choice": (Evaluated(Decoders(chosen.tuned), tta, threshold), FIRST_KINDS),
            "without_crops": (Evaluated(chosen, threshold=threshold), FIRST_KINDS),
            "zero_shot_with_crops": (Evaluated(Decoders(untrained), tta, threshold), FIRST_KINDS),
        }
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
        decoders = run.metadata.get(DECODERS, {})
        images = {
            "true_boxes_zero_shot": joined_iou(models["zero_shot"][0], cache, targets),
            "true_boxes": joined_iou(models["tuned"][0], cache, targets),
            "prompter": stored_iou(run, targets),
        }
        return {"prompted": prompted, "images": images, "regions": regions, "decoders": decoders}

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write whole and decoder-only checkpoints, and the decoder in Meta's ONNX interface."""
        from toolkit.methods.sam.export import export_sam
        from toolkit.methods.sam.model import fine_tuned_model

        sam = fine_tuned_model(self.settings, run).cpu()
        return export_sam(sam, self.settings.model, out, samples)


def _validation_defects(run: Run) -> list[Sample]:
    """Return defective validation samples of a run; none where its data are out of reach."""
    from toolkit.data.layouts import load_dataset
    from toolkit.runs.prediction_io import read_predictions

    try:
        by_id = load_dataset(Path(run.record["data"]["root"])).by_id
        ids = [one.sample_id for one in read_predictions(run.predictions, "val")]
        return [by_id[name] for name in ids if by_id[name].is_defect]
    except (ToolkitError, OSError, KeyError):
        return []

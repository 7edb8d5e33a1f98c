"""SAM as a method: the decoder learns from masks; at test time others say where to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.images import image_size, read_rgb
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.base import Exported, Method
from toolkit.methods.sam.prompts import Prompt, box_prompt, click_prompt
from toolkit.methods.sam.settings import SamSettings
from toolkit.methods.size import note_parameters
from toolkit.prediction import Prediction
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam as SamModel

    from toolkit.methods.sam.embeddings import EmbeddingCache
    from toolkit.methods.sam.looks import Looks


class Sam(Method[SamSettings]):
    """Fine-tuned mask decoder, prompted by another run's boxes or by a grid of points.

    An image's score is the best predicted quality (IoU) of any mask, times the confidence of the
    box that prompted it where another run prompts.
    """

    name = "sam"
    Settings = SamSettings
    labels = "mask"
    score_description = "predicted mask quality (x box confidence, where boxes prompt)"
    inputs = ("prompt_run", "decoder_run")

    def fit(self, split: Split, run: Run) -> None:
        """Cache the embeddings, train the decoder, keep the epoch that validates best.

        Where `decoder_run` is given, that run's decoder is taken and nothing is trained.
        """
        from toolkit.methods.sam.borrow import borrow_decoder
        from toolkit.methods.sam.embeddings import EmbeddingCache
        from toolkit.methods.sam.frames import WHOLE
        from toolkit.methods.sam.lora import add_lora
        from toolkit.methods.sam.model import load_sam, save_tuned
        from toolkit.methods.sam.targets import closer_targets, region_targets
        from toolkit.methods.sam.train import BEST, Material, train

        if borrow_decoder(self.settings, run, BEST):
            return
        defects = [s for s in split.train if s.is_defect]
        if not defects:
            raise DataError(
                f"{split.dataset.root}: no defective training image, so SAM has nothing to learn "
                f"from under the protocol {split.protocol}; use supervised, or --epochs 0"
            )
        zoom = self.settings.zoom
        targets = region_targets(
            defects, views=self.settings.views, windows=self.settings.windows, zoom=zoom
        )
        val = [*region_targets(split.val), *closer_targets(split.val, zoom=zoom)]
        sam = load_sam(self.settings, run)
        note_parameters(run, sam)
        if self.settings.epochs == 0:
            save_tuned(sam, run.weights / BEST)
            return
        cache = EmbeddingCache(sam)
        rng = np.random.default_rng(run.seed)
        good = [s for s in split.train if not s.is_defect]
        good = [good[i] for i in rng.permutation(len(good))[: self.settings.negatives]]
        if self.settings.train == "lora":
            add_lora(sam)
        else:
            wanted = [(t.sample, t.frame) for t in [*targets, *val]]
            cache.fill([*wanted, *((sample, WHOLE) for sample in good)])
        train(sam, cache, Material(targets=targets, good=good, val=val), self.settings, run)
        _say_rebuilt(cache, run)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Encode each image anew, answer every prompt, join the masks that score well."""
        from toolkit.methods.sam.answers import answer_grid, answer_prompts
        from toolkit.methods.sam.embeddings import ImageEmbeddings
        from toolkit.methods.sam.fused import for_encoding

        tuned, looks = self.looking(run)
        sam = for_encoding(tuned)
        for sample, (prompts, confidence) in zip(samples, self._prompts(samples, run), strict=True):
            image = read_rgb(sample.image)
            size_wh = (image.shape[1], image.shape[0])
            shown = ImageEmbeddings(sam, image)
            if prompts is None:
                grid = grid_prompts(size_wh, self.settings.grid)
                masks, scores = answer_grid(sam, shown, grid, size_wh)
            elif not prompts:
                empty = np.zeros(image.shape[:2], np.bool_)
                yield Prediction(0.0, sample_id=sample.id, mask=empty)
                continue
            else:
                masks, quality = answer_prompts(
                    sam, shown, prompts, size_wh, looks, limit=self.settings.window_limit
                )
                scores = quality * confidence
            chosen = scores >= self.settings.keep * scores.max()
            yield Prediction(
                float(scores.max()), sample_id=sample.id, mask=masks[chosen].any(axis=0)
            )

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """IoU under true prompts, zero-shot beside fine-tuned, per kind of prompt.

        Zero-shot is one plain look, as SAM is commonly used. So that it can be seen what training
        gave and what looking closer gave, first prompts are answered with only one of them too.
        """
        from toolkit.methods.sam.borrow import borrowed_report
        from toolkit.methods.sam.compare import compare
        from toolkit.methods.sam.embeddings import EmbeddingCache, LiveEmbeddings
        from toolkit.methods.sam.evaluate import FIRST_KINDS, KINDS, prompted
        from toolkit.methods.sam.frames import frames_of
        from toolkit.methods.sam.looks import PLAIN
        from toolkit.methods.sam.model import load_sam
        from toolkit.methods.sam.pictures import plot_training, save_gallery
        from toolkit.methods.sam.targets import region_targets

        known = borrowed_report(self.settings, run)
        if known is not None:
            return known
        targets = region_targets(split.test)
        untouched = load_sam(self.settings, run)
        cache = EmbeddingCache(untouched)
        tuned, looks = self.looking(run)
        cache.fill([(t.sample, frame) for t in targets for frame in frames_of(looks.views)])
        adapted = LiveEmbeddings(tuned) if self.settings.train == "lora" else cache
        ways = {
            "zero_shot": (untouched, cache, KINDS, PLAIN),
            "zero_shot_tta": (untouched, cache, FIRST_KINDS, replace(looks, untouched=None)),
            "finetuned_no_tta": (tuned, adapted, FIRST_KINDS, PLAIN),
            "tuned": (tuned, adapted, KINDS, looks),
        }
        answered = {
            name: prompted(sam, source, targets, kinds, how)
            for name, (sam, source, kinds, how) in ways.items()
        }
        plot_training(run.results(), run.plots / "training.png")
        for kind in ("box", "1-click"):
            save_gallery(
                (untouched, cache, PLAIN), (tuned, adapted, looks), targets,
                [r.iou for r in answered["tuned"][kind]],
                kind=kind, path=run.plots / f"gallery-{kind}.png",
            )  # fmt: skip
        _say_rebuilt(cache, run)
        return {
            "prompted": {
                kind: compare(answered["zero_shot"][kind], answered["tuned"][kind])
                | {
                    f"iou_{name}": float(np.mean([r.iou for r in answered[name][kind]]))
                    for name in ("zero_shot_tta", "finetuned_no_tta")
                    if kind in FIRST_KINDS
                }
                for kind in KINDS
            },
            "regions": {
                name: [asdict(r) for results in by_kind.values() for r in results]
                for name, by_kind in answered.items()
            },
        }

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write whole and decoder-only checkpoints, and the decoder in Meta's ONNX interface."""
        from toolkit.methods.sam.export import export_sam

        tuned, _ = self.looking(run)
        return export_sam(tuned.cpu(), self.settings.model, out, samples)

    def looking(self, run: Run) -> tuple[SamModel, Looks]:
        """Return the tuned model and how it is asked."""
        from toolkit.methods.sam.looks import Looks
        from toolkit.methods.sam.model import copy_decoder, load_sam, load_tuned
        from toolkit.methods.sam.train import BEST

        tuned = load_sam(self.settings, run)
        untouched = copy_decoder(tuned)
        load_tuned(tuned, run.weights / BEST)
        # An adapted encoder's embeddings are not those that the untouched decoder knows.
        shared = self.settings.small == "untouched" and self.settings.train != "lora"
        return tuned, Looks(
            views=self.settings.looks,
            closer=self.settings.closer if self.settings.zoom > 0 else 0,
            zoom=self.settings.zoom,
            threshold=self.settings.threshold,
            smooth=self.settings.smooth,
            untouched=untouched if shared else None,
        )

    def _prompts(
        self, samples: Sequence[Sample], run: Run
    ) -> Iterator[tuple[list[Prompt] | None, NDArray[np.float32]]]:
        """Yield the prompts of each image with their confidences; None where the grid serves."""
        from toolkit.methods.registry import load_method

        other = run.input("prompt_run")
        if other is None:
            for _ in samples:
                yield None, np.zeros(0, np.float32)
            return
        prompter = load_method(other).load(other)
        for sample in samples:
            (prediction,) = prompter.predict([read_rgb(sample.image)])
            width, height, _ = image_size(sample.image)
            yield prompts_of(prediction, settings=self.settings, size_wh=(width, height))


def _say_rebuilt(cache: EmbeddingCache, run: Run) -> None:
    for path in cache.rebuilt:
        run.log(f"{path}: cut short or damaged; computed again")


def prompts_of(
    prediction: Prediction, *, settings: SamSettings, size_wh: tuple[int, int]
) -> tuple[list[Prompt], NDArray[np.float32]]:
    """Turn another method's prediction into prompts: its boxes, or the peaks of its anomaly map.

    Returns:
        The prompts, best first, and their confidences.

    Raises:
        DataError: the prediction has neither boxes nor a anomaly map, or a box lies outside the
            image.
    """
    from toolkit.methods.sam.peaks import peaks

    if prediction.boxes is not None:
        boxes = prediction.boxes
        order = np.argsort(-boxes.scores, kind="stable")[: settings.prompt_limit]
        kept = [int(i) for i in order if boxes.scores[i] >= settings.prompt_confidence]
        prompts = [_box_inside(boxes.xyxy[i], size_wh, prediction.sample_id) for i in kept]
        return prompts, boxes.scores[kept]
    if prediction.anomaly_map is not None:
        found = peaks(prediction.anomaly_map, size_wh, limit=settings.prompt_limit)
        values = np.array([value for _, _, value in found], np.float32)
        return [click_prompt(x, y) for x, y, _ in found], values
    raise DataError(
        f"{prediction.sample_id}: the prompting run gives neither boxes nor anomaly maps; "
        "use a run of yolo, yolo-world or patchcore"
    )


def _box_inside(box_xyxy: NDArray[np.float32], size_wh: tuple[int, int], sample_id: str) -> Prompt:
    """Return the prompt of the part of a box that is in the image."""
    width, height = size_wh
    x0, y0 = (max(float(v), 0.0) for v in box_xyxy[:2])
    x1, y1 = min(float(box_xyxy[2]), float(width)), min(float(box_xyxy[3]), float(height))
    if not (np.isfinite(box_xyxy).all() and x0 < x1 and y0 < y1):
        numbers = ", ".join(f"{float(v):g}" for v in box_xyxy)
        raise DataError(
            f"{sample_id}: prompting box ({numbers}) has no pixel in the image of {width} x "
            f"{height}; make the prompting run anew on these images"
        )
    return box_prompt((x0, y0, x1, y1))


def grid_prompts(size_wh: tuple[int, int], side: int) -> list[Prompt]:
    """Return one click in the middle of each of `side` x `side` cells."""
    width, height = size_wh
    steps = (np.arange(side) + 0.5) / side
    return [click_prompt(x * width, y * height) for y in steps for x in steps]

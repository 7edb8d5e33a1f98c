"""Feedback: keep overruled images, extend the model by them, and let it take over if none is lost.

<state>/labelled/  images/good/  images/defect/  masks/defect/    (layout `folder`)
<state>/models/<method>/001 …                                     models made of it
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias

from toolkit.data.decoding import read_bytes
from toolkit.data.images import IMAGE_SUFFIXES, decode_rgb, read_mask
from toolkit.data.types import file_sha256
from toolkit.decisions.calibrate import calibrate
from toolkit.decisions.card import CalibrationCard, model_sha256
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import DataError, ToolkitError
from toolkit.files import atomic_write
from toolkit.inference.model import Model, load_model
from toolkit.line.answers import NamedModel
from toolkit.line.compare import Comparison, compare, decide, labelled_images
from toolkit.line.ledger import Ledger
from toolkit.line.station import Recent, Station
from toolkit.methods.registry import load_method
from toolkit.runs.run import Run

Truth: TypeAlias = Literal["ok", "nok"]
_LABELS = {"ok": "good", "nok": "defect"}


@dataclass(frozen=True)
class Learned:
    """What became of feedback.

    Attributes:
        run: the new model; None where none was made.
        card: its calibration card; None where the old model had none.
        comparison: with the old model; None where no new one was made.
        accepted: whether the new model may take over.
        text: one line.
    """

    run: Run | None
    card: Path | None
    comparison: Comparison | None
    accepted: bool
    text: str


def keep_image(
    state: Path, data: bytes, suffix: str, *, truth: Truth, mask: Path | None = None
) -> Path:
    """Keep an image with its label; return its file. A later label replaces an earlier one.

    Raises:
        DataError: image or mask cannot be read, or their sizes differ.
        OutputError: it cannot be written.
    """
    size = decode_rgb(Path("image"), data).shape[:2]
    if mask is not None:
        if truth == "ok":
            raise DataError(f"{mask}: a good image has no mask; leave --mask out")
        if read_mask(mask).shape != size:
            raise DataError(f"{mask}: is not of the image's size; give the mask of this image")
    folder, name = state / "labelled", sha256(data).hexdigest()[:16]
    suffix = suffix if suffix in IMAGE_SUFFIXES else ".png"
    path = folder / "images" / _LABELS[truth] / f"{name}{suffix}"
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    if mask is not None:
        with atomic_write(folder / "masks" / "defect" / f"{name}{mask.suffix}") as temporary:
            shutil.copyfile(mask, temporary)
    other = folder / "images" / _LABELS["nok" if truth == "ok" else "ok"]
    stale = [*other.glob(f"{name}.*"), *(state / "to-label/images").glob(f"*-{name[:12]}.*")]
    if truth == "ok":
        stale += (folder / "masks" / "defect").glob(f"{name}.*")
    for file in stale:
        file.unlink(missing_ok=True)
    return path


def learn(
    model: Model, state: Path, frozen: Path, *, say: Callable[[str], None] = lambda _: None
) -> Learned:
    """Extend a model by all labelled images that it decides wrongly, and judge the new one.

    Good images that are not OK go into the bank of good patches; defective ones that are OK into
    that of defects, where the method has one and they have masks. For the calibration card, see
    `_new_card`.

    Args:
        model: in use.
        state: folder of the line.
        frozen: labelled images that were never feedback.
        say: gets a line about what is being done.

    Raises:
        DataError: no labelled images in `frozen`.
        RunError: the method does not learn from feedback.
    """
    labelled = state / "labelled"
    good, defective = labelled_images(labelled)
    overkill = _of(good, decide(model, good), lambda o: o is not Outcome.OK)
    escapes = _of(defective, decide(model, defective), lambda o: o is Outcome.OK)
    masks = {path.stem: path for path in (labelled / "masks/defect").glob("*")}
    with_masks = [(path, masks[path.stem]) for path in escapes if path.stem in masks]
    method = load_method(model.run)
    if not method.has_defect_bank:
        with_masks = []
    if not overkill and not with_masks:
        kept = f"; {len(escapes)} escapes are kept for a training" if escapes else ""
        return Learned(None, None, None, False, f"nothing to learn at once{kept}")
    say(
        f"extending {model.run.path} by {len(overkill)} good and {len(with_masks)} defective images"
    )
    run = _derive(model.run, state / "models", overkill, with_masks)
    engine = model.engine.split()[0]
    card, is_fresh = _new_card(model.calibration, run, engine)
    new = load_model(run, calibration=card, engine=engine)
    found = compare(model, new, (frozen, labelled))
    invalid = found.raised and card is not None and not is_fresh
    path = None
    if card is not None:
        path = run.path / "calibration.json"
        card.write(path)
    accepted = found.accepted and not invalid
    why = " (good images score higher: calibrate the new model)" if invalid else ""
    text = f"{'accepted' if accepted else 'refused'} {run.path}: {found.text()}{why}"
    return Learned(run, path, found, accepted, text)


def _of(
    paths: Sequence[Path],
    decided: Sequence[tuple[Outcome, float]],
    wrong: Callable[[Outcome], bool],
) -> list[Path]:
    return [path for path, (outcome, _) in zip(paths, decided, strict=True) if wrong(outcome)]


def _derive(
    base: Run, folder: Path, good: Sequence[Path], defects: Sequence[tuple[Path, Path]]
) -> Run:
    """Make a run whose model is that of another, extended by images.

    Its threshold is that of the base, and so are the stored predictions of the validation part, of
    which only the range of colours is taken. Nothing of it is fit for a leaderboard.
    """
    record = base.record
    contents = [file_sha256(path) for path in (*good, *(image for image, _ in defects))]
    trained = sorted({*record["split"].get("train_sha256", ()), *contents})
    run = Run.create(
        folder,
        method=base.method,
        settings=record["settings"],
        split={**record["split"], "train_sha256": trained},
        data=record["data"],
        seed=base.seed,
        device=base.device,
        inputs=record["inputs"],
    )
    try:
        load_method(base).extend(base, run, good, defects)
        if base.predictions.is_dir():
            shutil.copytree(base.predictions, run.predictions, dirs_exist_ok=True)
        run.update_metadata(
            **{**base.metadata, "extended_from": str(base.path), "feedback": contents}
        )
        metrics = base.metrics()
        run.finish({key: metrics[key] for key in ("thresholds", "boxes") if key in metrics})
    except BaseException:
        run.discard()
        raise
    return run


def _new_card(
    card: CalibrationCard | None, run: Run, engine: str
) -> tuple[CalibrationCard | None, bool]:
    """Return the card of an extended run, and whether its thresholds are new.

    The same held-back images, scored by the new model, give thresholds with the same promise: these
    follow the scores down, so that a bank that grew does not pass more defects. Where the images
    are no longer there, the thresholds are kept; the promise then holds as long as no good image
    scores higher than before.
    """
    if card is None:
        return None, False
    if not card.cross_fit:
        with suppress(DataError):
            found = calibrate(
                load_model(run, engine=engine),
                card.good["folder"],
                max_false_alarms=card.nok.max_false_alarms,
                max_reviews=None if card.review is None else card.review.max_false_alarms,
                confidence=card.nok.confidence,
            ).card
            if _contents(found) == _contents(card):
                return found, True
    model = {"method": run.method, "name": run.path.name, "sha256": model_sha256(run)}
    return replace(card, model=model, created=time.strftime("%Y-%m-%dT%H:%M:%S"), path=None), False


def _contents(card: CalibrationCard) -> set[str]:
    return {image["sha256"] for image in card.good["images"]}


def give_feedback(
    model: Model,
    images: Sequence[Path],
    state: Path,
    *,
    truth: Truth,
    who: str,
    mask: Path | None = None,
    frozen: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Learned | None:
    """Record what a person says of images, and, with a frozen set, learn from it.

    Returns:
        What was learned; None without a frozen set.

    Raises:
        DataError: an image or the mask cannot be read.
        RunError: the method does not learn from feedback; the images are kept and recorded.
    """
    if mask is not None and len(images) != 1:
        raise DataError(f"{mask}: one mask belongs to one image; name a single image")
    ledger = Ledger(state / "ledger.sqlite", exclusive=False)
    try:
        name, numbers = NamedModel.of(model).name, []
        for path in images:
            data = read_bytes(path)
            (result,) = model(path)
            keep_image(state, data, path.suffix.lower(), truth=truth, mask=mask)
            answered = ledger.last_of(digest := sha256(data).hexdigest())
            decision = answered["decision"] if answered else (result.outcome or Outcome.NOK).value
            numbers.append(
                ledger.add_feedback(
                    who=who, sha256=digest, image=str(path), truth=truth, decision=decision,
                    model=answered["model"] if answered else name,
                )
            )  # fmt: skip
        return (
            None if frozen is None else _learn_and_note(model, state, frozen, ledger, numbers, say)
        )
    finally:
        ledger.close()


def _learn_and_note(
    model: Model,
    state: Path,
    frozen: Path,
    ledger: Ledger,
    numbers: Sequence[int],
    say: Callable[[str], None],
) -> Learned:
    try:
        learned = learn(model, state, frozen, say=say)
    except ToolkitError as error:
        ledger.conclude_feedback(numbers, f"not learned: {error}")
        raise
    name = str(learned.run.path) if learned.run is not None and learned.accepted else ""
    ledger.conclude_feedback(numbers, learned.text, name)
    return learned


class FeedbackDesk:
    """Feedback on a running line: recorded at once, learned in the background, one at a time.

    Args:
        station: the line.
        frozen: labelled images by which new models are judged; None: nothing is learned.
    """

    def __init__(self, station: Station, frozen: Path | None) -> None:
        self._station, self._frozen = station, frozen
        self._learning = threading.Lock()
        self._numbers: list[int] = []

    def add(self, recent: Recent, *, truth: Truth, who: str) -> str:
        """Record feedback on one of the last images; return what happens with it.

        Raises:
            ToolkitError: it cannot be recorded.
        """
        station, event = self._station, recent.event
        suffix = Path(event["image"]).suffix.lower()
        keep_image(station.state, recent.data, suffix, truth=truth)
        number = station.ledger.add_feedback(
            who=who, sha256=event["sha256"], image=event["image"], truth=truth,
            decision=event["decision"], model=event["model"],
        )  # fmt: skip
        self._numbers.append(number)
        if self._frozen is None:
            return "recorded"
        if (event["decision"] == "OK") is (truth == "ok"):
            return "recorded, as decided"
        threading.Thread(target=self._learn, args=[self._frozen], daemon=True).start()
        return "recorded, being learned"

    def _learn(self, frozen: Path) -> None:
        with self._learning:
            numbers, self._numbers = self._numbers, []
            if not numbers:  # learned together with an earlier one
                return
            station = self._station
            model = station.worker.live.model
            try:
                learned = _learn_and_note(
                    model, station.state, frozen, station.ledger, numbers, station.say
                )
                if learned.accepted and learned.run is not None:
                    engine = model.engine.split()[0]
                    new = NamedModel.load(learned.run.path, calibration=learned.card, engine=engine)
                    station.swap(new)
                station.say(f"feedback: {learned.text}")
            except (ToolkitError, RuntimeError) as error:
                station.say(f"feedback: {error}")

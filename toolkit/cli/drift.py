"""`toolkit drift RUN PLACE --calibration CARD`: have the scores changed since the calibration?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def drift_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run that was calibrated.")],
    place: Annotated[
        Path,
        typer.Argument(
            metavar="SCORES|FOLDER",
            help="predictions.jsonl, a text file of one score per line, or a folder of images.",
        ),
    ],
    calibration: Annotated[
        Path, typer.Option("--calibration", help="The card of toolkit calibrate.")
    ],
    false_alarm_rate: Annotated[
        float,
        typer.Option("--false-alarm-rate", help="Probability of ever raising a false alarm."),
    ] = 0.01,
    embedding: Annotated[
        bool,
        typer.Option(
            "--embedding", help="Also compare the images themselves with the calibration's."
        ),
    ] = False,
) -> None:
    """Test new images, in the order of their lines or names, for drift; exit status 1 on an alarm.

    The false-alarm rate holds over any number of images, looked at one by one.
    """
    from toolkit.data.images import read_rgb
    from toolkit.decisions.card import CalibrationCard
    from toolkit.decisions.drift import (
        drift_test,
        kolmogorov_smirnov,
        mean_embedding_shift,
        population_stability_index,
    )
    from toolkit.decisions.embedding import calibration_images, embed_images
    from toolkit.errors import ConfigError, DataError
    from toolkit.inference.model import load_model
    from toolkit.progress import track
    from toolkit.runs.run import Run

    if embedding and not place.is_dir():
        raise ConfigError(f"--embedding: needs a folder of images, not {place}")
    card = CalibrationCard.read(calibration)
    if card.cross_fit:
        raise ConfigError(
            f"{calibration}: holds scores of other models (--cross-fit), with which new ones "
            "cannot be compared; calibrate with images that were held back (--good FOLDER)"
        )
    paths: list[Path] = []
    if place.is_dir():
        model = load_model(run, calibration=card)
        scores = []
        for result in model.predict(place, stream=True):
            assert result.path is not None
            scores.append(result.score)
            paths.append(result.path)
    else:
        card.check_model(Run.open(run))
        scores = _read_scores(place)
    good = card.good_scores
    found = drift_test(scores, good, false_alarm_rate=false_alarm_rate)
    distance, p_value = kolmogorov_smirnov(scores, good)
    index = population_stability_index(scores, good)
    print(
        f"no drift found in {len(scores)} images"
        if found.alarm_at is None
        else f"drift: alarm after {found.alarm_at} of {len(scores)} images"
    )
    print(
        f"evidence 10^{found.log10_evidence.max():.1f} at most, alarm at {1 / false_alarm_rate:g}"
    )
    print(f"Kolmogorov-Smirnov distance {distance:.3f}, p {p_value:.2g} (for a single look)")
    print(f"population stability index {index:.2f}")
    if embedding:
        known = calibration_images(card)
        if len(known) < 2:
            raise DataError(
                f"{calibration}: its good images are not in {card.good['folder']} any more, so "
                "nothing can be compared with them; leave out --embedding"
            )
        new, old = (
            embed_images(read_rgb(path) for path in track(listed, f"{name} images"))
            for name, listed in (("new", paths), ("calibration", known))
        )
        distance, p_value = mean_embedding_shift(new, old)
        print(
            f"mean embedding moved by {distance:.2f} of the good images' spread, p {p_value:.2g} "
            "(for a single look)"
        )
    if found.alarm_at is not None:
        raise typer.Exit(1)


def _read_scores(path: Path) -> list[float]:
    import json

    from toolkit.errors import DataError

    scores = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give scores or images") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            scores.append(float(json.loads(line)["score"] if line.startswith("{") else line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number} holds no score; give predictions.jsonl, or one number per "
                "line"
            ) from error
    return scores

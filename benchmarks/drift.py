"""How soon is drift found, and how often is there a false alarm?

    python benchmarks/drift.py simulate
    python benchmarks/drift.py images RUN CARD FOLDER

`simulate`: normal scores whose mean moves by so many standard deviations, at once and after 1,000
unchanged images; median and 9th decile over 40 lines of the images until the alarm, and the share
of 400 unchanged lines of 10,000 images that raise one. `images`: the images of a folder, as they
are and changed, one after the other against the calibration card of a run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import toolkit
from toolkit.data.images import read_rgb
from toolkit.decisions.card import CalibrationCard
from toolkit.decisions.changes import changed
from toolkit.decisions.drift import (
    drift_test,
    evidence,
    mean_embedding_shift,
    population_stability_index,
)
from toolkit.decisions.embedding import calibration_images, embed_images

CHANGES: dict[str, tuple[str, int]] = {
    "unchanged": ("darker", 0),
    "light x 0.9": ("darker", 1),
    "light x 0.7": ("darker", 3),
    "blur, sigma 0.3 % of the side": ("blur", 3),
    "moved by 4 %": ("shift", 3),
}
LINES, LENGTH = 40, 400


def main() -> None:
    """Parse the options, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    commands.add_parser("simulate").set_defaults(call=lambda options: simulate())
    images = commands.add_parser("images")
    for name in ("run", "card", "folder"):
        images.add_argument(name, type=Path)
    images.set_defaults(call=lambda o: real_images(o.run, o.card, o.folder))
    options = parser.parse_args()
    options.call(options)


def simulate() -> None:
    """Print images until the alarm for changed lines, and false alarms of unchanged ones."""
    print("| calibration images | change | at once | after 1,000 images |\n|---|---|---|---|")
    for n_good in (60, 300):
        for change in (1.0, 1.5, 3.0):
            waits = " | ".join(_wait(n_good, change, before) for before in (0, 1000))
            print(f"| {n_good} | {change} | {waits} |", flush=True)
    # Exchangeable scores have independent uniform p-values, so these lines need no ranks.
    p_values = np.random.default_rng(0).random((400, 10_000))
    highest = evidence(p_values).max(axis=1)
    for rate in (0.01, 0.05):
        share = float((highest >= -np.log10(rate)).mean())
        print(f"unchanged lines that raise an alarm at a rate of {rate}: {share:.3f}")


def _wait(n_good: int, change: float, before: int) -> str:
    found = []
    for seed in range(LINES):
        rng = np.random.default_rng(seed)
        good, same = rng.normal(size=n_good), rng.normal(size=before)
        scores = np.concatenate([same, rng.normal(change, size=LENGTH)])
        alarm = drift_test(scores, good, seed=seed).alarm_at
        found.append(np.inf if alarm is None or alarm <= before else alarm - before)
    middle, late = np.quantile(found, [0.5, 0.9], method="higher")
    return f"{middle:.0f} ({late:.0f})"


def real_images(run: Path, card: Path, folder: Path) -> None:
    """Print when the alarm comes for the images of a folder, under each change."""
    calibration = CalibrationCard.read(card)
    model = toolkit.load_model(run, calibration=calibration)
    images = [read_rgb(path) for path in sorted(folder.iterdir())]
    good_embeddings = embed_images(read_rgb(path) for path in calibration_images(calibration))
    print("| change | alarm after | PSI | mean embedding moved by | p | NOK |")
    print("|---|---|---|---|---|---|")
    for name, (kind, strength) in CHANGES.items():
        new = [changed(image, None, kind, strength)[0] for image in images]
        scores = [r.score for r in model.predict(new)]
        moved, p_value = mean_embedding_shift(embed_images(new), good_embeddings)
        good = calibration.good_scores
        alarm = drift_test(scores, good).alarm_at
        psi = population_stability_index(scores, good)
        flagged = sum(score >= calibration.nok.value for score in scores)
        when = "no alarm" if alarm is None else str(alarm)
        print(
            f"| {name} | {when} of {len(scores)} | {psi:.2f} | {moved:.2f} | {p_value:.3f} | "
            f"{flagged} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

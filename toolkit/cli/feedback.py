"""`toolkit feedback RUN IMAGE… --truth ok|nok`: overrule a model, and let it learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say
from toolkit.cli.line_options import (
    Calibration,
    FrozenOption,
    RunArgument,
    StateOption,
    default_state,
)


def feedback_command(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images of one truth.")],
    truth: Annotated[str, typer.Option("--truth", metavar="ok|nok", help="What they really are.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Mask of the defect, for a single image.")
    ] = None,
    calibration: Calibration = None,
    frozen: FrozenOption = None,
    state: StateOption = None,
    who: Annotated[
        str | None, typer.Option("--who", help="Who says so; default: the user's name.")
    ] = None,
) -> None:
    """Keep images with their true label; with --frozen, extend the model by those it got wrong.

    The new model is refused, with exit status 1, if it loses on the frozen set or on former
    feedback.
    """
    import getpass
    from typing import cast

    from toolkit.errors import ConfigError
    from toolkit.inference.model import load_model
    from toolkit.line.feedback import Truth, give_feedback

    if truth not in ("ok", "nok"):
        raise ConfigError(f"--truth {truth}: choose ok or nok")
    place = default_state(run, state)
    learned = give_feedback(
        load_model(run, calibration=calibration),
        images,
        place,
        truth=cast(Truth, truth),
        who=who or getpass.getuser(),
        mask=mask,
        frozen=frozen,
        say=say,
    )
    say(f"{len(images)} kept in {place / 'labelled'}")
    if learned is None:
        say("nothing is learned without --frozen FOLDER")
        return
    print(learned.text)
    if learned.accepted:
        card = "" if learned.card is None else f" --calibration {learned.card}"
        assert learned.run is not None
        print(f"use it: toolkit serve {learned.run.path}{card}")
    elif learned.run is not None:
        raise typer.Exit(1)

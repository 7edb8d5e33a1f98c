"""The number of parameters of a run, for the leaderboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from toolkit.runs.run import Run


def note_parameters(run: Run, *networks: nn.Module) -> None:
    """Record the number of parameters of all networks that a prediction uses.

    Frozen ones count; memory banks, statistics and prompts do not, since they are data.
    """
    run.update_metadata(
        parameters=sum(p.numel() for network in networks for p in network.parameters())
    )

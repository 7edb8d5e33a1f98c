"""`toolkit ledger show|export|stats`: read what a line has answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from toolkit.cli.common import say

if TYPE_CHECKING:
    from toolkit.line.ledger import Ledger

ledger_app = typer.Typer(help="Read the ledger of a line.", no_args_is_help=True)
Place: TypeAlias = Annotated[
    Path, typer.Argument(metavar="LEDGER", help="ledger.sqlite, or the folder --state of a line.")
]


@ledger_app.command("show")
def show_command(
    ledger: Place,
    last: Annotated[int, typer.Option("--last", help="Number of answers.", min=1)] = 20,
) -> None:
    """Print the last answers, oldest first."""
    for row in _open(ledger).answers(last=last):
        score = "-" if row["score"] is None else f"{row['score']:.4g}"
        reason = f"  ({row['reason']})" if row["reason"] else ""
        print(f"{row['time']}  {row['decision']:6}  {score:>10}  {row['image']}{reason}")


@ledger_app.command("export")
def export_command(
    ledger: Place,
    out: Annotated[Path, typer.Option("--out", help="File: .csv or .jsonl.")] = Path("answers.csv"),
    what: Annotated[
        str, typer.Option("--what", metavar="answers|feedback|differences", help="Which rows.")
    ] = "answers",
) -> None:
    """Write all answers, feedback, or differences from a shadow model to a file."""
    import csv
    import json

    from toolkit.errors import ConfigError
    from toolkit.files import atomic_write

    if out.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"--out {out}: must end in .csv or .jsonl")
    opened = _open(ledger)
    rows: list[dict[str, Any]]
    if what == "answers":
        rows = opened.answers()
    elif what == "feedback":
        rows = opened.feedback()
    elif what == "differences":
        rows = opened.differences()
    else:
        raise ConfigError(f"--what {what}: choose answers, feedback or differences")
    with (
        atomic_write(out) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        if out.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["time"])
            writer.writeheader()
            writer.writerows(rows)
    say(f"{len(rows)} rows in {out}")


@ledger_app.command("stats")
def stats_command(
    ledger: Place,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count answers by model and decision, waiting deliveries, and overruled answers."""
    import json

    stats = _open(ledger).stats()
    if as_json:
        print(json.dumps(stats, indent=2))
        return
    print(f"{stats['answers']} answers, {stats['failed']} of them NOK without a score")
    for row in stats["models"]:
        print(
            f"{row['decision']:6}  {row['count']:8}  {row['mean_latency_ms']:8.1f} ms  "
            f"{row['model']}  {row['first'][:19]} to {row['last'][:19]}"
        )
    print(f"feedback on {stats['feedback']} images, {stats['overruled']} overruled")
    for sink, count in stats["waiting"].items():
        print(f"{count} events wait for {sink}")


def _open(place: Path) -> Ledger:
    from toolkit.line.ledger import Ledger

    return Ledger(place / "ledger.sqlite" if place.is_dir() else place, read_only=True)

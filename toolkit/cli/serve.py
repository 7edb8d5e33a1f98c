"""`toolkit serve RUN`: predictions over HTTP, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say
from toolkit.cli.line_options import (
    Calibration,
    EngineOption,
    FrozenOption,
    MegapixelsOption,
    RunArgument,
    SinkOption,
    StateOption,
    TimeoutOption,
    make_station,
)


def serve_command(
    run: RunArgument,
    calibration: Calibration = None,
    engine: EngineOption = "auto",
    host: Annotated[
        str, typer.Option("--host", help="Address; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port.", min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option("--token", help="Token that requests carry.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File that holds the token.")
    ] = None,
    state: StateOption = None,
    sink: SinkOption = None,
    timeout: TimeoutOption = 10.0,
    max_megapixels: MegapixelsOption = 50.0,
    max_megabytes: Annotated[
        float, typer.Option("--max-megabytes", help="Size of a request at most.")
    ] = 20.0,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", help="Images that may wait; more are refused (503).")
    ] = 32,
    models: Annotated[
        Path | None, typer.Option("--models", help="Folder of runs that POST /models may load.")
    ] = None,
    frozen: FrozenOption = None,
) -> None:
    """Answer images over HTTP and show a page, until it is stopped.

    POST /predict takes an image as the body, or several as a form's files. Whatever fails is NOK.
    """
    from toolkit.errors import MissingExtraError
    from toolkit.service.server import make_server, open_socket, read_token

    try:
        from toolkit.service.app import ServiceOptions, make_app
    except ImportError as error:
        raise MissingExtraError(
            str(error.name), extra="serve", purpose="serve over HTTP"
        ) from error

    secret = read_token(token, token_file, host)
    with open_socket(host, port) as opened:
        station = make_station(
            run,
            calibration=calibration,
            engine=engine,
            state=state,
            sinks=sink,
            timeout=timeout,
            max_megapixels=max_megapixels,
            max_waiting=max_waiting,
        )
        options = ServiceOptions(
            token=secret,
            local=_is_loopback(host),
            max_bytes=round(max_megabytes * 1e6),
            models=models,
        )
        app = make_app(station, options, frozen=frozen)
        name, number = opened.getsockname()[:2]
        address = f"http://[{name}]:{number}/" if ":" in name else f"http://{name}:{number}/"
        opened.listen()  # whoever reads the next line may connect at once
        say(f"{station.worker.live.name} at {address}, ledger {station.ledger.path}")
        make_server(app, seconds=timeout).run([opened])


def _is_loopback(host: str) -> bool:
    from toolkit.service.server import is_loopback

    return is_loopback(host)

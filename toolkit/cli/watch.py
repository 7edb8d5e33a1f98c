"""`toolkit watch RUN FOLDER|CAMERA|RTSP`: answer each new image once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say
from toolkit.cli.line_options import (
    Calibration,
    EngineOption,
    MegapixelsOption,
    RunArgument,
    SinkOption,
    StateOption,
    TimeoutOption,
    make_station,
)


def watch_command(
    run: RunArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|CAMERA|URL",
            help="A folder, the number of a camera, an rtsp:// or http:// stream, or a video.",
        ),
    ],
    calibration: Calibration = None,
    engine: EngineOption = "auto",
    state: StateOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Gets ok/, nok/ and review/; default: FOLDER.")
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="move|copy|none", help="What is done with a file.")
    ] = "move",
    sink: SinkOption = None,
    every: Annotated[
        float, typer.Option("--every", help="Seconds between two frames of a camera.")
    ] = 1.0,
    settle: Annotated[
        float, typer.Option("--settle", help="Seconds for which a file must not have changed.")
    ] = 0.5,
    timeout: TimeoutOption = 10.0,
    max_megapixels: MegapixelsOption = 100.0,
    port: Annotated[
        int | None, typer.Option("--port", help="Port of the live page on loopback.")
    ] = None,
) -> None:
    """Answer each new image of a folder or camera once, until it is stopped.

    Killed at any moment and started again, it neither loses nor repeats an image of a folder.
    """
    import signal
    import threading
    from contextlib import ExitStack
    from typing import cast

    from toolkit.errors import ConfigError, MissingExtraError
    from toolkit.line.camera import CameraWatch, is_camera
    from toolkit.line.watch import FolderWatch, Sort

    if sort not in ("move", "copy", "none"):
        raise ConfigError(f"--sort {sort}: choose move, copy or none")
    with ExitStack() as stack:
        opened = None
        if port is not None:
            from toolkit.service.server import open_socket

            opened = stack.enter_context(open_socket("127.0.0.1", port))
        station = make_station(
            run,
            calibration=calibration,
            engine=engine,
            state=state,
            sinks=sink,
            timeout=timeout,
            max_megapixels=max_megapixels,
        )
        stack.callback(station.close)
        watcher: CameraWatch | FolderWatch
        if is_camera(source):
            folder = None if sort == "none" else out or station.state / "frames"
            watcher = CameraWatch(station, source, folder, every=every)
        else:
            place = Path(source)
            watcher = FolderWatch(
                station, place, out or place, sort=cast(Sort, sort), settle=settle
            )
        if opened is not None:
            try:
                from toolkit.service.app import ServiceOptions, make_app
                from toolkit.service.server import serving
            except ImportError as error:
                raise MissingExtraError(
                    str(error.name), extra="serve", purpose="show the live page"
                ) from error
            app = make_app(station, ServiceOptions(predict=False), closing=False)
            stack.enter_context(serving(app, opened, seconds=2.0))
            say(f"live page: http://127.0.0.1:{opened.getsockname()[1]}/")
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        say(f"watching {source} with {station.worker.live.name}, ledger {station.ledger.path}")
        watcher.run(stop)

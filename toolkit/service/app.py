"""The HTTP service of a line: predictions, the page, metrics, feedback, and the swap of models."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from toolkit import __version__
from toolkit.data.images import IMAGE_SUFFIXES
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import ToolkitError, printable
from toolkit.inference.result import Result
from toolkit.line.answers import Answer
from toolkit.line.feedback import FeedbackDesk
from toolkit.line.ledger import LedgerError
from toolkit.line.station import Station, jpeg
from toolkit.line.worker import BusyError
from toolkit.runs.prediction_io import encode_mask
from toolkit.service.guard import Guard
from toolkit.service.metrics import Metrics
from toolkit.service.models import ModelDesk
from toolkit.service.page import page

_EXTRAS = ("map", "mask", "overlay")
_MOST_IMAGES = 64
_UID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ServiceOptions:
    """Options of a service.

    Attributes:
        token: that requests have to carry; None for none, on loopback alone.
        local: whether only names of this machine are valid as host.
        max_bytes: of one request.
        models: folder of the runs that `POST /models` may load; None for none.
        predict: whether images are taken; a watched folder has the pages alone.
    """

    token: str | None = None
    local: bool = True
    max_bytes: int = 20_000_000
    models: Path | None = None
    predict: bool = True


def make_app(
    station: Station, options: ServiceOptions, *, frozen: Path | None = None, closing: bool = True
) -> Any:
    """Return the ASGI application of a line.

    Args:
        station: the line.
        options: see `ServiceOptions`.
        frozen: folder of labelled images by which new models are judged; None: they are refused.
        closing: whether the line is closed with the service.
    """
    # One thread writes the ledger, in the order of the answers.
    recorder = ThreadPoolExecutor(1, thread_name_prefix="recorder")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        recorder.shutdown(wait=True)
        if closing:
            await asyncio.to_thread(station.close)

    app = FastAPI(title="toolkit", version=__version__, lifespan=lifespan, docs_url=None,
                  redoc_url=None, redirect_slashes=False)  # fmt: skip
    _add_errors(app, station)
    metrics = Metrics(station)
    _add_state(app, station, metrics, predict=options.predict)
    if options.predict:
        _add_predict(app, station, metrics, recorder)
        _add_models(app, ModelDesk(station, options.models, frozen), options)
    _add_feedback(app, station, FeedbackDesk(station, frozen))
    return Guard(
        app,
        token=options.token,
        local=options.local,
        max_bytes=options.max_bytes,
        max_bodies=station.options.max_waiting + 4,
        seconds=station.options.timeout,
    )


def _nok(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"decision": "NOK", "reason": reason}, status)


def _add_errors(app: FastAPI, station: Station) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        return _nok(status, str(getattr(error, "detail", "invalid request")))

    async def invalid(_: Request, error: Exception) -> Response:
        return _nok(422, "invalid request; see /openapi.json")

    async def failed(_: Request, error: Exception) -> Response:
        station.say(f"request failed: {type(error).__name__}: {printable(error)}")
        return _nok(500, "internal error; see the log of the service")

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def _add_state(app: FastAPI, station: Station, metrics: Metrics, *, predict: bool) -> None:
    body, policy = page()

    @app.get("/", response_class=HTMLResponse)
    async def show_page() -> Response:
        """Return the page."""
        return HTMLResponse(body, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health() -> Response:
        """Return whether the process answers at all."""
        return JSONResponse({"status": "up", "predict": predict})

    @app.get("/ready")
    async def ready() -> Response:
        """Return whether images are answered and recorded; 503 if not."""
        state = {"ready": station.alive, "reason": station.problem}
        return JSONResponse(state, 200 if station.alive else 503)

    @app.get("/live")
    def live() -> dict[str, Any]:
        """Return the last answers, rate, latency, shares of decisions, and drift."""
        return station.live()

    @app.get("/live/{uid}.jpg")
    def thumbnail(uid: str) -> Response:
        """Return the small plot of one of the last images."""
        found = station.find_recent(uid)
        if found is None or found.small is None:
            return _nok(404, "no such image among the last ones")
        return Response(found.thumbnail(), media_type="image/jpeg")

    @app.get("/metrics")
    def prometheus() -> Response:
        """Return the metrics in Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _add_predict(
    app: FastAPI, station: Station, metrics: Metrics, recorder: ThreadPoolExecutor
) -> None:
    worker = station.worker

    async def answer(data: bytes, name: str, extras: frozenset[str]) -> tuple[int, dict[str, Any]]:
        try:
            future = worker.submit(data, name)
            found = await asyncio.wait_for(asyncio.wrap_future(future), worker.timeout)
        except BusyError as error:
            found = Answer.failed(str(error), model=worker.live.name)
            metrics.count(found)
            return 503, {"image": name, **found.to_dict()}
        except asyncio.TimeoutError:
            found = worker.late()
        status = 200 if not found.reason else 422 if found.reason[:10] == "unreadable" else 500
        if found.reason.startswith("no answer within"):
            status = 504
        extra: dict[str, Any] = {}
        loop = asyncio.get_running_loop()
        try:
            event = await loop.run_in_executor(
                recorder, lambda: _record(station, found, data, name)
            )
            if found.result is not None and extras:
                extra = await asyncio.to_thread(_outputs, found.result, extras)
            elif found.result is not None:
                extra = _outputs(found.result, extras)
        except LedgerError as error:
            found, event, status = Answer.failed(str(error), model=found.model), {}, 503
        metrics.count(found)
        return status, {"image": name, "id": event.get("id"), **found.to_dict(), **extra}

    @app.post("/predict", openapi_extra=_PREDICT_BODY)
    async def predict(request: Request, include: str = "") -> Response:
        """Decide on images: the bytes of one as the body, or several as a form's files.

        `include` names what else is wanted, separated by commas: map, mask, overlay. The status is
        200 if all were decided by their scores; otherwise it is another, and these are NOK.
        """
        extras = frozenset(word for word in include.split(",") if word)
        if not extras <= set(_EXTRAS):
            return _nok(422, f"include: known are {', '.join(_EXTRAS)}")
        images = await _images(request)
        if not images:
            return _nok(400, "no image; send one as the body, or files in a form")
        found = await asyncio.gather(*(answer(data, name, extras) for data, name in images))
        decisions = {one["decision"] for _, one in found}
        worst = next(o.value for o in (Outcome.NOK, Outcome.REVIEW, Outcome.OK)
                     if o.value in decisions)  # fmt: skip
        results = [one for _, one in found]
        reason = next((one["reason"] for one in results if one["reason"]), "")
        return JSONResponse(
            {"decision": worst, "reason": reason, "results": results},
            max(status for status, _ in found),
        )


_PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
        },
    }
}


async def _images(request: Request) -> list[tuple[bytes, str]]:
    """Return the images of a request and their names, which are never used as paths."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        return [(body, "image")] if body else []
    async with request.form(max_files=_MOST_IMAGES, max_fields=8) as form:
        files = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
        return [
            (await one.read(), printable(PurePosixPath(one.filename or "image").name)[:200])
            for one in files
        ]


def _record(station: Station, answer: Answer, data: bytes, name: str) -> dict[str, Any]:
    suffix = PurePosixPath(name).suffix.lower()
    return station.record(
        answer,
        image=name,
        data=data,
        sha256=sha256(data).hexdigest(),
        suffix=suffix if suffix in IMAGE_SUFFIXES else ".png",
    )


def _outputs(result: Result, extras: frozenset[str]) -> dict[str, Any]:
    """Return boxes, and on request the mask (COCO run-length), the map and the overlay."""
    import cv2
    import numpy as np

    found: dict[str, Any] = {
        k: v for k, v in result.to_dict().items() if k in ("boxes", "class_probabilities")
    }
    found["size_wh"] = [result.image.shape[1], result.image.shape[0]]
    if "mask" in extras and result.mask is not None:
        found["mask"] = encode_mask(result.mask)
    raw = result.prediction.anomaly_map
    if "map" in extras and raw is not None:
        low, high = float(raw.min()), float(raw.max())
        levels = np.round((raw - low) / max(high - low, 1e-12) * 65535).astype(np.uint16)
        data = cv2.imencode(".png", levels)[1].tobytes()
        found["map"] = {"min": low, "max": high, "png16": base64.b64encode(data).decode()}
    if "overlay" in extras:
        found["overlay"] = base64.b64encode(jpeg(result.plot())).decode()
    return found


def _add_models(app: FastAPI, desk: ModelDesk, options: ServiceOptions) -> None:
    async def guarded(call: Callable[[], dict[str, Any]]) -> Response:
        if options.token is None:
            return _nok(403, "models are swapped with a token only; start with --token-file")
        try:
            found = await asyncio.to_thread(call)
        except ToolkitError as error:
            return _nok(409, str(error))
        return JSONResponse(found, 200 if found.get("accepted", True) else 409)

    @app.post("/models")
    async def load(
        run: str,
        calibration: str | None = None,
        engine: str | None = None,
        mode: Literal["live", "shadow"] = "live",
    ) -> Response:
        """Load a run while the old one answers, judge it on the frozen set, and swap; or shadow it.

        `run` and `calibration` are paths below the folder that the service was started with.
        """
        return await guarded(lambda: desk.load(run, calibration, engine, shadow=mode == "shadow"))

    @app.delete("/models/shadow")
    async def end_shadow() -> Response:
        """End the shadow mode."""
        return await guarded(desk.end_shadow)


def _add_feedback(app: FastAPI, station: Station, desk: FeedbackDesk) -> None:
    @app.post("/feedback")
    def feedback(id: str, truth: Literal["ok", "nok"], who: str = "page") -> Response:
        """Overrule or confirm the answer to one of the last images."""
        if not _UID.fullmatch(id) or not who.isprintable() or not 0 < len(who) <= 80:
            return _nok(422, "id or who: not valid")
        found = station.find_recent(id)
        if found is None or not found.data:
            return _nok(404, "the image is not among the last ones; use toolkit feedback")
        try:
            text = desk.add(found, truth=truth, who=who)
        except ToolkitError as error:
            return _nok(409, str(error))
        return JSONResponse({"status": text})

"""What `toolkit serve` costs and bears: throughput, latency under load, memory, hostile requests.

    python benchmarks/service_load.py RUN IMAGES --seconds 60 --load-seconds 600 --hostile 1000 \
        --frozen FROZEN --swaps 5

With --frozen (a folder with ok/ and nok/), the run is swapped for itself while four clients ask; an
answer that is no 200 ends the benchmark.

The model's own throughput is that of `model.predict` on the same files, in a process of its own.
Clients run in another process, on urllib3, which takes less of the processor that they share with
the service than requests does; at 70 % load, requests are sent at fixed times, and latency counts
from the time at which a request was due, so that a slow answer hides no later one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import requests
import urllib3

from toolkit.data.images import is_image_file

CLI = [sys.executable, "-c", "from toolkit.cli.main import main; main()"]
TOKEN = "benchmark-token-0123"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
_SENDERS = 16


def own_throughput(run: str, files: list[Path], seconds: float, engine: str) -> float:
    """Return images per second of the model alone, decoding included."""
    import torch

    import toolkit
    from toolkit.runs.environment import usable_cores

    torch.set_num_threads(usable_cores())
    model = toolkit.load_model(run, engine=engine)
    model(files[0])
    count, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        for _ in model.predict(files[count % len(files)], stream=True):
            count += 1
    return count / (time.monotonic() - started)


def closed_loop(address: str, files: list[Path], seconds: float, clients: int) -> list[float]:
    """Let clients send one image after the other; return the latencies in s."""
    found: list[float] = []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        with urllib3.connection_from_url(address) as pool:
            at = number
            while time.monotonic() < end:
                started = time.monotonic()
                post(pool, files[at % len(files)])
                found.append(time.monotonic() - started)
                at += clients

    threads = [threading.Thread(target=client, args=[n]) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def open_loop(address: str, files: list[Path], seconds: float, rate: float) -> list[float]:
    """Send images at fixed times; return the latencies in s from the times they were due."""
    pool = urllib3.connection_from_url(address, maxsize=_SENDERS)
    began = time.monotonic()

    def one(number: int) -> float:
        due = began + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        post(pool, files[number % len(files)])
        return time.monotonic() - due

    with ThreadPoolExecutor(_SENDERS) as threads:
        return list(threads.map(one, range(round(seconds * rate))))


def post(pool: urllib3.HTTPConnectionPool, file: Path) -> None:
    """Send an image; anything but an answer ends the benchmark."""
    answer = pool.request(
        "POST", "/predict", body=file.read_bytes(), headers=HEADERS, timeout=30, retries=False
    )
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {answer.data[:200]!r}")


def swap(address: str, name: str, count: int) -> tuple[list[float], int]:
    """Swap the model for the run of a name; return the seconds of each, and how many were made."""
    found, accepted = [], 0
    for _ in range(count):
        started = time.monotonic()
        answer = requests.post(
            f"{address}/models", params={"run": name}, headers=HEADERS, timeout=120
        )
        found.append(time.monotonic() - started)
        accepted += answer.status_code == 200 and bool(answer.json()["accepted"])
    return found, accepted


def resident_mb(pid: int) -> float:
    """Return the resident size of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def png_of(side: int) -> bytes:
    """Return a PNG that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side * (side + 1)) if side <= 10_000 else b"\0" * 10**6, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hostile_requests(address: str, file: Path, count: int) -> dict[str, int]:
    """Send hostile requests over raw sockets; count kinds of answers."""
    good = file.read_bytes()
    host, port = address.removeprefix("http://").split(":")
    auth = f"Authorization: Bearer {TOKEN}\r\n".encode()

    def request(
        body: bytes, *, path: str = "/predict", head: bytes = auth, length: int | None = None
    ) -> bytes:
        size = len(body) if length is None else length
        return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                f"Content-Length: {size}\r\n").encode() + head + b"\r\n" + body  # fmt: skip

    rng = random.Random(0)
    hundred, bomb = png_of(10_000), png_of(100_000)

    def damaged() -> bytes:
        data = bytearray(good)
        for _ in range(50):
            data[rng.randrange(60, len(data))] = rng.randrange(256)
        return bytes(data)

    kinds: dict[str, Any] = {
        "wrong type": lambda: request(b"%PDF-1.7" + rng.randbytes(2000)),
        "cut short": lambda: request(good[: rng.randrange(1, len(good) - 20)]),
        "damaged": lambda: request(damaged()),
        "100 megapixels": lambda: request(hundred),
        "bomb": lambda: request(bomb),
        "too large": lambda: request(b"", length=10**10),
        "wrong token": lambda: request(good, head=b"Authorization: Bearer wrong\r\n"),
        "no token": lambda: request(good, head=b""),
        "path tricks": lambda: request(b"", path=rng.choice([
            "/../../etc/passwd", "/live/..%2f..%2fetc%2fpasswd.jpg", "/%00", "//etc/passwd",
            "/models?run=../../../../etc&mode=live", "/feedback?id=../../x&truth=ok"])),
        "no http": lambda: rng.randbytes(300),
        "wrong length": lambda: request(good, length=rng.randrange(10)),
        "broken form": lambda: request(
            b"--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"../../a.png\"\r\n"
            + rng.randbytes(100), head=auth + b"Content-Type: multipart/form-data; boundary=x\r\n"),
        "slow": None,
    }  # fmt: skip
    names = [list(kinds)[n % len(kinds)] for n in range(count)]
    found: dict[str, int] = {}

    def one(name: str) -> str:
        try:
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                if name == "slow":
                    part = request(good)[: rng.randrange(20, 400)]
                    for byte in part[:5]:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.05)
                    connection.sendall(part[5:])
                else:
                    connection.sendall(kinds[name]())
                blocks = []
                while block := connection.recv(65536):
                    blocks.append(block)
        except ConnectionError:
            return "connection closed"
        answer = b"".join(blocks)
        if not answer:
            return "connection closed"
        if b"Traceback" in answer or b'File "' in answer:
            return "TRACEBACK"
        if b'"decision":"OK"' in answer or b'"decision": "OK"' in answer:
            return f"OK after {name}"
        return f"status {answer.split()[1].decode(errors='replace')}"

    with ThreadPoolExecutor(12) as pool:
        for kind in pool.map(one, names):
            found[kind] = found.get(kind, 0) + 1
    return dict(sorted(found.items()))


def main() -> None:
    """Run all parts and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("images", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seconds", type=float, default=30, help="of each throughput")
    parser.add_argument("--load-seconds", type=float, default=600, help="at 70 %% load")
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--frozen", type=Path, help="ok/ and nok/, by which a swap is judged")
    parser.add_argument("--swaps", type=int, default=5)
    options = parser.parse_args()
    files = sorted(path for path in options.images.rglob("*") if is_image_file(path))[:100]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, context.Pool(1) as own, context.Pool(1) as load:
        alone = own.apply(own_throughput, (options.run, files, options.seconds, options.engine))
        own.terminate()
        print(f"model alone: {alone:.2f} images/s", flush=True)
        command = [*CLI, "serve", options.run, "--port", "0", "--state", name, "--token", TOKEN,
                   "--engine", options.engine]  # fmt: skip
        run = Path(options.run).resolve()
        if options.frozen is not None:
            command += ["--models", str(run.parent), "--frozen", str(options.frozen)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        address = ""
        for line in process.stderr:
            if " at http://" in line:
                address = line.split(" at ")[1].split("/,")[0]
                break
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            load.apply(closed_loop, (address, files, 5.0, 4))
            before = resident_mb(process.pid)
            times = load.apply(closed_loop, (address, files, options.seconds, 4))
            rate = len(times) / options.seconds
            print(f"four clients: {rate:.2f} images/s, {rate / alone:.0%} of the model alone")
            started = resident_mb(process.pid)
            times = load.apply(open_loop, (address, files, options.load_seconds, 0.7 * rate))
            p50, p99 = np.quantile(times, [0.5, 0.99]) * 1000
            after = resident_mb(process.pid)
            print(
                f"at 70 % load for {options.load_seconds:g} s: {len(times)} requests, "
                f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, ratio {p99 / p50:.1f}"
            )
            print(f"resident: {before:.0f} MB warm, {started:.0f} MB, {after:.0f} MB at the end "
                  f"({after / started - 1:+.1%})", flush=True)  # fmt: skip
            if options.frozen is not None:
                asked = load.apply_async(closed_loop, (address, files, options.seconds, 4))
                seconds, accepted = swap(address, run.name, options.swaps)
                print(
                    f"{accepted} of {options.swaps} swaps in {min(seconds):.1f} to "
                    f"{max(seconds):.1f} s under four clients: {len(asked.get())} requests, "
                    f"none failed",
                    flush=True,
                )
            answers = load.apply(hostile_requests, (address, files[0], options.hostile))
            print(f"hostile requests: {json.dumps(answers)}")
            print(f"alive: {process.poll() is None}, resident {resident_mb(process.pid):.0f} MB")
            closed_loop(address, files, 2.0, 1)
        finally:
            process.terminate()
            print(f"stopped with status {process.wait(30)}")


if __name__ == "__main__":
    main()

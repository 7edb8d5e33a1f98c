"""Download a public data set, or take its archive: accept the licence, verify, unpack."""

from __future__ import annotations

from pathlib import Path

from toolkit.data.archive import Progress, unpack
from toolkit.data.dataset_cards import ArchiveSource, Card, load_card, mismatch
from toolkit.data.types import file_sha256
from toolkit.download import DownloadError, discard, download
from toolkit.errors import DataError
from toolkit.files import OutputError, atomic_folder, remove_leftovers


def download_dataset(
    category: str,
    *,
    target: Path,
    accept_licence: bool,
    archive: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Put a data set with a data card into `target`.

    The folder appears complete and verified, or not at all. An interrupted download leaves a
    `.part` file beside `target`, and the next call resumes it. A `target` that already holds the
    data set is left as it is.

    Args:
        category: name of a data card, for example `bottle`.
        target: folder of this one data set (`train/good` and so on go right into it).
        accept_licence: whether the user has accepted the licence that the card names.
        archive: take this tar or zip instead of downloading. It may hold other categories too.
        progress: called with (bytes done, bytes in all or None) of the download, or of the local
            archive while it is unpacked.

    Returns:
        `target`.

    Raises:
        DataError: unknown category, licence not accepted, host not reachable, wrong or damaged
            archive, disk full, or something else lies in `target`.
    """
    card = load_card(category)
    if card.archive is None and archive is None:
        raise DataError(f"{category}: is generated, not downloaded: {card.source}")
    if card.licence is not None and not accept_licence:
        raise DataError(
            f"{category}: its licence {card.licence} ({card.licence_url}) is not accepted yet; "
            "read it and add --accept-licence"
        )
    part = target.parent / f"{target.name}.archive.part"
    try:
        if target.parent.is_dir():
            remove_leftovers(target.parent)  # also where the data set is complete
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            _check_existing(target, card)
            discard(part)  # left where a call was killed at its very end
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        if archive is not None:
            if not archive.is_file():
                raise DataError(f"{archive}: no such file; give a tar or zip with --archive FILE")
            _install(archive, target, card, progress)
        elif card.archive is not None:
            _fetch(card.archive.url, part, progress)
            _install_download(part, target, card, card.archive)
    except OutputError as error:
        raise DataError(f"{error}, then run the command again") from error
    except OSError as error:
        raise DataError(
            f"{error.filename or target}: {error.strerror or error}; "
            "make room or choose another folder, then run the command again"
        ) from error
    return target


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    try:
        download(url, part, progress=progress)
    except DownloadError as error:
        raise DataError(f"{error}, or get {url} with a browser and add --archive FILE") from error


def _check_existing(target: Path, card: Card) -> None:
    problem = mismatch(target, card) if target.is_dir() else "it is a file"
    if problem is not None:
        raise DataError(
            f"{target}: exists and is not a complete {card.name} ({problem}); "
            "remove it or choose another folder"
        )


def _install_download(part: Path, target: Path, card: Card, source: ArchiveSource) -> None:
    """Check a finished download, unpack it and remove it.

    A file that is complete but wrong cannot be resumed, so it is removed too; where only the disk
    was full it stays for the next attempt.
    """
    try:
        if source.size not in (None, part.stat().st_size):
            raise DataError(
                f"{source.url}: sent {part.stat().st_size} bytes, expected {source.size}; try again"
            )
        if source.sha256 not in (None, file_sha256(part)):
            raise DataError(f"{source.url}: sent another file (sha256 differs); try again")
        _install(part, target, card, None)
    except DataError:
        discard(part)
        raise
    discard(part)


def _install(archive: Path, target: Path, card: Card, progress: Progress | None) -> None:
    with atomic_folder(target, overwrite=target.is_dir()) as temporary:  # if there, it is empty
        unpack(archive, temporary, folder=card.name, progress=progress)
        problem = mismatch(temporary, card)
        if problem is not None:
            raise DataError(f"{archive}: {problem}; get the archive again")

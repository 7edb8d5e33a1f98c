"""Downloads against a server on this machine: resume, verification, nothing half-written."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.data.loopback import ARCHIVE, BLOCK, FILES, Server, serving, tar_xz
from toolkit.data.dataset_cards import folder_fingerprint, load_card, mismatch
from toolkit.data.download import download_dataset
from toolkit.errors import DataError


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "home" / "datasets").mkdir(parents=True)
    return tmp_path / "home"


def _card(home: Path, url: str, **change: object) -> None:
    """Write a card `tiny` whose archive lies at `url`."""
    archive = {"url": url, "size": len(ARCHIVE), "sha256": hashlib.sha256(ARCHIVE).hexdigest()}
    card = {
        "name": "tiny",
        "title": "Tiny",
        "product": "nothing",
        "source": "https://example.org",
        "citation": None,
        "licence": "Example Licence 1.0",
        "licence_url": "https://example.org/licence",
        "archive": {**archive, **change.pop("archive", {})},  # type: ignore[dict-item]
        "counts": {"train_good": 2, "test_good": 1, "test_defective": 1},
        "fingerprint": None,
        "symmetry": {"flips": [], "rotation": "none"},
        "defects": {"crack": ["crack"]},
        **change,
    }
    (home / "datasets" / "tiny.yaml").write_text(yaml.safe_dump(card))


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _get(tmp_path: Path, **options: object) -> Path:
    options = {"accept_licence": True, **options}
    return download_dataset("tiny", target=tmp_path / "out" / "tiny", **options)  # type: ignore[arg-type]


def _left(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "out").iterdir()}


def test_download_unpacks_the_data_set_and_leaves_nothing_else(
    tmp_path: Path, home: Path, server: Server
) -> None:
    _card(home, server.url)
    seen: list[tuple[int, int | None]] = []
    target = _get(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert _tree(target) == FILES
    assert _left(tmp_path) == {"tiny"}
    assert seen[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert server.asked == [None]


def test_a_complete_data_set_is_not_downloaded_again(
    tmp_path: Path, home: Path, server: Server
) -> None:
    _card(home, server.url)
    _get(tmp_path)
    part = tmp_path / "out/tiny.archive.part"  # of a call that was killed before it removed it
    part.write_bytes(ARCHIVE)
    part.with_name("tiny.archive.part.json").write_text("{}")
    assert _tree(_get(tmp_path)) == FILES
    assert _left(tmp_path) == {"tiny"}
    assert len(server.asked) == 1


@pytest.mark.parametrize("tag", ['"v1"', None, 'W/"weak"'])
def test_an_interruption_is_repaired_within_one_call(
    tmp_path: Path, home: Path, server: Server, tag: str | None
) -> None:
    server.tag, server.cuts = tag, [3 * BLOCK, 4 * BLOCK]
    if tag and tag.startswith("W/"):
        server.ranges = False  # what a server must do that is asked If-Range with a weak tag
    _card(home, server.url)
    assert _tree(_get(tmp_path)) == FILES
    third = 7 if server.ranges else 4  # blocks that are there before the third request
    assert server.asked == [None, f"bytes={3 * BLOCK}-", f"bytes={third * BLOCK}-"]


def test_an_interrupted_download_goes_on_in_the_next_call(
    tmp_path: Path, home: Path, server: Server
) -> None:
    server.cuts = [4 * BLOCK, 0]  # the second attempt brings nothing: no third one
    _card(home, server.url)
    with pytest.raises(DataError, match=f"cut off after {4 * BLOCK} bytes; repeat to continue"):
        _get(tmp_path)
    assert _left(tmp_path) == {"tiny.archive.part", "tiny.archive.part.json"}
    seen: list[int] = []
    target = _get(tmp_path, progress=lambda done, total: seen.append(done))
    assert server.asked[-1] == f"bytes={4 * BLOCK}-"
    assert min(seen) > 4 * BLOCK
    assert _tree(target) == FILES
    assert _left(tmp_path) == {"tiny"}


@pytest.mark.parametrize(
    ("tag", "ranges", "size"),
    [
        # another version: the server says so by answering 200 to If-Range
        ('"v2"', True, 0),
        # the server does not resume at all
        ('"v1"', False, 0),
        # no tag, but the whole has another length
        (None, True, 10),
    ],
)
def test_begins_again_where_it_cannot_go_on(
    tmp_path: Path, home: Path, server: Server, tag: str | None, ranges: bool, size: int
) -> None:
    right = server.body
    old = random.Random(9).randbytes(len(right) + size)
    server.body, server.cuts, server.tag = old, [4 * BLOCK, 0], tag and '"v1"'
    _card(home, server.url)
    with pytest.raises(DataError, match="repeat to continue"):
        _get(tmp_path)
    server.body, server.tag, server.ranges = right, tag, ranges
    assert _tree(_get(tmp_path)) == FILES


def test_begins_again_where_the_file_has_become_shorter(
    tmp_path: Path, home: Path, server: Server
) -> None:
    """Without a tag the server can only answer 416: there is no byte at that place."""
    server.tag, server.cuts = None, [4 * BLOCK, 0]
    _card(home, server.url)
    with pytest.raises(DataError, match="repeat to continue"):
        _get(tmp_path)
    short = {name: content[:6_000] for name, content in FILES.items()}
    server.body = tar_xz(short)
    assert len(server.body) < 4 * BLOCK
    digest = hashlib.sha256(server.body).hexdigest()
    _card(home, server.url, archive={"size": len(server.body), "sha256": digest})
    assert _tree(_get(tmp_path)) == short


def test_a_finished_part_needs_no_network(tmp_path: Path, home: Path, server: Server) -> None:
    server.cuts = [3 * BLOCK, 0]
    _card(home, server.url)
    with pytest.raises(DataError, match="cut off"):
        _get(tmp_path)
    (tmp_path / "out" / "tiny.archive.part").write_bytes(ARCHIVE)
    asked = len(server.asked)
    assert _tree(_get(tmp_path)) == FILES
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({"archive": {"sha256": "0" * 64}}, "sha256 differs"),
        ({"archive": {"size": 17}}, "expected 17"),
        # no hash known: the content tells
        (
            {
                "archive": {"size": None, "sha256": None},
                "counts": {"train_good": 3, "test_good": 1, "test_defective": 1},
            },
            "2 images in train/good, expected 3",
        ),
        ({"fingerprint": "0" * 64}, "fingerprint differs"),
    ],
)
def test_what_is_not_the_promised_data_is_removed(
    tmp_path: Path, home: Path, server: Server, card: dict[str, object], reason: str
) -> None:
    _card(home, server.url, **card)
    with pytest.raises(DataError, match=reason) as caught:
        _get(tmp_path)
    assert "\n" not in str(caught.value)
    assert _left(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": 404}, "404"),
        ({"status": 503}, "503"),
        ({"kind": "text/html; charset=utf-8"}, "web page instead of the file"),
    ],
)
def test_refusals_keep_what_was_there(
    tmp_path: Path, home: Path, server: Server, change: dict[str, object], reason: str
) -> None:
    server.cuts = [3 * BLOCK, 0]
    _card(home, server.url)
    with pytest.raises(DataError):
        _get(tmp_path)
    vars(server).update(change)
    with pytest.raises(DataError, match=reason) as caught:
        _get(tmp_path)
    assert "--archive" in str(caught.value)
    assert (tmp_path / "out" / "tiny.archive.part").read_bytes() == ARCHIVE[: 3 * BLOCK]


def test_nobody_listens(tmp_path: Path, home: Path) -> None:
    _card(home, "http://127.0.0.1:9/tiny.tar.xz")
    with pytest.raises(DataError, match=r"127\.0\.0\.1: not reachable.*--archive FILE"):
        _get(tmp_path)
    assert _left(tmp_path) == set()


def test_licence_must_be_accepted(tmp_path: Path, home: Path, server: Server) -> None:
    _card(home, server.url)
    with pytest.raises(DataError, match=r"Example Licence 1\.0.*--accept-licence"):
        _get(tmp_path, accept_licence=False)
    assert server.asked == []
    assert not (tmp_path / "out").exists()


def test_mvtec_licence_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CC BY-NC-SA 4\.0.*--accept-licence"):
        download_dataset("bottle", target=tmp_path / "bottle", accept_licence=False)


def test_the_sample_is_made_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="toolkit dataset sample"):
        download_dataset("sample", target=tmp_path / "sample", accept_licence=True)


@pytest.mark.parametrize("top", ["tiny/", "mvtec_anomaly_detection/tiny/"])
def test_local_zip_of_several_categories(tmp_path: Path, home: Path, top: str) -> None:
    _card(home, "http://127.0.0.1:9/never-asked")
    path = tmp_path / "kaggle.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for folder in ("other/", "tiny/"):
            for name, content in FILES.items():
                opened.writestr(top.replace("tiny/", folder) + name, content)
    seen: list[tuple[int, int | None]] = []
    target = _get(tmp_path, archive=path, progress=lambda done, total: seen.append((done, total)))
    assert _tree(target) == FILES
    assert _left(tmp_path) == {"tiny"}
    assert path.is_file()  # the user's own file stays
    assert seen[-1][0] <= path.stat().st_size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (ARCHIVE[: len(ARCHIVE) // 2], "damaged, cut off"),
        (tar_xz(FILES, top="cable/"), "no folder tiny inside; it holds cable"),
        (tar_xz({k: v for k, v in FILES.items() if "mask" not in k}), "0 masks for 1"),
        (tar_xz({**FILES, "../../../evil.png": b""}), "outside of the data set"),
    ],
)
def test_wrong_local_archives(
    tmp_path: Path, home: Path, content: bytes | None, reason: str
) -> None:
    _card(home, "http://127.0.0.1:9/never-asked")
    path = tmp_path / "mine.tar.xz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        _get(tmp_path, archive=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _left(tmp_path) == set()
    assert not list(tmp_path.rglob("evil.png"))
    assert path.exists() == (content is not None)


def test_a_folder_of_something_else_is_kept(tmp_path: Path, home: Path) -> None:
    _card(home, "http://127.0.0.1:9/never-asked")
    precious = tmp_path / "out" / "tiny" / "keep.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(DataError, match="exists and is not a complete tiny"):
        _get(tmp_path)
    assert precious.read_text() == "precious"


def test_full_disk_keeps_the_download_for_the_next_attempt(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _card(home, server.url)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("toolkit.data.archive._write", full)
        with pytest.raises(DataError, match=r"No space left on device.*run the command again"):
            _get(tmp_path)
    assert _left(tmp_path) == {"tiny.archive.part", "tiny.archive.part.json"}
    assert _tree(_get(tmp_path)) == FILES
    assert len(server.asked) == 1
    assert _left(tmp_path) == {"tiny"}


def test_an_interrupt_from_the_keyboard_leaves_no_half_folder(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _card(home, server.url)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.data.archive._write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _get(tmp_path)
    assert _left(tmp_path) == {"tiny.archive.part", "tiny.archive.part.json"}


def test_fingerprint_is_the_shell_s(tmp_path: Path) -> None:
    """As `find . -name '*.png' | LC_ALL=C sort | xargs sha256sum | sha256sum` prints it."""
    for name in ("a_b/1.png", "a/2.png", "a.png", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    lines = [
        f"{hashlib.sha256(name.encode()).hexdigest()}  ./{name}\n"
        for name in ("a.png", "a/2.png", "a_b/1.png")
    ]
    assert folder_fingerprint(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_sample_fits_its_card_in_layout(sample_dir: Path) -> None:
    """The synthetic sample has the layout that verification counts in."""
    problem = mismatch(sample_dir, load_card("sample"))
    assert problem == "12 images in train/good, expected 40 for sample"

"""Nothing is sent, downloaded or written outside our cache: tested with every socket blocked."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from toolkit import ultralytics_env

pytestmark = pytest.mark.slow

# Runs in a fresh interpreter, since Ultralytics reads its environment when it is imported.
_GUARD = """
    import socket, sys
    attempts = []
    def blocked(*args, **kwargs):
        attempts.append(args)
        raise OSError("blocked")
    socket.getaddrinfo = blocked
    socket.socket.connect = blocked
    socket.socket.connect_ex = blocked
"""


def _run(script: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        # Without what `prepare` put into this process's environment.
        **{k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_"))},
        "HOME": str(tmp_path / "user"),
        "XDG_CONFIG_HOME": str(tmp_path / "user/.config"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "TOOLKIT_HOME": str(tmp_path / "toolkit"),
        **environment,
    }
    (tmp_path / "user").mkdir()
    code = textwrap.dedent(_GUARD) + textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300
    )


def test_nothing_is_sent_or_fetched_or_written_at_home(tmp_path: Path) -> None:
    done = _run(
        """
        from toolkit import ultralytics_env
        ultralytics_env.prepare()
        from toolkit.methods.yolo import trainer
        from ultralytics.engine.model import Model
        from ultralytics.utils import SETTINGS, checks
        from ultralytics.utils.callbacks import platform
        assert checks.check_font("Arial.ttf").exists()
        assert checks.check_font("Arial.Unicode.ttf").exists()
        assert not any(SETTINGS[name] for name in ("sync", "wandb", "comet", "mlflow", "api_key"))
        import os
        assert "ULTRALYTICS_API_KEY" not in os.environ
        # A package that is missing is not installed.
        assert checks.check_requirements("surely-not-a-package-name>=9", install=True) is False
        assert attempts == [], attempts
        """,
        tmp_path,
        ULTRALYTICS_API_KEY="secret",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "user").iterdir()) == []
    assert (tmp_path / "toolkit/cache/ultralytics").is_dir()


# An event of analytics as Ultralytics makes one after a training, and the attempts to send it.
_EVENT = """
    from types import SimpleNamespace
    import socket, threading
    from ultralytics.utils import SETTINGS, TESTS_RUNNING, events
    assert not TESTS_RUNNING  # which alone would keep it quiet
    for mode in ("train", "val", "predict", "export"):
        args = SimpleNamespace(mode=mode, task="detect", model="a.yaml", data="b", format="onnx")
        events.events.t = 0.0  # as if none was sent for long
        events.events(args, SimpleNamespace(type="cpu"), None)
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(20)
    sent = [str(a) for a in attempts if "google-analytics" in str(a)]
"""
_UNTESTED = ("PYTEST_", "GITHUB_", "RUNNER_")


@pytest.mark.parametrize(
    ("script", "sends"),
    [
        # The control: as shipped, and online, it does send.
        (
            """
            import ultralytics.utils
            ultralytics.utils.ONLINE = True
            ultralytics.utils.SETTINGS["sync"] = True
            """,
            True,
        ),
        ("from toolkit import ultralytics_env; ultralytics_env.prepare()", False),
        # Imported by something else before, when it was online.
        (
            """
            import ultralytics.utils
            ultralytics.utils.ONLINE = True
            ultralytics.utils.SETTINGS["sync"] = True
            import ultralytics.utils.events
            assert ultralytics.utils.events.events.enabled
            from toolkit import ultralytics_env
            ultralytics_env.prepare()
            """,
            False,
        ),
    ],
    ids=["as shipped", "prepared", "prepared late"],
)
def test_analytics_are_sent_as_shipped_and_never_after_prepare(
    script: str, sends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):  # nor may a proxy take the attempt's place
        if name.startswith(_UNTESTED) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    check = f"assert bool(sent) is {sends}, attempts"
    parts = (script, _EVENT, check)
    done = _run("\n".join(textwrap.dedent(part) for part in parts), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_it_also_works_where_ultralytics_was_imported_first(tmp_path: Path) -> None:
    done = _run(
        """
        import ultralytics.utils
        import ultralytics.utils.events
        assert attempts  # its own import asks name servers, so these tests can see an attempt
        attempts.clear()
        from toolkit import ultralytics_env
        ultralytics_env.prepare()
        from ultralytics.utils import SETTINGS, checks
        assert SETTINGS["sync"] is False
        assert checks.check_font("Arial.ttf").exists()
        assert checks.check_requirements("surely-not-a-package-name>=9", install=True) is False
        assert attempts == [], attempts
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_log_lines_go_to_the_run_and_bars_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    ultralytics_env.prepare()
    from ultralytics.utils import LOGGER, TQDM, colorstr

    lines: list[str] = []
    before = list(LOGGER.handlers)
    with ultralytics_env.logged(lines.append):
        LOGGER.info(f"\n{colorstr('bold', 'one')}\ntwo\n")
        LOGGER.warning("three")
        for _ in TQDM(range(3), desc="bar", disable=False):
            pass
    assert lines == ["one", "two", "three"]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert LOGGER.handlers == before


def test_choosing_a_device_leaves_torch_its_threads() -> None:
    script = """
        import torch
        before = torch.get_num_threads()
        from toolkit import ultralytics_env
        ultralytics_env.prepare()
        from ultralytics.utils.torch_utils import select_device
        select_device("cpu")
        assert torch.get_num_threads() == before, (torch.get_num_threads(), before)
    """
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

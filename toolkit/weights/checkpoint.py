"""Read tensors from checkpoint files, hash them, and copy them into a network."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import ultralytics_env
from toolkit.data.types import file_sha256
from toolkit.errors import WeightsError
from toolkit.weights.registry import trusted_hashes

if TYPE_CHECKING:
    from torch import Tensor, nn

_EXPECTED = "expected a state dict or a YOLO checkpoint"


@dataclass(frozen=True)
class CopyReport:
    """Which tensors of a network were filled by `copy_matching`.

    Attributes:
        copied: names of the tensors that were filled.
        skipped: names of the tensors that kept their values.
    """

    copied: tuple[str, ...]
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.copied)} of {len(self.copied) + len(self.skipped)} tensors"


def load_state_dict(
    path: Path, *, allow_pickle: bool = False, pickle_option: str = ""
) -> dict[str, Tensor]:
    """Read the tensors of a `.pt`, `.pth` or `.safetensors` file by name, on the CPU.

    Floating-point tensors are converted to float32. A state dict may also be nested under `ema`,
    `model` or `state_dict`. Checkpoints of Ultralytics are pickled networks, and unpickling runs
    the code in them: this is done only if the registry pins the file's SHA-256, or if the caller
    allows it.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "a.pt"
        >>> torch.save({"model": {"weight": torch.ones(2, dtype=torch.float16)}}, path)
        >>> load_state_dict(path)
        {'weight': tensor([1., 1.])}

    Args:
        path: the checkpoint.
        allow_pickle: unpickle a network that the registry does not pin.
        pickle_option: the caller's option that sets `allow_pickle`, such as `--allow-pickle`, for
            the error message; empty if it has none.

    Raises:
        WeightsError: the file is missing, unreadable, without tensors, or not trusted.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint; see: toolkit weights list")
    if path.suffix == ".safetensors":
        content: Any = _load_safetensors(path)
    else:
        content = _load_torch(path, allow_pickle=allow_pickle, pickle_option=pickle_option)
    return _tensors(path, content)


def checkpoint_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; an unchanged file is read once per process.

    Every task of a benchmark checks its checkpoint, and ViT-H has 2.5 GB.
    """
    stat = path.stat()
    return _cached_sha256(path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=64)
def _cached_sha256(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return file_sha256(path)


def copy_matching(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, strict: bool = False
) -> CopyReport:
    """Copy the tensors that match a network by name and shape into it.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 3)
        >>> print(copy_matching(layer, {"bias": torch.zeros(3)}, source="a.pt"))
        1 of 2 tensors

    Args:
        model: changed in place; its dtypes and devices stay.
        state: tensors by name; those that the network does not have are ignored.
        source: where they come from, for error messages.
        strict: whether every tensor of the network must be filled, batch counters excepted.

    Raises:
        WeightsError: no tensor matches, or with `strict` one does not.
    """
    import torch

    target = model.state_dict()
    copied = tuple(
        name
        for name, tensor in target.items()
        if name in state and state[name].shape == tensor.shape
    )
    skipped = tuple(name for name in target if name not in set(copied))
    needed = [name for name in skipped if not name.endswith("num_batches_tracked")]
    if not copied or (strict and needed):
        name = needed[0] if needed else skipped[0]
        wanted = tuple(target[name].shape)
        found = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
        raise WeightsError(
            f"{source}: {len(copied)} of {len(target)} tensors match the network; {name} "
            f"{wanted} {found}; use a checkpoint of the same architecture"
        )
    with torch.no_grad():
        for name in copied:  # state_dict() shares memory with the network
            target[name].copy_(state[name])
    return CopyReport(copied, skipped)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and values of tensors, as 64 digits.

    Unlike the bytes of a file it does not depend on the version of torch, or on the order.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise WeightsError(
            f"{path}: not a safetensors file ({_first_line(error)}); replace it"
        ) from error


def _load_torch(path: Path, *, allow_pickle: bool, pickle_option: str) -> Any:
    import torch

    unreadable = WeightsError(f"{path}: not a readable checkpoint; replace it")
    with path.open("rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80")):  # a zip archive or a bare pickle
            raise unreadable
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    except Exception as error:  # the parser of damaged files raises many types
        raise unreadable from error
    if not allow_pickle and checkpoint_sha256(path) not in trusted_hashes():
        remedy = f"; if you trust its author, add {pickle_option}" if pickle_option else ""
        raise WeightsError(
            f"{path}: not a plain state dict, and unpickling a network can run code, which is "
            f"allowed only for files in weights/registry.yaml{remedy}"
        )
    ultralytics_env.prepare()
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise WeightsError(f"{path}: needs a package that is missing ({error})") from error
    except Exception as error:
        raise unreadable from error


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    import torch

    if isinstance(content, dict):
        for key in ("ema", "model", "state_dict"):
            if isinstance(content.get(key), torch.nn.Module | dict):
                content = content[key]
                break
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: contains no tensors; {_EXPECTED}")
    state = {
        str(name): value.float() if value.is_floating_point() else value
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not state:
        raise WeightsError(f"{path}: contains no tensors; {_EXPECTED}")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

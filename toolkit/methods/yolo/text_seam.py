"""The one place where Ultralytics asks for text embeddings, answered from a bank.

`WorldModel.get_text_pe` serves training (`WorldTrainer.generate_text_embeddings`), validation and
the averaged model (`set_classes`), and prediction. As shipped it builds CLIP, for which it installs
a package and downloads 350 MB. Nothing else is replaced.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolkit.errors import ToolkitError
from toolkit.methods.yolo.prompts import PromptBank

if TYPE_CHECKING:
    from torch import Tensor

_PARAMETERS = ("self", "text", "batch", "cache_clip_model")


@contextmanager
def answered_from(bank: PromptBank) -> Iterator[None]:
    """Answer every request for text embeddings from `bank` while the block runs.

    Call `ultralytics_env.prepare` first.

    Raises:
        ToolkitError: this version of Ultralytics asks elsewhere.
    """
    import torch
    from ultralytics import __version__
    from ultralytics.nn.tasks import WorldModel

    original = vars(WorldModel).get("get_text_pe")
    if original is None or tuple(inspect.signature(original).parameters) != _PARAMETERS:
        raise ToolkitError(
            f"ultralytics {__version__} asks for text embeddings in an unknown way; "
            "install version 8.4.190"
        )

    def get_text_pe(
        self: Any, text: Sequence[str], batch: int = 80, cache_clip_model: bool = False
    ) -> Tensor:
        device = next(self.model.parameters()).device
        return torch.from_numpy(bank.of(text)).to(device)[None]

    WorldModel.get_text_pe = get_text_pe
    try:
        yield
    finally:
        WorldModel.get_text_pe = original

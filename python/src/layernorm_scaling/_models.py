"""Models as the program takes them: paths. One that is loaded is saved into a temporary folder first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

Model = Union[str, "os.PathLike[str]", Any]
"""A path (folder, `.gguf`, `.safetensors`), or a loaded transformers model."""


@contextmanager
def on_disk(models: list[Model], tokenizer: Any = None) -> Iterator[list[str]]:
    """The models' paths, in their order. Temporary folders go when the context ends."""
    with tempfile.TemporaryDirectory(prefix="lns-") as parent:
        yield [_path(model, tokenizer, Path(parent) / str(place)) for place, model in enumerate(models)]


def _path(model: Model, tokenizer: Any, parent: Path) -> str:
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    if not hasattr(model, "save_pretrained"):
        raise TypeError(f"a model is a path or a loaded transformers model, not a {type(model).__name__}")
    # The folder's name is what reports call the model.
    named = getattr(model, "name_or_path", "") or type(model).__name__
    folder = parent / Path(str(named)).name
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return os.fspath(folder)

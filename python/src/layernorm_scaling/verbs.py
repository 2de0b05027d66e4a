"""The program's verbs as functions.

Arguments are the program's flags; `options` takes any other, as it is typed. `lns VERB --help` explains them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, overload

from ._models import Model, on_disk
from ._program import Progress, flag, names, run_json
from .records import Conversion, Diagnosis, Evaluation, Inspection, Plan, Study, TrainedRun

File = Union[str, "os.PathLike[str]"]
Files = Union[File, Sequence[File], None]


def _files(name: str, value: Files) -> list[str]:
    if value is None:
        return []
    listed = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    return flag(name, [os.fspath(file) for file in listed])


def _asked(
    text: Files, window: int | None, max_tokens: int | None, tasks: Any, data: Files, limit: int | None, shots: int
) -> list[str]:
    """Flags of what a model is asked, the same for all who ask."""
    return [
        *_files("--text", text),
        *flag("--window", window),
        *flag("--max-tokens", max_tokens),
        *flag("--tasks", names(tasks)),
        *_files("--data", data),
        *flag("--limit", limit),
        *flag("--shots", shots or None),
    ]


def _page(folder: Path) -> str | None:
    page = folder / "report.html"
    return page.read_text("utf-8") if page.is_file() else None


def inspect(model: Model, *, progress: Progress = True) -> Inspection:
    """Say what a model is: sizes, norm scheme, tensors, memory needed."""
    with on_disk([model]) as (path,):
        return Inspection._from(run_json(["inspect", path, "--tensors"], progress))


def diagnose(
    model: Model,
    *,
    text: Files = None,
    max_tokens: int | None = None,
    window: int | None = None,
    probes: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] | None = None,
    data: Files = None,
    limit: int | None = None,
    shots: int = 0,
    against: Model | None = None,
    out: File | None = None,
    threads: int | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> Diagnosis:
    """Show which layers of a model work and which idle, on `text`, or on `tasks` found in `data`.

    With `out`, a folder gets `diagnose.json`, `report.html` and charts; without, nothing is kept but what is returned.
    `tokenizer` is the tokenizer of models that are given loaded.
    """
    models = [model] if against is None else [model, against]
    with on_disk(models, tokenizer) as paths, tempfile.TemporaryDirectory(prefix="lns-") as scratch:
        folder = Path(scratch) / "diagnosis" if out is None else Path(out)
        said = run_json(
            [
                "diagnose",
                paths[0],
                *_asked(text, window, max_tokens, tasks, data, limit, shots),
                *flag("--probes", names(probes)),
                *flag("--against", paths[1] if against is not None else None),
                *flag("--threads", threads),
                *flag("--stream", stream),
                *flag("--out", folder),
                *options,
            ],
            progress,
        )
        own, *others = said if isinstance(said, list) else [said]
        beside = Diagnosis._from(others[0]) if others else None
        return Diagnosis._from(own, beside, _page(folder))


def eval(  # noqa: A001 - the verb's name
    model: Model,
    *,
    against: Sequence[Model] = (),
    text: Files = None,
    max_tokens: int | None = None,
    window: int | None = None,
    tasks: str | Sequence[str] | None = None,
    data: Files = None,
    limit: int | None = None,
    shots: int = 0,
    samples: File | None = None,
    threads: int | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> Evaluation:
    """Measure a model's loss, perplexity and bits per byte on `text`, or its accuracy on `tasks` found in `data`.

    Models in `against` are each compared with it, on the same tokens or documents.
    """
    with on_disk([model, *against], tokenizer) as paths:
        said = run_json(
            [
                "eval",
                *paths,
                *_asked(text, window, max_tokens, tasks, data, limit, shots),
                *flag("--samples", samples),
                *flag("--threads", threads),
                *flag("--stream", stream),
                *options,
            ],
            progress,
        )
    own, *others = said if isinstance(said, list) else [said]
    return Evaluation._from(own, tuple(Evaluation._from(other) for other in others))


def _convert(
    verb: str,
    model: Model,
    out: File | None,
    dry_run: bool,
    force: bool,
    arguments: Sequence[str],
    tokenizer: Any,
    progress: Progress,
) -> Conversion | Plan:
    if out is None and not dry_run:
        raise TypeError(f"{verb}() needs out=, the folder to make, or dry_run=True")
    with on_disk([model], tokenizer) as (path,):
        place = [] if out is None else ["--out", os.fspath(out)]
        flags = [*place, *flag("--dry-run", dry_run), *flag("--force", force)]
        said = run_json([verb, path, *flags, *arguments], progress)
    return Plan._from(said) if out is None or dry_run else Conversion._from(said, Path(out))


@overload
def retrofit(model: Model, out: File | None = ..., *, dry_run: Literal[True], **kwargs: Any) -> Plan: ...
@overload
def retrofit(model: Model, out: File, *, dry_run: Literal[False] = ..., **kwargs: Any) -> Conversion: ...
def retrofit(
    model: Model,
    out: File | None = None,
    *,
    mode: Literal["preserve", "replace", "anneal"] = "preserve",
    steps: int | None = None,
    exponent: float | None = None,
    sites: str | Sequence[str] | None = None,
    first_layer: int | None = None,
    dry_run: bool = False,
    text: Files = None,
    verify: bool = False,
    force: bool = False,
    max_tokens: int | None = None,
    tokenizer: Any = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> Conversion | Plan:
    """Give a trained Pre-LN model LayerNorm Scaling; by default without changing what it computes."""
    arguments = [
        "--mode",
        mode,
        *flag("--steps", steps),
        *([] if exponent is None else [f"--exponent={exponent}"]),
        *flag("--sites", names(sites)),
        *flag("--first-layer", first_layer),
        *_files("--text", text),
        *flag("--max-tokens", max_tokens),
        *flag("--verify", verify),
        *options,
    ]
    return _convert("retrofit", model, out, dry_run, force, arguments, tokenizer, progress)


@overload
def fold(model: Model, out: File | None = ..., *, dry_run: Literal[True], **kwargs: Any) -> Plan: ...
@overload
def fold(model: Model, out: File, *, dry_run: Literal[False] = ..., **kwargs: Any) -> Conversion: ...
def fold(
    model: Model,
    out: File | None = None,
    *,
    dry_run: bool = False,
    text: Files = None,
    verify: bool = False,
    force: bool = False,
    max_tokens: int | None = None,
    tokenizer: Any = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> Conversion | Plan:
    """Fold LayerNorm Scaling into the gains: a plain model that every runtime loads, the same function."""
    arguments = [
        *_files("--text", text),
        *flag("--max-tokens", max_tokens),
        *flag("--verify", verify),
        *options,
    ]
    return _convert("fold", model, out, dry_run, force, arguments, tokenizer, progress)


@overload
def prune(model: Model, out: File | None = ..., *, dry_run: Literal[True], **kwargs: Any) -> Plan: ...
@overload
def prune(model: Model, out: File, *, dry_run: Literal[False] = ..., **kwargs: Any) -> Conversion: ...
def prune(
    model: Model,
    out: File | None = None,
    *,
    layers: str | Sequence[int] | None = None,
    drop: int | None = None,
    by: str | None = None,
    text: Files = None,
    held_out: Files = None,
    max_tokens: int | None = None,
    max_ppl_increase: float | None = None,
    dry_run: bool = False,
    force: bool = False,
    tokenizer: Any = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> Conversion | Plan:
    """Remove layers that are named (`layers=[3, 7]` or `"21..25"`, counted from 0), or `drop` of them that are chosen on
    `text`.
    """
    named = layers if layers is None or isinstance(layers, str) else ",".join(map(str, layers))
    arguments = [
        *flag("--layers", named),
        *flag("--drop", drop),
        *flag("--by", by),
        *_files("--text", text),
        *_files("--held-out", held_out),
        *flag("--max-tokens", max_tokens),
        *flag("--max-ppl-increase", max_ppl_increase),
        *options,
    ]
    return _convert("prune", model, out, dry_run, force, arguments, tokenizer, progress)


def _training(
    text: Files,
    validation: Files,
    steps: int | None,
    tokens: int | None,
    threads: int | None,
    settings: Mapping[str, Any] | None,
) -> list[str]:
    """Flags of everything that trains. Settings are those of a run's `config.toml`."""
    chosen = [part for key, value in (settings or {}).items() for part in ("--set", f"{key}={_toml(value)}")]
    return [
        *_files("--text", text),
        *_files("--validation", validation),
        *flag("--steps", steps),
        *flag("--tokens", tokens),
        *flag("--threads", threads),
        *chosen,
    ]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def train(
    out: File,
    *,
    scheme: str | None = None,
    text: Files = None,
    validation: Files = None,
    preset: str | None = None,
    config: File | None = None,
    steps: int | None = None,
    tokens: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> TrainedRun:
    """Train a model from scratch under any norm scheme; a run that is at `out` already goes on.

    An interrupt keeps a snapshot first; the same call then goes on, to the same bits.
    """
    arguments = [
        *flag("--scheme", scheme),
        *flag("--preset", preset),
        *flag("--config", config),
        *flag("--seed", seed),
        *_training(text, validation, steps, tokens, threads, settings),
        *options,
    ]
    return TrainedRun._from(run_json(["train", "--out", os.fspath(out), *arguments], progress))


def study(
    study: str | File,
    out: File,
    *,
    text: Files = None,
    validation: Files = None,
    seeds: Sequence[int] | None = None,
    groups: str | Sequence[str] | None = None,
    steps: int | None = None,
    tokens: int | None = None,
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    progress: Progress = True,
) -> Study:
    """Train norm schemes over seeds on the same tokens and compare them. `study` is a preset's name or a TOML file."""
    arguments = [
        *flag("--seeds", None if seeds is None else ",".join(map(str, seeds))),
        *flag("--groups", names(groups)),
        *_training(text, validation, steps, tokens, threads, settings),
        *options,
    ]
    said = run_json(["study", os.fspath(study), "--out", os.fspath(out), *arguments], progress)
    return Study._from(said, Path(out), _page(Path(out)))

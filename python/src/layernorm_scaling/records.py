"""What the functions return: the program's JSON, with types.

Every record keeps the whole JSON as `record`; its fields are a contract, to which later versions add and from which they
take nothing. `to_pandas()` needs pandas, which is otherwise not asked for.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas

Json = dict[str, Any]
R = TypeVar("R")


def _read(kind: type[R], record: Mapping[str, Any] | None) -> R | None:
    """A record's fields that `kind` knows; those it lacks keep their defaults."""
    if record is None:
        return None
    return kind(**{known.name: record[known.name] for known in fields(kind) if known.name in record})  # type: ignore[arg-type]


def _read_all(kind: type[R], records: Iterable[Mapping[str, Any]] | None) -> tuple[R, ...]:
    return tuple(read for record in records or () if (read := _read(kind, record)) is not None)


def _frame(rows: list[Json]) -> pandas.DataFrame:
    """A table with a column for each number, `removal.delta_nll` for one inside another."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install layernorm-scaling[pandas]") from error
    return pandas.json_normalize(rows)


def _in_a_frame(page: str) -> str:
    """A page that stands for itself, inside another page."""
    style = "width:100%;height:42em;border:1px solid #8884;border-radius:4px"
    return f'<iframe title="lns report" sandbox style="{style}" srcdoc="{html.escape(page, quote=True)}"></iframe>'


@dataclass(frozen=True)
class Loss:
    """Loss on text, in nats per predicted token."""

    nll: float
    perplexity: float
    nll_stderr: float | None = None


@dataclass(frozen=True)
class Removal:
    """What the loss rises by without a layer, in nats, and how sure that is."""

    delta_nll: float
    stderr: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class StreamPoint:
    """The residual stream before layer `index`; the last point is what leaves the last layer."""

    index: int
    variance: float | None = None
    variance_without_first: float | None = None
    variance_content: float | None = None
    variance_median: float | None = None
    rms: float | None = None


@dataclass(frozen=True)
class Layer:
    """What was measured of one layer; what no probe measured is `None`. All of it is in `record`."""

    layer: int
    attention_variance: float | None = None
    mlp_variance: float | None = None
    branch_to_stream: float | None = None
    cosine: float | None = None
    block_influence: float | None = None
    gradient_norm: float | None = None
    jacobian_identity_distance: float | None = None
    removal: Removal | None = None
    removal_attention: Removal | None = None
    removal_mlp: Removal | None = None
    record: Json = field(default_factory=dict, repr=False)

    @classmethod
    def _from(cls, record: Json) -> Layer:
        removals = {name: _read(Removal, record.get(name)) for name in ("removal", "removal_attention", "removal_mlp")}
        read = _read(cls, {**record, **removals, "record": record})
        assert read is not None
        return read


@dataclass(frozen=True)
class Verdict:
    """What the evidence comes to."""

    text: str
    idle_layers: list[int] = field(default_factory=list)
    idle_threshold: float | None = None
    effective_depth: float | None = None
    variance_growth: Json | None = None
    evidence: list[Any] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Diagnosis:
    """Which layers of a model work and which idle: `diagnose.json`, and the page that was made of it."""

    name: str
    model: Json = field(repr=False)
    baseline: Loss | None
    stream: tuple[StreamPoint, ...] = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    verdict: Verdict | None
    angular_distance: list[list[float]] = field(repr=False)
    record: Json = field(repr=False)
    against: Diagnosis | None = field(default=None, repr=False)
    """The model that was put beside this one."""
    report_html: str | None = field(default=None, repr=False)
    """The report, one page that needs nothing else."""

    @classmethod
    def _from(cls, record: Json, against: Diagnosis | None = None, report_html: str | None = None) -> Diagnosis:
        return cls(
            name=record["name"],
            model=record.get("model", {}),
            baseline=_read(Loss, record.get("baseline")),
            stream=_read_all(StreamPoint, record.get("stream")),
            layers=tuple(Layer._from(layer) for layer in record.get("layers", [])),
            verdict=_read(Verdict, record.get("verdict")),
            angular_distance=record.get("angular_distance", []),
            record=record,
            against=against,
            report_html=report_html,
        )

    def to_pandas(self, table: str = "layers") -> pandas.DataFrame:
        """A table of `diagnose.json`: `layers`, `stream`, `heavy_tokens`, `blocks`, `lens`, `tasks`, or
        `angular_distance`, whose row i has the distances from `stream[i]` to `stream[i + n]`, n = 1, 2, …
        """
        if table == "angular_distance":
            rows = [{n: d for n, d in enumerate(row, 1)} for row in self.angular_distance]
            return _frame(rows)
        rows = self.record.get(table)
        if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
            tables = [name for name, rows in self.record.items() if isinstance(rows, list)]
            raise KeyError(f"this diagnosis has no table {table!r}; it has {', '.join(tables)}")
        return _frame(rows)

    def _repr_html_(self) -> str | None:
        return self.report_html and _in_a_frame(self.report_html)


@dataclass(frozen=True)
class Evaluation:
    """A model's loss on text, or its accuracy on tasks; what was not asked is `None`."""

    model: str
    seconds: float
    nll: float | None = None
    nll_stderr: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    windows: int | None = None
    window_len: int | None = None
    tasks: list[Json] | None = None
    difference: Json | None = None
    """From the first model: `nll`, `stderr`, and the interval's `low` and `high`."""
    record: Json = field(default_factory=dict, repr=False)
    against: tuple[Evaluation, ...] = field(default=(), repr=False)
    """The models that were compared with this one."""

    @classmethod
    def _from(cls, record: Json, against: tuple[Evaluation, ...] = ()) -> Evaluation:
        read = _read(cls, {**record, "record": record, "against": against})
        assert read is not None
        return read

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each model, or for each task of each model."""
        rows: list[Json] = []
        for each in (self, *self.against):
            if each.tasks is None:
                rows.append(each.record)
            else:
                rows += [{"model": each.model, **task} for task in each.tasks]
        return _frame(rows)

    def _repr_html_(self) -> str:
        return _rows_html(
            [each.record for each in (self, *self.against)]
            if self.tasks is None
            else [{"model": e.model, **t} for e in (self, *self.against) for t in e.tasks or []]
        )


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint. In a plan: where its values come from, and the factor they are multiplied by."""

    name: str
    shape: list[int]
    dtype: str
    source: str | None = None
    factor: float | None = None


@dataclass(frozen=True)
class Inspection:
    """What a model is: sizes, norm scheme, tensors, memory needed."""

    model: str
    config: Json = field(repr=False)
    norm_scheme: Json
    parameters: dict[str, int]
    parameters_total: int
    memory_bytes: int
    tokenizer: str
    tensors: tuple[Tensor, ...] = field(repr=False)
    record: Json = field(repr=False)

    @classmethod
    def _from(cls, record: Json) -> Inspection:
        tensors = _read_all(Tensor, record.get("tensors"))
        read = _read(cls, {**record, "tensors": tensors, "record": record})
        assert read is not None
        return read

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each tensor."""
        return _frame(self.record["tensors"])

    def _repr_html_(self) -> str:
        return _rows_html([{**{k: v for k, v in self.record.items() if k not in ("tensors", "config")}}])


@dataclass(frozen=True)
class Plan:
    """What a conversion would do, with `dry_run=True`: nothing was written."""

    config: Json = field(repr=False)
    tensors: tuple[Tensor, ...] = field(repr=False)
    record: Json = field(repr=False)

    @classmethod
    def _from(cls, record: Json) -> Plan:
        return cls(record.get("config", {}), _read_all(Tensor, record.get("tensors")), record)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each tensor of the result."""
        return _frame(self.record.get("tensors", []))


@dataclass(frozen=True)
class Conversion:
    """A model made from another, and where it came from."""

    folder: Path
    verb: str
    version: str
    model: str
    source: str
    source_model: str
    options: Json = field(repr=False)
    measured: Json | None
    """Losses before and after and the like, where there was text to measure on."""
    record: Json = field(repr=False)

    @classmethod
    def _from(cls, record: Json, folder: Path) -> Conversion:
        read = _read(cls, {"measured": None, **record, "folder": folder, "record": record})
        assert read is not None
        return read

    def to_pandas(self) -> pandas.DataFrame:
        """One row: what was done and what was measured."""
        return _frame([{key: value for key, value in self.record.items() if key not in ("source_files", "before")}])


@dataclass(frozen=True)
class TrainedRun:
    """How a training run ended, and its folder."""

    folder: Path
    outcome: str
    steps: int
    tokens: int
    loss: float | None = None
    perplexity: float | None = None
    record: Json = field(default_factory=dict, repr=False)

    @classmethod
    def _from(cls, record: Json) -> TrainedRun:
        read = _read(cls, {**record, "folder": Path(record["folder"]), "record": record})
        assert read is not None
        return read

    @property
    def model(self) -> Path:
        """The trained model's folder."""
        return self.folder / "model"

    def events(self) -> list[Json]:
        """What happened, line by line of `events.jsonl`."""
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text("utf-8").splitlines() if line]

    def to_pandas(self, event: str = "step") -> pandas.DataFrame:
        """A row for each event of one kind: `step`, `eval`, `layers`, `snapshot`, `note`."""
        return _frame([each for each in self.events() if each["event"] == event])


@dataclass(frozen=True)
class Study:
    """Runs compared: `study.json`, its folder, and the page that was made of it."""

    folder: Path
    name: str
    baseline: str | None
    groups: list[Json] = field(repr=False)
    pairs: list[Json] = field(repr=False)
    caution: str | None
    record: Json = field(repr=False)
    report_html: str | None = field(default=None, repr=False)

    @classmethod
    def _from(cls, record: Json, folder: Path, report_html: str | None) -> Study:
        known = {"baseline": None, "groups": [], "pairs": [], "caution": None, **record}
        read = _read(cls, {**known, "folder": folder, "record": record, "report_html": report_html})
        assert read is not None
        return read

    def to_pandas(self, table: str = "runs") -> pandas.DataFrame:
        """`runs`, a row for each; `pairs`, a group's difference from the baseline; or `curves`, a row for each
        evaluation of each run.
        """
        if table == "pairs":
            return _frame(self.pairs)
        runs = [{"group": group["name"], **run} for group in self.groups for run in group["runs"]]
        if table == "runs":
            long = ("curve", "variance", "diagnosis")
            return _frame([{key: value for key, value in run.items() if key not in long} for run in runs])
        if table == "curves":
            return _frame([{"group": r["group"], "seed": r["seed"], **point} for r in runs for point in r["curve"]])
        raise KeyError(f"a study has no table {table!r}; it has runs, pairs and curves")

    def _repr_html_(self) -> str | None:
        return self.report_html and _in_a_frame(self.report_html)


def _rows_html(rows: list[Json]) -> str:
    """A plain table, without pandas."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    heads = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    lines = (
        "".join(f"<td>{html.escape(_shown(row.get(column)))}</td>" for column in columns) for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

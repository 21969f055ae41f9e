"""The Parquet files of a sweep, and the only code that knows names under results/.

    results/<sweep>/trials.parquet    a row per trial, sorted by key
    results/<sweep>/curves.parquet    learning curves: key, epoch, step, split, metric, value
    results/<sweep>/plan.json         the last plan: question, axes, arms, claims, keys
    results/<sweep>/parts/            rows that are not yet in the two files above
    results/<sweep>/checkpoints/<key>/{best,last}.safetensors
    results/<sweep>/logs/<key>.log
    results/<sweep>/lock              held by the one driver

Every file is written beside and renamed, so a reader sees it whole or not at all. A part's curves are written before
its trials: a row's curves are there whenever the row is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from cvkan.errors import Problem, UserError

SCHEMA_VERSION = 1
MERGE_PARTS = 200
"""Parts after which they are merged in the middle of a sweep, so that a folder never holds thousands of files."""

PLAN = ("name", "question", "metric", "axes", "seeds", "claims", "arms", "dropped", "trials")
"""What plan.json must hold."""

READ_AGAIN = 5
"""How often a reader starts anew when files vanish under it."""

FINAL = frozenset({"completed", "stopped", "diverged"})
"""Statuses that are results; a trial of any other status is trained again by the next `cvkan sweep`."""
STATUSES = ("completed", "stopped", "diverged", "out_of_memory", "timed_out", "failed", "lost", "interrupted")

COSTS = ("seconds", "seconds_train", "seconds_eval")
"""Columns beside the figures that a claim or a report may be about; less is better."""

HEAD = {"key": pa.string(), "sweep": pa.string(), "arm": pa.string()}
CORE = {
    "seed": pa.int64(), "status": pa.string(), "reason": pa.string(), "n_params": pa.int64(), "flops": pa.int64(),
    "epochs": pa.int64(), "steps": pa.int64(), "best_epoch": pa.int64(),
}  # fmt: skip
TAIL = {
    "seconds": pa.float64(), "seconds_train": pa.float64(), "seconds_eval": pa.float64(), "peak_memory_mb": pa.float64(),
    "pack_size": pa.int64(), "attempts": pa.int64(), "cvkan_version": pa.string(), "git_sha": pa.string(), "git_dirty": pa.bool_(),
    "code_hash": pa.string(), "data_hash": pa.string(), "torch": pa.string(), "device": pa.string(), "host": pa.string(),
    "started_utc": pa.timestamp("us"), "config": pa.string(),
}  # fmt: skip
CURVES = {
    "key": pa.string(), "epoch": pa.int64(), "step": pa.int64(), "split": pa.string(), "metric": pa.string(), "value": pa.float64(),
}  # fmt: skip

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """A trial's row: the fixed columns, its axes by path and its metrics by name; and its curve."""

    fixed: dict[str, Any]
    axes: dict[str, Any]
    figures: dict[str, float | None]
    curve: list[dict[str, Any]]


@dataclass
class Ledger:
    """A sweep's folder. Opening it changes nothing; `damaged` names files that could not be read."""

    folder: Path
    damaged: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name: the sweep's, and its profile's after an @."""
        return self.folder.name

    def log_path(self, key: str) -> Path:
        """Where a trial's log lies."""
        return self.folder / "logs" / f"{key}.log"

    def checkpoint_path(self, key: str, kind: str) -> Path:
        """Where a trial's checkpoint lies; kind is best or last."""
        return self.folder / "checkpoints" / key / f"{kind}.safetensors"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the folder for one driver. UserError if another has it or it cannot be written."""
        lock = FileLock(self.folder / "lock")
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(Problem(str(self.folder), "", "another cvkan is running this sweep; wait for it or stop it")) from None
        except OSError as error:
            text = f"cannot be written: {error.strerror}; choose another folder with --results"
            raise UserError(Problem(str(self.folder), "", text)) from None
        try:
            yield
        finally:
            lock.release()

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Replaces plan.json."""
        _write(self.folder / "plan.json", json.dumps(plan, indent=1, ensure_ascii=False).encode())

    def read_plan(self) -> dict[str, Any]:
        """The last plan; UserError if the folder holds none, or one of a newer schema."""
        path = self.folder / "plan.json"
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(Problem(str(self.folder), "", "holds no sweep (no plan.json)")) from None
        except (OSError, ValueError) as error:
            raise UserError(Problem(str(path), "", f"cannot be read: {error}")) from None
        if not isinstance(plan, dict) or not isinstance(plan.get("schema"), int):
            raise UserError(Problem(str(path), "", "is not a plan"))
        _check_version(plan["schema"], path)
        missing = [name for name in PLAN if name not in plan]
        if missing:
            raise UserError(Problem(str(path), "", f"is no whole plan ({', '.join(missing)} missing); run its sweep again"))
        return plan

    def write_files(self, key: str, log: str | None, checkpoints: Mapping[str, bytes]) -> None:
        """A trial's log and checkpoints."""
        if log is not None:
            _write(self.log_path(key), log.encode("utf-8", "replace"), durable=False)
        for kind, content in checkpoints.items():
            _write(self.checkpoint_path(key, kind), content)

    def append(self, rows: Sequence[Row]) -> None:
        """Adds rows as one new part. A row whose key is known replaces the older one."""
        number = max((int(path.name[:6]) for path in self._parts()), default=0) + 1
        stem = self.folder / "parts" / f"{number:06d}"
        _write_table(_curves_table(rows), stem.with_suffix(".curves"))
        _write_table(_trials_table(rows), stem.with_suffix(".trials"))
        if number >= MERGE_PARTS:
            self.merge()

    def merge(self) -> None:
        """Moves the rows of all parts into trials.parquet and curves.parquet, sorted by key."""
        parts = self._parts()
        if not parts:
            return
        trials, curves = self.tables()
        for damaged in map(Path, self.damaged):
            if damaged.exists():  # it may be mended by hand; what is written next must not replace it
                damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
        _write_table(curves, self.folder / "curves.parquet")
        _write_table(trials, self.folder / "trials.parquet")
        for path in parts:
            path.unlink(missing_ok=True)
            path.with_suffix(".curves").unlink(missing_ok=True)

    def trials(self) -> pa.Table:
        """A row per trial, sorted by key."""
        return _settled(lambda: self._merged_trials()[0].drop_columns(["source"]))

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Trials, and the curves that belong to their rows; both sorted."""
        return _settled(self._tables)

    def _tables(self) -> tuple[pa.Table, pa.Table]:
        trials, sources = self._merged_trials()
        tables = [pa.table({name: pa.array([], kind) for name, kind in CURVES.items()}).append_column("source", pa.array([], pa.int64()))]
        for number, path in sources.items():
            curve = path.with_suffix(".curves") if path.suffix == ".trials" else self.folder / "curves.parquet"
            if path.exists() and not curve.exists():
                self._damaged(curve)
                continue
            table = self._read(curve)
            if table is not None:
                tables.append(table.append_column("source", pa.array(np.full(len(table), number))))
        curves = pa.concat_tables(tables)
        # An older row's curve goes with it: keep the points that come from the file of the row itself.
        place = pc.index_in(curves["key"], value_set=trials["key"].combine_chunks())
        source = pc.take(trials["source"], place)
        curves = curves.filter(pc.fill_null(pc.equal(source, curves["source"]), False)).drop_columns(["source"])
        curves = curves.sort_by([(name, "ascending") for name in ("key", "epoch", "step", "split", "metric")])
        return trials.drop_columns(["source"]), curves

    def statuses(self) -> dict[str, str]:
        """Status by key of every trial that the ledger holds."""
        trials = self.trials()
        return dict(zip(trials["key"].to_pylist(), trials["status"].to_pylist(), strict=True))

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "parts").glob("[0-9]*.trials"))

    def _merged_trials(self) -> tuple[pa.Table, dict[int, Path]]:
        """The newest row of each key with the number of its source, and the sources."""
        tables = [pa.table({name: pa.array([], kind) for name, kind in {**HEAD, **CORE, **TAIL, "source": pa.int64()}.items()})]
        sources: dict[int, Path] = {}
        main = [self.folder / "trials.parquet"] if (self.folder / "trials.parquet").exists() else []
        for number, path in enumerate([*main, *self._parts()]):
            table = self._read(path)
            if table is not None:
                tables.append(table.append_column("source", pa.array(np.full(len(table), number))))
                sources[number] = path
        table = _ordered(_concatenate(tables))
        newest = {key: place for place, key in enumerate(table["key"].to_pylist())}
        return table.take(pa.array(sorted(newest.values()), pa.int64())).sort_by("key"), sources

    def _damaged(self, path: Path) -> None:
        if str(path) not in self.damaged:
            self.damaged.append(str(path))

    def _read(self, path: Path) -> pa.Table | None:
        try:
            table = pq.ParquetFile(path, memory_map=False).read()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException):
            self._damaged(path)
            return None
        _check_version(int((table.schema.metadata or {}).get(b"cvkan.schema", b"0")), path)
        return table.replace_schema_metadata(None)


def _settled(read: Callable[[], Result]) -> Result:
    """Reads again if the driver of a running sweep merged the parts while they were read."""
    for _ in range(READ_AGAIN):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def find(results: Path) -> list[Ledger]:
    """The sweeps under a results folder, or the one sweep whose own folder it is. UserError if there are none."""
    if not results.is_dir():
        text = "is a file; name the folder of the results" if results.exists() else "no such folder; `cvkan sweep` writes one"
        raise UserError(Problem(str(results), "", text))
    if (results / "plan.json").exists():
        return [Ledger(results)]
    if (results / "trials.parquet").exists():
        raise UserError(Problem(str(results), "", "has trials.parquet but no plan.json; run its sweep again to write it"))
    found = [Ledger(path) for path in sorted(results.glob("*")) if any((path / name).exists() for name in ("plan.json", "trials.parquet"))]
    if not found:
        raise UserError(Problem(str(results), "", "holds no results yet; run `cvkan sweep sweeps/depth_vs_width.yaml` first"))
    return found


def axis_type(values: Sequence[Any]) -> pa.DataType:
    """The column type of an axis from its values: bool, int64, float64, else string; null if there are none."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if kinds <= {bool}:
        return pa.bool_()
    if kinds <= {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.string():
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(values, kind)


def _trials_table(rows: Sequence[Row]) -> pa.Table:
    axes = list(dict.fromkeys(path for row in rows for path in row.axes))
    figures = sorted({name for row in rows for name in row.figures})
    columns = {name: _column([row.fixed[name] for row in rows], kind) for name, kind in HEAD.items()}
    for path in axes:
        values = [row.axes.get(path) for row in rows]
        columns[path] = _column(values, axis_type(values))
    columns |= {name: _column([row.fixed[name] for row in rows], kind) for name, kind in CORE.items()}
    columns |= {name: _column([row.figures.get(name) for row in rows], pa.float64()) for name in figures}
    columns |= {name: _column([row.fixed[name] for row in rows], kind) for name, kind in TAIL.items()}
    return pa.table(columns)


def _curves_table(rows: Sequence[Row]) -> pa.Table:
    points = [{"key": row.fixed["key"], **point} for row in rows for point in row.curve]
    return pa.table({name: _column([point[name] for point in points], kind) for name, kind in CURVES.items()})


def _concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows; a column that changed its type between files becomes float64 if all are numbers, else string."""
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for column in table.schema:
            kinds.setdefault(column.name, set()).add(column.type)
    wanted = {}
    for name, found in kinds.items():
        found = {kind for kind in found if kind != pa.null()} or {pa.null()}
        numeric = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in found)
        wanted[name] = found.pop() if len(found) == 1 else pa.float64() if numeric else pa.string()
    parts = []
    for table in tables:
        columns = {
            name: table[name].cast(kind) if name in table.column_names else pa.nulls(len(table), kind) for name, kind in wanted.items()
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _ordered(table: pa.Table) -> pa.Table:
    """Columns in the ledger's order: head, axes, core, metrics, tail."""
    fixed = {*HEAD, *CORE, *TAIL, "source"}
    rest = [name for name in table.column_names if name not in fixed]
    axes = [name for name in rest if "." in name or name == "domain" or name in ("data", "model", "optimizer", "train", "loss")]
    figures = sorted(name for name in rest if name not in axes)
    return table.select([*HEAD, *axes, *CORE, *figures, *TAIL, "source"])


def _check_version(version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        text = f"has schema {version}; this cvkan reads up to {SCHEMA_VERSION}: use the version that wrote it, or a newer one"
        raise UserError(Problem(str(path), "", text))


def _write_table(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"cvkan.schema": str(SCHEMA_VERSION)}), sink, compression="zstd")
    _write(path, sink.getvalue())


def _write(path: Path, content: Any, durable: bool = True) -> None:
    """Writes beside, flushes to the disk if `durable`, renames: the file is there whole, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise

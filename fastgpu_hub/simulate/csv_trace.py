"""Traces as CSV: ``job_id,user,vc,gpu_num,submit_s,duration`` and ``vc,nodes,gpus_per_node``."""

from __future__ import annotations

import csv
import gzip
import lzma
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from fastgpu_hub.simulate.workload import Job, Pool, TraceError, Workload, counted, workload

ONLY_POOL = "gpu"
LARGEST = 1e11  # as seconds three thousand years: a larger number is a mistake


def open_text(path: Path) -> TextIO:
    """A text file, also one compressed with xz or gzip. Raises TraceError when it cannot be opened."""
    try:
        if path.suffix == ".xz":
            return lzma.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
        return path.open(encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); name a file that exists") from None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a CSV file; its readers raise TraceError with file, line, column and what belongs there."""

    path: Path
    line: int
    values: Mapping[str, str]

    def text(self, column: str) -> str:
        """The value without blanks around it; empty when the file has no such column."""
        return (self.values.get(column) or "").strip()

    def number(self, column: str, kind: str = "a number") -> float:
        """A number of at least 0."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= LARGEST:
            raise self.wrong(f"{column} is {text!r}", f"{kind} of at least 0")
        return value

    def whole(self, column: str) -> int:
        """A whole number of at least 0."""
        value = self.number(column, "a whole number")
        if value != int(value):
            raise self.wrong(f"{column} is {self.text(column)!r}", "a whole number of at least 0")
        return int(value)

    def wrong(self, what: str, instead: str) -> TraceError:
        """The error that names this line."""
        return TraceError(f"{self.path}, line {self.line}: {what}; it must be {instead}")


def rows(path: Path, required: tuple[str, ...]) -> Iterator[Row]:
    """The lines of a CSV file with a header. Raises TraceError when a required column is missing or it is no CSV."""
    with open_text(path) as file:
        reader = csv.DictReader(file)
        try:
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            if missing := [name for name in required if name not in names]:
                raise TraceError(
                    f"{path}, line 1: no column {', '.join(missing)}; the first line must name the columns, "
                    f"at least {','.join(required)}"
                )
            for values in reader:
                yield Row(path, reader.line_num, values)
        except (csv.Error, lzma.LZMAError, EOFError, OSError) as error:
            raise TraceError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from None


def read_nodes(path: Path) -> dict[str, Pool]:
    """Pools by virtual cluster; several lines of one cluster add up. Raises TraceError."""
    found: dict[str, tuple[int, ...]] = {}
    for row in rows(path, ("nodes", "gpus_per_node")):
        nodes, size = row.whole("nodes"), row.whole("gpus_per_node")
        if not nodes or not size:
            raise row.wrong(f"{nodes} nodes of {size} GPUs", "at least one node with at least one GPU")
        name = row.text("vc") or ONLY_POOL
        found[name] = found.get(name, ()) + (size,) * nodes
    if not found:
        raise TraceError(f"{path}, line 2: no nodes; add lines such as vc1,4,8")
    return {name: Pool(name, sizes) for name, sizes in found.items()}


def read_trace(path: Path, nodes: Path) -> Workload:
    """The jobs of a trace on the nodes of another file. Raises TraceError.

    ``user``, ``vc``, ``name`` and ``limit_s`` (the requested time) may be missing; other columns are not looked at.
    """
    pools = read_nodes(nodes)
    jobs: list[Job] = []
    without_gpu = 0
    for row in rows(path, ("job_id", "gpu_num", "submit_s", "duration")):
        gpu_count = row.whole("gpu_num")
        if not gpu_count:
            without_gpu += 1
            continue
        limit_ms = _ms(row.number("limit_s")) if row.text("limit_s") else None
        run_ms = _ms(row.number("duration"))
        jobs.append(
            Job(
                id=row.text("job_id"),
                user=row.text("user"),
                pool=_pool_of(row, pools, nodes),
                gpu_count=gpu_count,
                submit_ms=_ms(row.number("submit_s")),
                run_ms=run_ms if limit_ms is None else min(run_ms, limit_ms),
                limit_ms=limit_ms,
                name=row.text("name"),
                kind="server" if row.text("kind") == "server" else "job",
            )
        )
    left_out = [f"{counted(without_gpu, 'job')} without GPU"] if without_gpu else []
    return workload(path.name, jobs, pools.values(), left_out)


def _pool_of(row: Row, pools: Mapping[str, Pool], nodes: Path) -> str:
    name = row.text("vc")
    if not name and len(pools) == 1:
        return next(iter(pools))
    if name not in pools:
        what = f"virtual cluster {name!r} is not in {nodes}" if name else "no virtual cluster"
        raise row.wrong(what, f"one of {', '.join(sorted(pools))}")
    return name


def _ms(seconds: float) -> int:
    return round(seconds * 1000)

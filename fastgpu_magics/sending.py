"""From a cell and its options to a submission: checks first, then files, so that nothing is held for a cell that fails.

Reads the notebook's variables and the files named; sends nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgpu import models
from fastgpu.deadlines import AT_ONCE, Timing
from fastgpu.errors import InvalidRequest
from fastgpu.formatting import format_bytes, one_line
from fastgpu.keeping import Around
from fastgpu.result_files import OUTPUT_FOLDER, RESULT_NOTEBOOK
from fastgpu.submission import Upload, job_request, upload_of_bytes, uploads_of_globs
from fastgpu.together import Together, sweep_of
from fastgpu.view import Table
from fastgpu_magics.cells import NOTEBOOK_NAME, check_names, notebook_of
from fastgpu_magics.transfer import INPUTS_NAME, Inputs, dump_inputs, python_minor

NAME_LENGTH = 60
_OURS = (NOTEBOOK_NAME, INPUTS_NAME, RESULT_NOTEBOOK)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cell ready to go: its options, what is uploaded, what the variables weigh."""

    options: argparse.Namespace
    name: str
    fingerprint: str
    uploads: tuple[Upload, ...]
    inputs: Inputs

    def request(self, gpu_type: str, timing: Timing = AT_ONCE) -> models.JobSubmit:
        """The submission on a GPU type, to start when ``timing`` says. Raises InvalidRequest."""
        options = self.options
        return job_request(
            "notebook",
            (NOTEBOOK_NAME,),
            gpu_type,
            options.count,
            options.time,
            self.uploads,
            name=self.name,
            account=options.account,
            promo_code=options.promo,
            max_cost=options.max_cost,
            fingerprint=self.fingerprint,
            again=options.again,
            timing=timing,
            around=around_of(options),
            together=together_of(options),
        )

    @property
    def jobs(self) -> int:
        """How many jobs it makes; 0 for one that is no array."""
        swept = sweep_of("--array", self.options.array)
        return math.prod(len(values) for values in swept.values()) if swept else 0

    @property
    def listing(self) -> Table:
        """What would be sent, for ``--dry-run``."""
        variables = [(f"variable {name}", format_bytes(size)) for name, size in self.inputs.sizes]
        files = [
            (f"file {one_line(upload.path)}", format_bytes(upload.size_bytes))
            for upload in self.uploads
            if upload.path != INPUTS_NAME
        ]
        return Table(("sent along", "size"), (*variables, *files), frozenset({1}))


def prepare(cell: str, options: argparse.Namespace, namespace: Mapping[str, Any], folder: Path) -> Prepared:
    """Check a cell and gather what goes with it.

    Raises CellError on a name it lacks, TransferError on a variable that cannot go, InvalidRequest on a file.
    """
    if not cell.strip():
        raise InvalidRequest("the cell is empty.")
    swept = sweep_of("--array", options.array) or {}
    if both := sorted(set(swept) & set(options.inputs)):
        raise InvalidRequest(f"{both[0]} is sent with --in and swept with --array.", hint="Rename one of them.")
    check_names(cell, options.inputs, namespace, swept)
    inputs = dump_inputs(namespace, options.inputs) if options.inputs else Inputs(b"", ())
    files = uploads_of_globs([*options.files, *around_of(options).files], folder)
    for upload in files:
        if upload.path in _OURS or upload.path.split("/")[0] == OUTPUT_FOLDER:
            raise InvalidRequest(f"--files names {upload.path}, a name the job needs itself.", hint="Rename the file.")
    uploads = [upload_of_bytes(NOTEBOOK_NAME, notebook_of(cell, options.inputs, options.outputs, python_minor()))]
    if options.inputs:
        uploads.append(upload_of_bytes(INPUTS_NAME, inputs.content))
    return Prepared(options, options.name or name_of(cell), fingerprint_of(cell, options), (*uploads, *files), inputs)


def around_of(options: argparse.Namespace) -> Around:
    """What is kept and fetched, and the environment."""
    return Around(options.out_files, dict(options.sources), options.python, options.lock)


def together_of(options: argparse.Namespace) -> Together:
    """The sweep, what it waits for, its attempts and grace."""
    swept = sweep_of("--array", options.array)
    return Together(swept, options.max_running, options.after, options.retries, options.grace, options.spot)


def name_of(cell: str) -> str:
    """A job's name from its cell: the first line that says something, without comment signs."""
    lines = (one_line(line).lstrip("#% ") for line in cell.splitlines())
    return next((line[:NAME_LENGTH] for line in lines if line), "cell")


def fingerprint_of(cell: str, options: argparse.Namespace) -> str:
    """SHA-256 of the cell's text and every option that shapes the job: the same cell sent twice is recognised."""
    passing = ("again", "dry_run", "json", "help")
    shaping = {name: value for name, value in vars(options).items() if name not in passing}
    return hashlib.sha256(json.dumps([cell.rstrip(), shaping], sort_keys=True).encode()).hexdigest()

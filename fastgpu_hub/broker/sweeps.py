"""A sweep's combinations of values, and a job's arguments with its values filled in. Pure."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from fastgpu_hub.pricing.explain import Refused

MOST_JOBS = 1000
MOST_NAMES = 20
MOST_ARRAY_BYTES = 32 * 1024 * 1024

# One value for each name, in the order in which the sweep gives them.
Parameters: TypeAlias = tuple[tuple[str, str], ...]


def check_sweep(sweep: Mapping[str, Sequence[str]], spec: Mapping[str, Any]) -> Refused | None:
    """Refuse a sweep that names nothing, a value twice, too many jobs, or more than may be written at once."""
    if not sweep:
        return Refused(
            "invalid_request",
            "An array needs a sweep: at least one name with its values.",
            instead='Send for example "sweep": {"lr": ["1e-3", "1e-4"]}, or submit one job with POST api/jobs.',
        )
    if len(sweep) > MOST_NAMES:
        return Refused(
            "invalid_request",
            f"The sweep has {len(sweep)} names; at most {MOST_NAMES} are allowed.",
            {"names": len(sweep), "limit": MOST_NAMES},
            instead="Put what is the same for all jobs into environment variables or a file.",
        )
    for name, values in sweep.items():
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            return Refused(
                "invalid_request", f"The sweep gives {name} the value {twice!a} twice.", instead="Give each once."
            )
    jobs = jobs_of(sweep)
    if jobs > MOST_JOBS:
        return Refused(
            "invalid_request",
            f"The sweep makes {jobs} jobs; an array has at most {MOST_JOBS}.",
            {"jobs": jobs, "limit": MOST_JOBS},
            instead="Leave out values, or split it into several arrays.",
        )
    size = len(json.dumps(spec)) * jobs
    if size > MOST_ARRAY_BYTES:
        return Refused(
            "invalid_request",
            f"What the {jobs} jobs of this array say takes {size} bytes; at most {MOST_ARRAY_BYTES} are allowed.",
            {"bytes": size, "limit_bytes": MOST_ARRAY_BYTES, "jobs": jobs},
            instead="Name fewer input files, for example one archive, or split it into several arrays.",
        )
    return None


def jobs_of(sweep: Mapping[str, Sequence[str]]) -> int:
    """How many combinations there are."""
    count = 1
    for values in sweep.values():
        count *= len(values)
    return count


def combinations(sweep: Mapping[str, Sequence[str]]) -> list[Parameters]:
    """Every combination of values, the last name's values changing fastest."""
    return [tuple(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def filled(argv: Sequence[str], parameters: Parameters) -> tuple[str, ...]:
    """The arguments with ``{name}`` replaced by its value; braces around anything else stay as they are."""
    if not parameters:
        return tuple(argv)
    values = dict(parameters)
    named = re.compile("|".join(rf"\{{{re.escape(name)}\}}" for name in values))
    return tuple(named.sub(lambda match: values[match[0][1:-1]], argument) for argument in argv)


def only_so_many(refused: Refused, fit: int, jobs: int) -> Refused:
    """Why an array is refused: for its first job as for any, later for its number of jobs."""
    if jobs == 1:
        return refused
    some = f"Only {fit} of the {jobs} jobs of this array fit" if fit else "Not one job of this array fits"
    return replace(
        refused,
        message=f"{some}, so none was taken: {refused.message}",
        numbers={**refused.numbers, "jobs": jobs, "would_fit": fit},
        instead=" ".join(filter(None, [f"Submit {fit} of them." if fit else "", refused.instead])),
    )


def parameters_of(spec: Mapping[str, Any]) -> Parameters:
    """The values of a job of an array, from its spec; empty for any other."""
    return tuple((name, value) for name, value in spec.get("parameters", ()))


def swept(jobs: Sequence[Parameters]) -> dict[str, tuple[str, ...]]:
    """The sweep that made these combinations: each name with its values in their order."""
    values: dict[str, dict[str, None]] = {}
    for parameters in jobs:
        for name, value in parameters:
            values.setdefault(name, {})[value] = None
    return {name: tuple(found) for name, found in values.items()}

"""From a Launch to a running shepherd: command line, environment, user, input files."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from fastgpu_hub.broker.jobs_input import check_job_input
from fastgpu_hub.broker.ports.world import Launch, physical_uuids
from fastgpu_hub.engines import safe_files
from fastgpu_hub.engines.blobs import BlobFolder
from fastgpu_hub.engines.job_folder import METRICS_FILE, JobFolder
from fastgpu_hub.pricing.explain import Refused

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CannotStart(Exception):
    """The job cannot be started; the message is for its owner."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A Unix user a job runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def system_user(owner: str) -> SystemUser | Refused:
    """The Unix user named like the job's owner; never root."""
    try:
        entry = pwd.getpwnam(owner)
    except (KeyError, ValueError):
        return Refused(
            code="no_system_user",
            message=f"This machine has no user named {owner!r}, and jobs run as the user they belong to.",
            instead="Ask the administrator to create the user.",
        )
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        return Refused(
            code="no_system_user", message=f"Jobs do not run as {owner!r}: it is an administrator's account."
        )
    groups = tuple(sorted(set(os.getgrouplist(owner, entry.pw_gid)) - {0}))
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def own_user() -> SystemUser:
    """The user the service runs as."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
        name, home = entry.pw_name, entry.pw_dir
    except KeyError:  # usual in containers
        name, home = str(uid), "/"
    return SystemUser(name, uid, os.getegid(), tuple(os.getgroups()), os.environ.get("HOME") or home)


def job_argv(launch: Launch, python: str) -> list[str]:
    """The command line of a job."""
    if launch.kind == "script":
        return [python, "-u", *launch.argv]
    if launch.kind == "notebook":
        return [python, "-m", "fastgpu_magics.runner", *launch.argv]
    return list(launch.argv)


def job_environment(
    launch: Launch,
    python: str,
    user: SystemUser,
    passed: Mapping[str, str],
    progress_file: str,
    checkpoints: str,
    grace_ms: int,
) -> dict[str, str]:
    """Everything a job finds in its environment: little of the service's own (``passed``), its owner's, the lease's."""
    lease = {
        "CUDA_VISIBLE_DEVICES": ",".join(physical_uuids(launch.gpu_uuids)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "FASTGPU_JOB_ID": launch.lease_id,
        "FASTGPU_LEASE_ID": launch.lease_id,
        "FASTGPU_PROGRESS_FILE": progress_file,
        "FASTGPU_METRICS_FILE": os.path.join(os.path.dirname(progress_file), METRICS_FILE),
        "FASTGPU_CHECKPOINT_DIR": checkpoints,
        "FASTGPU_ATTEMPT": str(launch.attempt),
        "FASTGPU_GRACE_SECONDS": f"{grace_ms / 1000:g}",
    }
    if launch.parameters:
        lease["FASTGPU_PARAMETERS"] = json.dumps(dict(launch.parameters))
    if launch.simulated:
        lease["FASTGPU_SIMULATED"] = "1"
    return {
        "PATH": f"{os.path.dirname(os.path.abspath(python))}:{_SYSTEM_PATH}",
        "LANG": "C.UTF-8",
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        **passed,
        **launch.environment,
        **lease,
    }


def prepare(
    launch: Launch,
    folder: JobFolder,
    blobs: BlobFolder,
    *,
    python: str,
    as_owner: bool,
    passed: Mapping[str, str],
    grace_ms: int,
    max_log_bytes: int,
) -> None:
    """Fill a fresh job folder: input files and the record ``launch``. Blocks as long as copying takes.

    Raises CannotStart when something about the job is wrong, OSError when the disk is.
    """
    if refused := check_job_input(launch.kind, launch.argv, launch.environment, launch.inputs):
        raise CannotStart(refused.message)
    user = system_user(launch.owner) if as_owner else own_user()
    if isinstance(user, Refused):
        raise CannotStart(f"{user.message} {user.instead}".strip())
    work = os.open(folder.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _place_inputs(work, launch.inputs, blobs)
        if as_owner:
            safe_files.give_away(work, user.uid, user.gid)
    finally:
        os.close(work)
    checkpoints = folder.checkpoints(launch.checkpoint_id)
    checkpoints.mkdir(mode=0o700, exist_ok=True)
    grace_ms = grace_ms if launch.grace_ms is None else launch.grace_ms
    record = {
        "argv": job_argv(launch, python),
        "environment": job_environment(
            launch, python, user, passed, str(folder.progress_file), str(checkpoints), grace_ms
        ),
        "checkpoints": str(checkpoints),
        "work": str(folder.work),
        "user": user.name,
        "python": python,
        "time_limit_ms": launch.time_limit_ms,
        "grace_ms": grace_ms,
        "max_log_bytes": max_log_bytes,
    }
    if as_owner:
        record |= {"uid": user.uid, "gid": user.gid, "groups": user.groups}
        for given in (folder.progress_file.parent, checkpoints):
            os.chown(given, user.uid, user.gid)
        folder.path.chmod(0o711)  # so that the user gets to work/; everything beside it is 0600
    folder.write("launch", record)


def _place_inputs(work: int, inputs: Mapping[str, str], blobs: BlobFolder) -> None:
    for path, sha256 in inputs.items():
        try:
            source = os.open(blobs.path(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, ValueError):
            raise CannotStart(f"The bytes of the input file {path!r} are not here.") from None
        try:
            safe_files.place_file(work, path, source)
        finally:
            os.close(source)

"""Files in a folder that somebody else may write to: no link, pipe or device ever leads out of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from fastgpu_hub.broker.jobs_input import MAX_PATH_DEPTH, check_input_paths
from fastgpu_hub.broker.ports.world import FileEntry

MAX_READ_BYTES = 256 * 1024 * 1024
MAX_LISTED = 10_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_beneath(root: int, folders: list[str], *, create: bool = False) -> int:
    """Descriptor of a folder below ``root``, walked one name at a time without following any link."""
    here = os.dup(root)
    try:
        for name in folders:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=here)
            below = os.open(name, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def _own_regular_file(status: os.stat_result, owner: int) -> bool:
    # A second name may belong to a file outside, which only its owner's rights protect.
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == owner


def read_file(folder: str, path: str, limit_bytes: int = MAX_READ_BYTES) -> bytes | None:
    """Bytes of a regular file below ``folder`` that belongs to the folder's owner and has no other name.

    None when there is none, when the path is not plain and relative or leads through a link, and when the file is
    larger than ``limit_bytes``.
    """
    if check_input_paths([path]):
        return None
    *folders, name = path.split("/")
    try:
        root = os.open(folder, _FOLDER)
        try:
            parent = _open_beneath(root, folders)
            try:
                fd = os.open(name, _FILE, dir_fd=parent)
            finally:
                os.close(parent)
            with os.fdopen(fd, "rb") as file:
                status = os.fstat(fd)
                if not _own_regular_file(status, os.fstat(root).st_uid) or status.st_size > limit_bytes:
                    return None
                data = file.read(limit_bytes + 1)
                return data if len(data) <= limit_bytes else None
        finally:
            os.close(root)
    except OSError:
        return None


def list_files(folder: str) -> list[FileEntry]:
    """What :func:`read_file` would read, sorted by path; at most 10,000 files, 32 folders deep."""
    try:
        root = os.open(folder, _FOLDER)
    except OSError:
        return []
    try:
        return sorted(_walk(root), key=lambda entry: entry.path)
    finally:
        os.close(root)


def _walk(root: int) -> Iterator[FileEntry]:
    owner = os.fstat(root).st_uid
    pending: list[list[str]] = [[]]
    left = MAX_LISTED
    while pending and left > 0:
        folders = pending.pop()
        try:
            here = _open_beneath(root, folders)
        except OSError:
            continue
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    path = [*folders, entry.name]
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and len(path) < MAX_PATH_DEPTH:
                        pending.append(path)
                    elif _own_regular_file(status, owner) and not check_input_paths(["/".join(path)]):
                        yield FileEntry("/".join(path), status.st_size)
                        left -= 1
                        if left == 0:
                            return
        except OSError:
            continue
        finally:
            os.close(here)


def place_file(root: int, path: str, source: int) -> None:
    """Copy the open file ``source`` to a new file at ``path`` below the folder ``root``, creating its folders.

    A file that begins with ``#!`` can be executed. Raises ValueError for a path that is not plain and relative,
    OSError when something is in the way.
    """
    if refused := check_input_paths([path]):
        raise ValueError(refused.message)
    *folders, name = path.split("/")
    parent = _open_beneath(root, folders, create=True)
    try:
        target = os.open(name, _NEW, 0o700 if os.pread(source, 2, 0) == b"#!" else 0o600, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        offset = 0
        while sent := os.sendfile(target, source, offset, 1 << 24):
            offset += sent
    finally:
        os.close(target)


def give_away(root: int, uid: int, gid: int) -> None:
    """Make everything in the folder ``root``, and the folder itself, belong to a user. It must not be theirs yet."""
    for _, folders, files, here in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=here, follow_symlinks=False)
    os.fchown(root, uid, gid)

"""Files in a folder that somebody else may write to: no link, pipe or device ever leads out of it."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from fastgpu_hub.broker.jobs_input import MAX_PATH_DEPTH, check_input_paths
from fastgpu_hub.broker.ports.world import FileEntry, Reported

MAX_READ_BYTES = 256 * 1024 * 1024
MAX_LISTED = 10_000
_AT_ONCE = 100

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
    try:
        with open_file(folder, path) as file:
            if os.fstat(file.fileno()).st_size > limit_bytes:
                return None
            data = file.read(limit_bytes + 1)
            return data if len(data) <= limit_bytes else None
    except OSError:
        return None


def read_ends(folder: str, path: str, end_bytes: int) -> Reported:
    """Whole lines of a file that :func:`read_file` would read, whatever its size: of one that is longer than twice
    ``end_bytes`` so much of its beginning and of its end. Nothing when there is none."""
    try:
        with open_file(folder, path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 2 * end_bytes:
                return Reported(file.read(2 * end_bytes), size)
            begin = file.read(end_bytes).rpartition(b"\n")[0]
            file.seek(size - end_bytes)
            return Reported(begin + b"\n" + file.read(end_bytes).partition(b"\n")[2], size)
    except OSError:
        return Reported()


def open_file(folder: str, path: str) -> BinaryIO:
    """As :func:`read_file`, of any size, to read from. Raises OSError where there is none to be read."""
    if check_input_paths([path]):
        raise FileNotFoundError(path)
    *folders, name = path.split("/")
    root = os.open(folder, _FOLDER)
    try:
        parent = _open_beneath(root, folders)
        try:
            fd = os.open(name, _FILE, dir_fd=parent)
        finally:
            os.close(parent)
        file = os.fdopen(fd, "rb")
        if not _own_regular_file(os.fstat(fd), os.fstat(root).st_uid):
            file.close()
            raise FileNotFoundError(path)
        return file
    finally:
        os.close(root)


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


def remove_folders(folders: Sequence[Path]) -> None:
    """Remove folders with all that is in them, however deep and whatever its rights; those that are not there are none.

    Links are removed, never followed, and nothing of another file system is. Raises OSError naming what stays.
    """
    there = [str(folder) for folder in folders if os.path.lexists(folder)]
    for begin in range(0, len(there), _AT_ONCE):
        some = there[begin : begin + _AT_ONCE]
        # Not shutil: a tree may be deeper than Python recurses.
        if subprocess.run(["rm", "-rf", "--one-file-system", "--", *some], capture_output=True, check=False).returncode:
            subprocess.run(["chmod", "-R", "u+rwX", "--", *some], capture_output=True, check=False)
            done = subprocess.run(["rm", "-rf", "--one-file-system", "--", *some], capture_output=True, check=False)
            if done.returncode:
                raise OSError(done.stderr.decode(errors="replace").strip()[:500])

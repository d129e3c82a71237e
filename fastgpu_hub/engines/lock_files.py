"""Lock files: the packages that a job's environment is made of, each pinned, and nothing else. Pure.

What pip reads may also name options, other files, addresses and folders to build; none of that is taken, because the
service installs with its own rights.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_LOCK_BYTES = 1 << 20
MAX_PACKAGES = 2000
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_PYLOCK = re.compile(r"pylock(\.[^./]+)?\.toml")


def requirements_of(name: str, data: bytes) -> list[str]:
    """Lines for ``pip install -r``, one per package, sorted: ``name==version ; marker --hash=…``.

    Reads requirement files and pylock.toml (PEP 751). Raises ValueError with a sentence for the file's owner.
    """
    base = name.rpartition("/")[2]
    if len(data) > MAX_LOCK_BYTES:
        raise ValueError(f"{base} is larger than {MAX_LOCK_BYTES} bytes.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{base} is not UTF-8.") from None
    if base == "uv.lock":
        raise ValueError("uv.lock cannot be used as it is: write `uv export -o pylock.toml` and give that.")
    lines = _of_pylock(base, text) if _PYLOCK.fullmatch(base) else _of_requirements(base, text)
    if not lines:
        raise ValueError(f"{base} names no package.")
    if len(lines) > MAX_PACKAGES:
        raise ValueError(f"{base} names {len(lines)} packages; at most {MAX_PACKAGES} are installed.")
    return sorted(set(lines))


def _of_requirements(base: str, text: str) -> list[str]:
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [_requirement(base, line) for line in lines if line]


def _requirement(base: str, line: str) -> str:
    plain, *hashes = re.split(r"\s+(?=--)", line)
    bad = [each for each in hashes if not _HASH.fullmatch(each)]
    if plain.startswith("-") or bad:
        shown = ascii((bad or [plain])[0][:80])
        raise ValueError(f"{base} holds the option {shown}; only pinned packages and their hashes are taken.")
    try:
        requirement = Requirement(plain)
    except InvalidRequirement:
        raise ValueError(f"{base} holds {plain[:80]!a}, which is not a pinned package like numpy==2.1.0.") from None
    pins = list(requirement.specifier)
    if requirement.url or len(pins) != 1 or pins[0].operator not in ("==", "===") or "*" in pins[0].version:
        raise ValueError(f"{base} does not pin {requirement.name[:80]!a}: write {requirement.name[:80]}==VERSION.")
    return " ".join([str(requirement), *sorted(hashes)])


def _of_pylock(base: str, text: str) -> list[str]:
    try:
        packages = tomllib.loads(text).get("packages", [])
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{base} cannot be read: {error}.") from None
    if not isinstance(packages, list):
        raise ValueError(f"{base} cannot be read: its packages are no list.")
    return [_package(base, package) for package in packages]


def _package(base: str, package: Any) -> str:
    if not isinstance(package, dict) or not all(isinstance(package.get(key), str) for key in ("name", "version")):
        raise ValueError(f"{base} holds a package without name or version; folders and repositories are not taken.")
    marker: Any = package.get("marker")
    try:
        condition = f" ; {Marker(marker)}" if isinstance(marker, str) else ""
    except InvalidMarker:
        raise ValueError(f"{base} holds a marker that cannot be read: {marker[:80]!a}.") from None
    wheels = package.get("wheels")
    found = wheels if isinstance(wheels, list) else []
    hashes = {
        f"--hash={kind}:{value}"
        for wheel in found
        if isinstance(wheel, dict) and isinstance(wheel.get("hashes"), dict)
        for kind, value in wheel["hashes"].items()
    }
    if not hashes:
        raise ValueError(f"{base} has no wheel with a hash for {package['name'][:80]!a}; only wheels are installed.")
    return _requirement(base, f"{package['name']}=={package['version']}{condition} {' '.join(sorted(hashes))}")

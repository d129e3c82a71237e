"""``setup_fastgpu(c)``: one call in ``jupyterhub_config.py`` wires the service, its scopes and roles, and the spawner.

What the service finds in its environment: ``FASTGPU_CONFIG``, a JSON object of the traits an administrator set
(``{"FastGPUService": {...}, "LocalEngine": {...}, …}``), and ``FASTGPU_STATE_DIR``, the folder it may keep things in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

SERVICE = "fastgpu"
SPAWNER_SERVICE = "fastgpu-spawner"
CUSTOM_SCOPES: dict[str, dict[str, Any]] = {
    "custom:fastgpu:use": {"description": "Ask for GPUs, submit jobs and see what they cost"},
    "custom:fastgpu:teach": {"description": "See a class's GPU use and cost; set its quotas and promotions"},
    "custom:fastgpu:admin": {"description": "Set prices, quotas, promotions and credit; see and stop everything"},
    "custom:fastgpu:spawn": {"description": "Ask for GPUs on behalf of a server's owner (the hub's spawner)"},
    "custom:fastgpu:metrics": {"description": "Read FastGPU's Prometheus metrics"},
}
# Sections of the hub's configuration that are the service's business. Their traits reach it through FASTGPU_CONFIG.
SERVICE_SECTIONS = ("FastGPUService", "LocalEngine", "JobFiles")

_USE = ["custom:fastgpu:use", f"access:services!service={SERVICE}"]
_SERVER_DEFAULT = ["users:activity!user", "access:servers!server"]
_OURS = "fastgpu-"


def setup_fastgpu(
    c: Config,
    *,
    port: int = 10180,
    state_dir: str | os.PathLike[str] = "fastgpu-state",
    spawner: bool | str | type = True,
    teachers: Mapping[str, Iterable[str]] | None = None,
    admins: Iterable[str] = (),
    admin_groups: Iterable[str] = (),
    service_command: Sequence[str] | None = None,
) -> None:
    """Wire FastGPU into a hub's configuration. Calling it again replaces what it wired before.

    Lists and dicts that are already there are extended, so call it after your own ``services``, ``load_roles`` and
    ``base_url``. Traits of the service (``c.FastGPUService`` …) may be set before or after.

    Args:
        c: the hub's configuration object.
        port: where the service listens, on 127.0.0.1.
        state_dir: folder for database, job files and the spawner's token; made with mode 0700. Where
            ``c.LocalEngine.job_users = "system"`` the service makes it 0711, so that jobs reach their folders in it.
        spawner: True for :class:`FastGPULocalSpawner`, a spawner class (or its name) made with the mixin, or False to
            leave ``c.JupyterHub.spawner_class`` alone.
        teachers: class (JupyterHub group) -> names of its teachers.
        admins: people who may set prices and see everything, besides the hub's own ``admin_users``.
        admin_groups: JupyterHub groups whose members may.
        service_command: how to start the service; by default this Python with ``-m fastgpu_hub.service``.

    Raises ValueError for a port out of range or a teacher list that is one string.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ValueError(f"port {port!r} is not possible; use 1 to 65535, for example 10180")
    folder = Path(state_dir).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = _spawner_token(folder / "spawner-token")
    url = f"http://127.0.0.1:{port}"

    scopes = _dict(c.JupyterHub, "custom_scopes")
    scopes.update(CUSTOM_SCOPES)
    _set_services(c, url, folder, token, list(service_command or (sys.executable, "-m", "fastgpu_hub.service")))
    _set_roles(c, teachers or {}, admins, admin_groups)
    _extend_server_token(c)

    c.FastGPUSpawnerMixin.fastgpu_url = _service_address(c, url)
    c.FastGPUSpawnerMixin.fastgpu_token = token
    if spawner is True:
        c.JupyterHub.spawner_class = "fastgpu_hub.spawner.FastGPULocalSpawner"
    elif spawner:
        c.JupyterHub.spawner_class = spawner


def _set_services(c: Config, url: str, folder: Path, token: str, command: list[str]) -> None:
    services = [spec for spec in _list(c.JupyterHub, "services") if spec.get("name") not in (SERVICE, SPAWNER_SERVICE)]
    services += [
        {
            "name": SERVICE,
            "url": url,
            "command": command,
            "oauth_no_confirm": True,
            # The hub gives up, and ends, when the service has not answered by then; a busy machine is slow to start.
            "timeout": 120,
            "oauth_client_allowed_scopes": [
                "custom:fastgpu:use",
                "custom:fastgpu:teach",
                "custom:fastgpu:admin",
            ],
            "environment": {
                "FASTGPU_CONFIG": _LateConfig(c),
                "FASTGPU_STATE_DIR": str(folder),
            },
        },
        {"name": SPAWNER_SERVICE, "api_token": token, "display": False},
    ]
    c.JupyterHub.services = services


class _LateConfig(str):
    """Called by the hub each time it starts the service, so traits set after ``setup_fastgpu`` count.

    A text as well, because the hub keeps a service's environment in its database as JSON.
    """

    __slots__ = ("_c",)
    _c: Config

    def __new__(cls, c: Config) -> _LateConfig:
        late = super().__new__(cls, "set when the service starts")
        late._c = c
        return late

    def __call__(self, _spawner: Any) -> str:
        return service_config(self._c)

    def __deepcopy__(self, _memo: Any) -> _LateConfig:
        return self  # a copy would not see what is set later


def service_config(c: Config) -> str:
    """The service's sections of the configuration as JSON. Raises TypeError for a value that JSON cannot carry."""
    sections = {}
    for name in SERVICE_SECTIONS:
        if name in c:
            sections[name] = {trait: _plain(value) for trait, value in c[name].items() if not _untouched(value)}
    return json.dumps(sections, sort_keys=True, default=_not_json)


def _set_roles(
    c: Config, teachers: Mapping[str, Iterable[str]], admins: Iterable[str], admin_groups: Iterable[str]
) -> None:
    roles = [dict(role) for role in _list(c.JupyterHub, "load_roles") if not role.get("name", "").startswith(_OURS)]
    user = next((role for role in roles if role.get("name") == "user" and "scopes" in role), None)
    if user is not None:
        user["scopes"] = _union(user["scopes"], _USE)
    else:
        c.JupyterHub.extra_user_scopes = _union(_list(c.JupyterHub, "extra_user_scopes"), _USE)

    server = next((role for role in roles if role.get("name") == "server"), None)
    if server is None:
        roles.append(server := {"name": "server"})
    server["scopes"] = _union(server.get("scopes", _SERVER_DEFAULT), _USE)

    roles.append(
        {
            "name": "fastgpu-service",
            "description": "FastGPU's service: who is in which class with which servers; stop them when money ends",
            "scopes": [
                "read:users",
                "read:groups",
                "list:users",
                "list:groups",
                "read:servers",
                "delete:servers",
            ],
            "services": [SERVICE],
        }
    )
    roles.append(
        {
            "name": SPAWNER_SERVICE,
            "description": "FastGPU's spawner: ask for GPUs on behalf of a server's owner",
            "scopes": ["custom:fastgpu:spawn", f"access:services!service={SERVICE}"],
            "services": [SPAWNER_SERVICE],
        }
    )
    # The hub's own admin role cannot be given scopes; this one goes to the same people.
    roles.append(
        {
            "name": "fastgpu-admin",
            "description": "Administrators of FastGPU",
            "scopes": ["custom:fastgpu:admin", *_USE],
            "users": _Admins(c, tuple(admins)),
            "groups": list(admin_groups),
        }
    )
    for name, people in sorted(teachers.items()):
        if isinstance(people, str):
            raise ValueError(f"teachers[{name!r}] is the text {people!r}; write a list: [{people!r}]")
        roles.append(
            {
                "name": f"fastgpu-teacher-{_slug(name)}",
                "description": f"Teachers of the class {name}",
                "scopes": [f"custom:fastgpu:teach!group={name}"],
                "users": list(people),
            }
        )
    c.JupyterHub.load_roles = roles


class _Admins(Sequence[str]):
    """``admins`` and whoever is in ``c.Authenticator.admin_users`` by the time the hub reads its roles."""

    def __init__(self, c: Config, named: tuple[str, ...]) -> None:
        self._c = c
        self._named = named

    def _all(self) -> list[str]:
        return sorted({*self._named, *_plain(self._c.Authenticator.get("admin_users", ()))})

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __deepcopy__(self, _memo: Any) -> _Admins:
        return self  # traitlets copies configured values; this one has to keep looking at the file's own config

    def __repr__(self) -> str:
        return repr(self._all())


def _extend_server_token(c: Config) -> None:
    """A configured ``server_token_scopes`` would replace the server role, so it gets our scopes as well."""
    configured = c.Spawner.get("server_token_scopes")
    if callable(configured):
        if not (isinstance(configured, partial) and configured.func is _with_use):
            c.Spawner.server_token_scopes = partial(_with_use, configured)
    elif configured:
        c.Spawner.server_token_scopes = _union(_plain(configured), _USE)


def _with_use(configured: Callable[[Any], Iterable[str]], spawner: Any) -> list[str]:
    return _union(configured(spawner), _USE)


def _service_address(c: Config, url: str) -> str:
    base_url = c.JupyterHub.get("base_url", "/")
    if (bind_url := c.JupyterHub.get("bind_url")) and "base_url" not in c.JupyterHub:
        path = re.sub(r"^[a-z]+://[^/]*", "", bind_url)
        base_url = path or "/"
    return f"{url}/{base_url.strip('/')}/services/{SERVICE}".replace("//services", "/services")


def _spawner_token(path: Path) -> str:
    """The spawner's own token, made once and kept with mode 0600."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        if token := path.read_text(encoding="ascii").strip():
            return token
        raise ValueError(f"{path} is empty; delete it and start again") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        token = secrets.token_hex(32)
        file.write(token)
    return token


def _slug(name: str) -> str:
    """A class's name as part of a role's name, which may hold only a few characters; different names stay different."""
    plain = re.sub(r"[^a-z0-9.~_-]+", "-", name.lower()).strip("-._~")[:60]
    if plain == name:
        return plain
    return f"{plain or 'class'}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _union(scopes: Iterable[str], more: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*scopes, *more]))


def _list(section: Config, name: str) -> list[Any]:
    """A configured list, also one built with ``append``/``extend`` on a default that is empty."""
    value = section.get(name)
    return list(_plain(value)) if value is not None else []


def _dict(section: Config, name: str) -> dict[str, Any]:
    """A configured dict, put in place so that changing it changes the configuration."""
    value = section.get(name)
    section[name] = dict(_plain(value, {})) if value is not None else {}
    return section[name]


def _plain(value: Any, empty: Any = ()) -> Any:
    if isinstance(value, LazyConfigValue):
        found = value.to_dict()
        if "update" in found:
            update = found["update"]
            return update if isinstance(update, dict) else sorted(update)
        return [*found.get("prepend", ()), *found.get("extend", ())]
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value


def _untouched(value: Any) -> bool:
    """Reading an unset trait leaves an empty placeholder behind."""
    return isinstance(value, LazyConfigValue) and not value.to_dict()


def _not_json(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} cannot be passed to the service: use text, numbers, lists and dicts")

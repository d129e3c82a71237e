"""``setup_fastgpu``: one call makes a configuration the hub accepts, whatever was there before, however often."""

from __future__ import annotations

import copy
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from jupyterhub import roles as hub_roles
from jupyterhub import scopes as hub_scopes
from traitlets.config import Config

from fastgpu_hub import setup_fastgpu
from fastgpu_hub.setup import CUSTOM_SCOPES, service_config


@pytest.fixture
def config(tmp_path):
    def make(c=None, **options):
        c = Config() if c is None else c
        setup_fastgpu(c, state_dir=tmp_path / "state", **options)
        return c

    return make


def role(c, name):
    return next(role for role in c.JupyterHub.load_roles if role["name"] == name)


def service(c, name):
    return next(spec for spec in c.JupyterHub.services if spec["name"] == name)


def snapshot(c):
    plain = copy.deepcopy(dict(c.JupyterHub))
    for spec in plain["services"]:
        spec.get("environment", {}).pop("FASTGPU_CONFIG", None)
    for entry in plain["load_roles"]:
        entry["users"] = list(entry.get("users", []))
    return plain, dict(c.FastGPUSpawnerMixin), dict(c.Spawner)


def test_calling_it_twice_is_calling_it_once(config):
    c = config(teachers={"cs101": ["teacher"]})
    first = snapshot(c)
    assert snapshot(config(c, teachers={"cs101": ["teacher"]})) == first


def test_a_second_call_replaces_what_the_first_wired(config):
    c = config(config(teachers={"cs101": ["teacher"]}), port=10999, teachers={"bio": ["curie"]})
    assert service(c, "fastgpu")["url"] == "http://127.0.0.1:10999"
    assert [r["name"] for r in c.JupyterHub.load_roles if "teacher" in r["name"]] == ["fastgpu-teacher-bio"]


def test_what_the_administrator_already_has_stays(config):
    c = Config()
    c.JupyterHub.services.append({"name": "culler", "command": ["cull"]})
    c.JupyterHub.load_roles = [
        {"name": "user", "scopes": ["self", "shares!user"]},
        {"name": "server", "scopes": ["inherit"]},
        {"name": "culler", "scopes": ["delete:servers"], "services": ["culler"]},
    ]
    c.JupyterHub.custom_scopes = {"custom:site:print": {"description": "Print"}}
    c.Spawner.server_token_scopes = ["users:activity!user"]
    config(c)
    assert service(c, "culler")["command"] == ["cull"]
    assert role(c, "culler")["scopes"] == ["delete:servers"]
    use = ["custom:fastgpu:use", "access:services!service=fastgpu"]
    assert role(c, "user")["scopes"] == ["self", "shares!user", *use]
    assert role(c, "server")["scopes"] == ["inherit", *use]
    assert c.Spawner.server_token_scopes == ["users:activity!user", *use]
    assert "custom:site:print" in c.JupyterHub.custom_scopes


def test_token_scopes_that_are_computed_are_extended_once(config):
    c = Config()
    c.Spawner.server_token_scopes = lambda spawner: ["users:activity!user"]
    config(config(c))
    assert c.Spawner.server_token_scopes(None).count("custom:fastgpu:use") == 1


def test_every_role_names_scopes_the_hub_knows(config, monkeypatch):
    monkeypatch.setattr(hub_scopes, "scope_definitions", dict(hub_scopes.scope_definitions))
    c = config(teachers={"cs101": ["teacher"], "CS 101 <Übung>": ["teacher"]}, admins=["ada"], admin_groups=["staff"])
    hub_scopes.define_custom_scopes(c.JupyterHub.custom_scopes)
    for entry in c.JupyterHub.load_roles:
        hub_roles._validate_role_name(entry["name"])
        hub_scopes._check_scopes_exist(entry["scopes"], who_for=entry["name"])
    hub_scopes._check_scopes_exist(service(c, "fastgpu")["oauth_client_allowed_scopes"])
    names = [entry["name"] for entry in c.JupyterHub.load_roles]
    assert len(names) == len(set(names))
    assert role(c, "fastgpu-teacher-cs101")["scopes"] == ["custom:fastgpu:teach!group=cs101"]
    assert role(c, "fastgpu-admin")["groups"] == ["staff"]


def test_every_scope_has_a_description_and_only_the_spawner_may_spawn(config):
    c = config()
    assert all(scope["description"] for scope in CUSTOM_SCOPES.values())
    holders = [entry["name"] for entry in c.JupyterHub.load_roles if "custom:fastgpu:spawn" in entry["scopes"]]
    assert holders == ["fastgpu-spawner"]


def test_the_hubs_admins_administer_fastgpu_also_when_named_later(config):
    c = config(admins=["ada"])
    c.Authenticator.admin_users = {"root"}
    users = copy.deepcopy(role(c, "fastgpu-admin"))["users"]
    assert list(users) == ["ada", "root"]


def test_the_services_settings_reach_it_set_before_or_after(config):
    c = Config()
    c.FastGPUService.currency = "credits"
    config(c)
    c.LocalEngine.grace_seconds = 5
    c.Unrelated.secret = "s"
    found = json.loads(service(c, "fastgpu")["environment"]["FASTGPU_CONFIG"](None))
    assert found == {"FastGPUService": {"currency": "credits"}, "LocalEngine": {"grace_seconds": 5}}


def test_settings_that_cannot_be_passed_are_refused_by_value(config):
    c = config()
    c.LocalEngine.root = Path("/srv")
    assert json.loads(service_config(c))["LocalEngine"] == {"root": "/srv"}
    c.LocalEngine.root = object
    with pytest.raises(TypeError, match="cannot be passed to the service: use text"):
        service_config(c)


def test_the_spawners_token_is_kept_and_nobody_else_can_read_it(config, tmp_path):
    first = config().FastGPUSpawnerMixin.fastgpu_token
    path = tmp_path / "state" / "spawner-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = config()
    assert again.FastGPUSpawnerMixin.fastgpu_token == first == service(again, "fastgpu-spawner")["api_token"]
    assert len(first) == 64


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, "http://127.0.0.1:10180/services/fastgpu"),
        ({"base_url": "/jupyter/"}, "http://127.0.0.1:10180/jupyter/services/fastgpu"),
        ({"bind_url": "http://:8000/jupyter"}, "http://127.0.0.1:10180/jupyter/services/fastgpu"),
        ({"bind_url": "http://127.0.0.1:8000"}, "http://127.0.0.1:10180/services/fastgpu"),
    ],
)
def test_the_spawner_finds_the_service_below_the_hubs_base_url(config, section, expected):
    assert config(Config({"JupyterHub": section})).FastGPUSpawnerMixin.fastgpu_url == expected


def test_wrong_use_is_told(config):
    with pytest.raises(ValueError, match="port 0 is not possible; use 1 to 65535"):
        config(port=0)
    with pytest.raises(ValueError, match=r"write a list: \['teacher'\]"):
        config(teachers={"cs101": "teacher"})


def test_an_own_spawner_class_or_none_is_respected(config):
    assert config().JupyterHub.spawner_class == "fastgpu_hub.spawner.FastGPULocalSpawner"
    assert "spawner_class" not in config(spawner=False).JupyterHub
    own = "fastgpu_hub.spawner.kube.FastGPUKubeSpawner"
    assert config(spawner=own).JupyterHub.spawner_class == own


def test_the_hub_accepts_the_configuration(config, tmp_path):
    """A real JupyterHub reads it and sets up scopes, roles, services and their grants, without starting anything."""
    (tmp_path / "jupyterhub_config.py").write_text(
        f"""
from fastgpu_hub import setup_fastgpu
setup_fastgpu(c, state_dir={str(tmp_path / "state")!r}, teachers={{"cs101": ["teacher"]}})
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.admin_users = {{"root"}}
c.Authenticator.allow_all = True
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.cookie_secret = b"x" * 32
c.ConfigurableHTTPProxy.auth_token = "x"
c.JupyterHub.load_groups = {{"cs101": {{"users": ["alice"]}}}}
"""
    )
    code = """
import asyncio, json, sys
from jupyterhub.app import JupyterHub
from jupyterhub import orm, roles, scopes
async def look():
    hub = JupyterHub(config_file="jupyterhub_config.py")
    await hub.initialize([])
    def of(kind, name):
        found = kind.find(hub.db, name)
        held = roles.roles_to_expanded_scopes(roles.get_roles_for(found), found)
        return sorted(scope for scope in held if "fastgpu" in scope or scope == "access:services")
    print(json.dumps({
        "alice": of(orm.User, "alice"), "teacher": of(orm.User, "teacher"), "root": of(orm.User, "root"),
        "fastgpu": of(orm.Service, "fastgpu"), "fastgpu-spawner": of(orm.Service, "fastgpu-spawner"),
        "allowed": sorted(hub._service_map["fastgpu"].oauth_client.allowed_scopes),
        "server": sorted(orm.Role.find(hub.db, "server").scopes),
    }))
asyncio.run(look())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    use = ["access:services!service=fastgpu", "custom:fastgpu:use"]
    assert found["alice"] == use
    assert found["teacher"] == [*use[:1], "custom:fastgpu:teach!group=cs101", *use[1:]]
    assert set(found["root"]) >= {"access:services", "custom:fastgpu:use", "custom:fastgpu:admin"}
    assert found["fastgpu-spawner"] == ["access:services!service=fastgpu", "custom:fastgpu:spawn"]
    assert "custom:fastgpu:spawn" not in found["fastgpu"]
    assert set(found["allowed"]) == {*use, "custom:fastgpu:teach", "custom:fastgpu:admin"}
    assert found["server"] == ["access:servers!server", *use, "users:activity!user"]

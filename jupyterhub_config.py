"""A whole FastGPU hub on one machine, for trying it out: ``make hub`` starts it.

Demo accounts, one class, one price, one promotion, SQLite, local processes; GPUs found through NVML, else simulated
ones. For your own hub keep the call of ``setup_fastgpu`` and replace the rest: see docs/how-to/install.md.
"""

import os
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from fastgpu_hub import setup_fastgpu

c = get_config()  # noqa: F821  (given by JupyterHub)

here = Path(__file__).resolve().parent
state = Path(os.environ.get("FASTGPU_DEMO_STATE", here / ".fastgpu")).absolute()
state.mkdir(mode=0o700, parents=True, exist_ok=True)
hub_port, api_port, proxy_port, service_port = os.environ.get("FASTGPU_DEMO_PORTS", "8000,8081,8001,10180").split(",")

# ---------------------------------------------------------------- the hub, on this machine only
c.JupyterHub.bind_url = f"http://127.0.0.1:{hub_port}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.pid_file = str(state / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(state / "cookie-secret")
c.JupyterHub.template_vars = {"announcement": "FastGPU demo: everybody's password is fastgpu."}

# ---------------------------------------------------------------- demo accounts: never on a hub that others can reach
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "fastgpu"  # noqa: S105
c.Authenticator.allowed_users = {"alice", "bob", "teacher", "admin"}
c.Authenticator.admin_users = {"admin"}
c.JupyterHub.load_groups = {"cs101": {"users": ["alice", "bob"]}}

# ---------------------------------------------------------------- servers: local processes under one system user
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"] if os.geteuid() == 0 else []
c.Spawner.default_url = "/lab"
c.SimpleLocalProcessSpawner.home_dir_template = str(state / "home" / "{username}")


def welcome(spawner):
    """Put the tutorial where a newcomer finds it, never over their own copy; no question about news over it."""
    home = Path(c.SimpleLocalProcessSpawner.home_dir_template.format(username=spawner.user.name))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for notebook in (here / "docs" / "tutorials").glob("*.ipynb"):
        if not (home / notebook.name).exists():
            shutil.copy(notebook, home / notebook.name)
    settings = home / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    if not settings.exists():
        settings.parent.mkdir(parents=True)
        settings.write_text('{"fetchNews": "false"}')


c.Spawner.pre_spawn_hook = welcome

# ---------------------------------------------------------------- FastGPU: what it costs, who gets how much
start = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
c.FastGPUService.default_price = {"per_gpu_hour": "0.50"}
c.FastGPUService.grants = [{"account": "class:cs101", "amount": "100", "note": "demo credit"}]
c.FastGPUService.quotas = [
    {"scope": "class", "name": "cs101", "metric": "concurrent_gpus", "limit": 4},
    {"scope": "member", "name": "cs101", "metric": "concurrent_gpus", "limit": 2},
    {"scope": "member", "name": "cs101", "metric": "gpu_seconds", "limit": "20h", "window": "week"},
]
c.FastGPUService.promotions = [
    {
        "name": "Getting started: 20 % off",
        "percent_off": 20,
        "audience": ["class:cs101"],
        "starts_at": start.isoformat(),
        "ends_at": (start + timedelta(days=28)).isoformat(),
    }
]
c.FastGPUService.probe = os.environ.get("FASTGPU_DEMO_PROBE", "auto")
c.FastGPUService.simulated_gpus = {"count": int(os.environ.get("FASTGPU_DEMO_GPUS", "4")), "gpu_type": "h100-80gb"}
c.LocalEngine.job_users = "shared"
c.LocalEngine.stop_jobs_on_exit = True
# Whoever started this hub finds everything it started, and ends it, by this mark.
c.LocalEngine.pass_environment = ["LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "FASTGPU_DEMO_RUN"]
c.Spawner.env_keep.append("FASTGPU_DEMO_RUN")

setup_fastgpu(c, port=int(service_port), state_dir=state / "service", teachers={"cs101": ["teacher"]})

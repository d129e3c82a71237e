"""FastGPU in a notebook: ``%load_ext fastgpu_magics``, then ``%fastgpu`` and ``%%fastgpu submit``."""

from __future__ import annotations

from typing import Any

_KEY = "_fastgpu_extension"


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext``: register the magics and their completion. Imports them only now."""
    from fastgpu.client import GPUClient
    from fastgpu_magics.completion import make_matcher
    from fastgpu_magics.magic import FastGPUMagics

    unload_ipython_extension(shell)  # %reload_ext must leave one of each
    magics = FastGPUMagics(shell)
    matcher = make_matcher(shell, magics.known, GPUClient)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(matcher)
    setattr(shell, _KEY, (magics, matcher))


def unload_ipython_extension(shell: Any) -> None:
    """Called by ``%unload_ext``: stop the meter, take magics and completion back."""
    loaded = getattr(shell, _KEY, None)
    if loaded is None:
        return
    magics, matcher = loaded
    magics.close()
    if matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(matcher)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("fastgpu", None)
    setattr(shell, _KEY, None)

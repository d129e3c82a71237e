"""``python -m fastgpu_hub.simulate``; ``--help`` says what it does."""

from __future__ import annotations

from fastgpu_hub.simulate.commands import app

if __name__ == "__main__":
    app(prog_name="python -m fastgpu_hub.simulate")

"""``python -m fastgpu_hub.service`` and the program ``fastgpu-hub``: what the hub starts, and checks of its books."""

from __future__ import annotations

import sys

COMMANDS = ("audit", "ledger")


def main() -> None:
    """Run the service, or a command. Says so and exits where only the student's half of the package is installed."""
    try:
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            from fastgpu_hub.service.commands import app

            app(prog_name="fastgpu-hub")
        from fastgpu_hub.service.main import FastGPUService
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastgpu"):
            raise
        raise SystemExit(f"{error.name} is not installed. The service needs: pip install 'fastgpu-hub[hub]'") from None
    FastGPUService.launch_instance()


if __name__ == "__main__":
    main()

"""``python -m fastgpu_hub.service`` and the program ``fastgpu-hub``: what the hub starts."""

from __future__ import annotations


def main() -> None:
    """Run the service. Exits with a sentence where only the student's half of the package is installed."""
    try:
        from fastgpu_hub.service.main import FastGPUService
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastgpu"):
            raise
        raise SystemExit(f"{error.name} is not installed. The service needs: pip install 'fastgpu-hub[hub]'") from None
    FastGPUService.launch_instance()


if __name__ == "__main__":
    main()

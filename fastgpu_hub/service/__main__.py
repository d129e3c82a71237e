"""``python -m fastgpu_hub.service``: what the hub starts."""

from __future__ import annotations

from fastgpu_hub.service.main import main

if __name__ == "__main__":
    main()

"""Names of the files a notebook's job leaves behind, relative to its folder. Costs nothing to import."""

from __future__ import annotations

RESULT_NOTEBOOK = "result.ipynb"
OUTPUT_FOLDER = "out"
OUTPUT_LIST = "out/outputs.json"

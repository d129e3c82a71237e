"""From a device's marketing name to the GPU type that is priced: ``NVIDIA H100 80GB HBM3`` -> ``h100-80gb``."""

from __future__ import annotations

import re

GIB = 1024**3

# Sizes cards are sold with, GB. What a driver reports is a little less (firmware, error correction).
_SOLD_GB = (1, 2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 144, 180, 192, 288)
# Words that name the maker, the slot or the memory's kind, not the model.
_NOISE = re.compile(r"nvidia|tesla|geforce|quadro|graphics|device|generation|sxm\d*|pcie|hbm\d*e?|nvl|oem|\d+gb")
_MEMORY = re.compile(r"(?<![\d.])(\d{1,4}) ?gb\b")
_MIG = re.compile(r"\bmig ([0-9a-z.+]+)$")


def sold_gb(memory_bytes: int) -> int:
    """Memory in GB as a card is sold with it: the next such size at or above what the driver reports."""
    gib = memory_bytes / GIB
    return next((size for size in _SOLD_GB if size >= gib - 0.3), round(gib))


def gpu_type_of(name: str, memory_bytes: int | None = None) -> str:
    """The GPU type of a device: model, memory, and behind a dot the MIG profile, in ``[a-z0-9.-]``.

    ``memory_bytes`` is the whole GPU's, also for a MIG device. It decides where the name gives no memory, or one that
    is not the GPU's (``GH200 480GB``).
    """
    text = " ".join(re.sub(r"[^a-z0-9.+]+", " ", name.lower()).split())
    profile = ""
    if match := _MIG.search(text):
        profile = "." + match[1].replace("+", ".")
        text = text[: match.start()]
    written = _MEMORY.search(text)
    gb = int(written[1]) if written else None
    if memory_bytes is not None and (gb is None or not 0.75 <= memory_bytes / GIB / gb <= 1.25):
        gb = sold_gb(memory_bytes)
    model = [word for word in _MEMORY.sub(" ", text).replace("+", "").split() if not _NOISE.fullmatch(word)]
    base = "-".join(model).strip(".-") or "gpu"
    return f"{base}-{gb}gb{profile}"[:63] if gb else f"{base}{profile}"[:63]

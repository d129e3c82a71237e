"""Variables travel by name, with their sizes; what cannot travel is refused by name."""

from __future__ import annotations

import json
import math
import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from fastgpu_magics.transfer import TransferError, dump_inputs, load_inputs, save_outputs, unfit


class Tensor:
    """Looks like torch's."""

    def __init__(self, is_cuda: bool) -> None:
        self.is_cuda = is_cuda


Tensor.__module__ = "torch"


def open_this_file() -> Any:
    return Path(__file__).open()


def round_trip(namespace: dict[str, Any], names: list[str], folder: Path) -> dict[str, Any]:
    (folder / "inputs.pkl").write_bytes(dump_inputs(namespace, names).content)
    loaded: dict[str, Any] = {}
    load_inputs(loaded, str(folder / "inputs.pkl"))
    return loaded


def test_values_functions_and_modules_arrive(tmp_path: Path) -> None:
    scale = 3
    given = {"data": [1, 2], "f": lambda x: x * scale, "m": math, "unsent": 0}
    loaded = round_trip(given, ["data", "f", "m", "data"], tmp_path)
    assert sorted(loaded) == ["data", "f", "m"]
    assert (loaded["data"], loaded["f"](2), loaded["m"] is math) == ([1, 2], 6, True)


def test_what_two_variables_share_stays_shared(tmp_path: Path) -> None:
    parameters = [0.5]
    given = {"model": {"p": parameters}, "optimiser": [parameters]}
    loaded = round_trip(given, ["model", "optimiser"], tmp_path)
    assert loaded["model"]["p"] is loaded["optimiser"][0]


def test_sizes_are_listed(tmp_path: Path) -> None:
    inputs = dump_inputs({"small": 1, "big": b"x" * 2**20}, ["small", "big"])
    assert inputs.listing.startswith("small ")
    assert inputs.listing.endswith("big 1 MiB")
    assert sum(size for _, size in inputs.sizes) <= len(inputs.content)


def test_past_the_cap_it_names_the_variable_and_what_to_do() -> None:
    namespace = {"small": b"x" * 1000, "big": [b"y" * 4000, b"z" * 8000]}
    with pytest.raises(TransferError, match=r"`big` does not fit into the 10 KiB .* after small 10\d\d B: .*--files"):
        dump_inputs(namespace, ["small", "big"], cap_bytes=10 * 1024)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: (i for i in []), "a generator"),
        (lambda: threading.Lock(), "a lock"),
        (lambda: threading.RLock(), "a lock"),
        (lambda: threading.Thread(), "a running thread"),
        (lambda: Tensor(is_cuda=True), r"a live GPU array \(torch Tensor\).*\.cpu\(\)"),
        (open_this_file, "an open file"),
        (lambda: socket.socket(), "an open socket"),
    ],
)
def test_what_cannot_travel_is_refused_by_name_even_inside(make: Any, says: str) -> None:
    value = make()
    try:
        for wrapped in (value, [value], {"k": (1, value)}):
            with pytest.raises(TransferError, match=f"`x` is or holds {says}"):
                dump_inputs({"x": wrapped}, ["x"])
    finally:
        if hasattr(value, "close"):
            value.close()


def test_a_tensor_on_the_cpu_may_try() -> None:
    assert unfit(Tensor(is_cuda=False)) == ""
    assert unfit([1]) == ""


def test_a_value_that_refuses_by_itself_is_named() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("not\nme")

    with pytest.raises(TransferError, match=r"`x` \(Stubborn\) cannot be sent: not me"):
        dump_inputs({"x": Stubborn()}, ["x"])


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(TransferError, match="no variable `gone`, `lost`"):
        dump_inputs({"here": 1}, ["gone", "here", "lost"])


def test_outputs_are_saved_whole_and_listed(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    save_outputs({"loss": 0.5, "m": [1]}, ["loss", "m"], folder)
    assert pickle.loads((tmp_path / "out/loss.pkl").read_bytes()) == 0.5
    listed = json.loads((tmp_path / "out/outputs.json").read_text())
    assert listed["outputs"] == {name: (tmp_path / f"out/{name}.pkl").stat().st_size for name in ("loss", "m")}


def test_what_can_be_saved_is_saved_before_the_rest_is_named(tmp_path: Path) -> None:
    namespace = {"good": 1, "bad": (i for i in [])}
    with pytest.raises(TransferError, match="the cell bound no `gone` to bring out; `bad` is or holds a generator"):
        save_outputs(namespace, ["gone", "bad", "good"], str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.pkl", "outputs.json"]

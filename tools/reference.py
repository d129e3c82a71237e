"""The reference pages, written from the code: ``python -m tools.reference [--check]`` (``make docs``).

``docs/reference/configuration.md`` comes from the traits and their help, ``docs/reference/rest-api.md`` from the route
table and the wire models. With ``--check`` nothing is written; exit code 1 says that a page is out of date.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

from traitlets import Bool, DefaultHandler, Dict, Enum, Float, HasTraits, Integer, List, TraitType, Unicode

from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.engines.local import LocalEngine
from fastgpu_hub.service import openapi
from fastgpu_hub.service.main import FastGPUService
from fastgpu_hub.service.routes import API
from fastgpu_hub.service.routing import Route
from fastgpu_hub.setup import setup_fastgpu
from fastgpu_hub.spawner import FastGPULocalSpawner, FastGPUSpawnerMixin
from fastgpu_hub.spawner.kube import FastGPUKubeSpawner
from fastgpu_magics.server.extension import FastGPUServerExtension

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
LAB_SETTINGS = ROOT / "labextension" / "schema"
NOTE = "<!-- Written by `make docs` from the code. Change the text there, then run it again. -->"

# Where a class is configured, and what a reader should know before its traits.
SECTIONS: tuple[tuple[type[HasTraits], str], ...] = (
    (FastGPUService, "In `jupyterhub_config.py`. JupyterHub starts the service; these reach it at each start."),
    (JobFiles, "In `jupyterhub_config.py`. Read by the service, which keeps and fetches the jobs' files."),
    (LocalEngine, "In `jupyterhub_config.py`. Read by the service, which runs the jobs."),
    (FastGPUSpawnerMixin, "In `jupyterhub_config.py`. Holds for every spawner that is made with the mixin."),
    (FastGPULocalSpawner, "In `jupyterhub_config.py`. The spawner that `setup_fastgpu` sets unless told otherwise."),
    (FastGPUKubeSpawner, "In `jupyterhub_config.py`. Needs `pip install 'fastgpu-hub[kubernetes]'`."),
    (FastGPUServerExtension, "In a student's `jupyter_server_config.py`, not the hub's. The defaults suit most."),
)


# ---------------------------------------------------------------- text


def markdown(text: str) -> str:
    """A docstring or help text as Markdown: ``code`` spans, roles, and literal blocks after ``::``."""
    lines: list[str] = []
    block = False
    for line in dedent(text).strip().splitlines():
        if block and line.strip() and not line.startswith(" "):
            lines[-1:] = ["```", ""] if not lines[-1] else [lines[-1], "```", ""]
            block = False
        lines.append(line[4:] if block and line.startswith("    ") else line)
        if not block and line.endswith("::"):
            lines[-1] = line[:-1]
            lines += ["", "```python"]
            block = True
    if block:
        lines.append("```")
    joined = re.sub(r"```python\n\n", "```python\n", "\n".join(lines))
    joined = re.sub(r":\w+:`~?([\w.]+\.)?(\w+)`", r"`\2`", joined)
    return re.sub(r"``([^`\n]+)``", r"`\1`", joined)


def first_paragraph(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(markdown(inspect.cleandoc(text or "")).split("\n\n")[0].split())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ]


# ---------------------------------------------------------------- configuration


def trait_kind(trait: TraitType[Any, Any]) -> str:
    """What may be assigned, in words."""
    if isinstance(trait, Enum):
        return "one of " + ", ".join(f"`{json.dumps(value)}`" for value in trait.values or ())
    words = {Bool: "`True` or `False`", Integer: "whole number", Float: "number", Unicode: "text", Dict: "dict"}
    kind = next((word for base, word in words.items() if isinstance(trait, base)), "")
    if isinstance(trait, List):
        kind = "list of dicts" if isinstance(getattr(trait, "_trait", None), Dict) else "list of texts"
    least = getattr(trait, "min", None)
    return f"{kind or type(trait).__name__}, at least {least:g}" if isinstance(least, int | float) else kind


def trait_default(owner: type[HasTraits], trait: TraitType[Any, Any]) -> str:
    """The default, the same on every machine."""
    name = trait.name or ""
    if any(isinstance(vars(base).get(f"_default_{name}"), DefaultHandler) for base in owner.__mro__):
        return "see below"
    if trait.default_value == sys.executable:
        return "the Python that runs the service"
    return f"`{trait.default()!r}`".replace("'", '"')


def own_traits(owner: type[HasTraits]) -> dict[str, TraitType[Any, Any]]:
    """Configurable traits that the class itself defines."""
    return dict(sorted(owner.class_own_traits(config=True).items()))


def changed_defaults(owner: type[HasTraits]) -> Iterator[tuple[str, str]]:
    """Traits of a base class that this class gives another constant default, with that default."""
    values = SimpleNamespace(**{name: trait.default() for name, trait in owner.class_traits(config=True).items()})
    for handler in vars(owner).values():
        if not isinstance(handler, DefaultHandler) or handler.trait_name in own_traits(owner):
            continue
        value = handler.func(values) if handler.trait_name != "options_from_form" else None
        if value is not None:
            yield handler.trait_name, f"`{value!r}`"


def section(owner: type[HasTraits], note: str) -> Iterator[str]:
    """One class of the configuration reference."""
    yield from (f"## {owner.__name__}", "", first_paragraph(owner.__doc__), "", note, "")
    for name, trait in own_traits(owner).items():
        yield from (f"### `c.{owner.__name__}.{name}`", "")
        yield from (f"Type: {trait_kind(trait)}. Default: {trait_default(owner, trait)}.", "")
        yield from (markdown(str(trait.help)), "")
    bases = [base for base, _ in SECTIONS if base is not owner and issubclass(owner, base)]
    if bases:
        yield from (f"It also has everything of {' and '.join(link(base.__name__) for base in bases)}.", "")
    if changed := list(changed_defaults(owner)):
        yield from ("Defaults that differ from those of the class it builds on:", "")
        yield from table(("trait", "default here"), [(f"`{name}`", value) for name, value in changed])


def link(heading: str) -> str:
    """A link to a heading of the same page."""
    return f"[{heading}](#{heading.lower()})"


def setup_arguments() -> list[str]:
    """The one call: its arguments with defaults and meaning."""
    text = inspect.cleandoc(setup_fastgpu.__doc__ or "")
    listed = re.search(r"Args:\n(.*?)\n\n", text, re.DOTALL)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed[1] if listed else "", re.MULTILINE)
    meaning = {name: " ".join(markdown(words).split()) for name, words in entries}
    rows = []
    for name, parameter in inspect.signature(setup_fastgpu).parameters.items():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        rows.append((f"`{name}`", default, meaning[name]))
    before = markdown(text.split("Args:")[0]).strip()
    return ["## setup_fastgpu", "", before, "", *table(("argument", "default", "meaning"), rows)]


def lab_settings() -> Iterator[str]:
    """JupyterLab's settings, from the extension's schemas."""
    yield from ("## JupyterLab settings", "")
    for path in sorted(LAB_SETTINGS.glob("*.json"), reverse=True):
        schema = json.loads(path.read_text(encoding="utf-8"))
        yield from (f"Settings → Settings Editor → {schema['title']}. {schema['description']}", "")
        rows = [
            (f"`{name}`", f"`{json.dumps(entry['default'])}`", f"{entry['title']}. {entry['description']}")
            for name, entry in sorted(schema["properties"].items())
        ]
        yield from table(("setting", "default", "meaning"), rows)


def configuration() -> str:
    """``configuration.md``."""
    lines = [
        "# Configuration reference",
        "",
        NOTE,
        "",
        "One call in `jupyterhub_config.py` wires FastGPU into a hub; traits change what it does.",
        "How to put them together is in [Install on your own hub](../how-to/install.md).",
        "",
        *setup_arguments(),
    ]
    for owner, note in SECTIONS:
        lines += section(owner, note)
    return "\n".join([*lines, *lab_settings()]).rstrip() + "\n"


# ---------------------------------------------------------------- REST API

_REF = openapi.REF.format(model="")


def schema_kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        return link(str(schema["$ref"]).removeprefix(_REF))
    if "anyOf" in schema:
        return " or ".join(schema_kind(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {schema_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {schema_kind(schema['additionalProperties'])}"
    if kind == "string":
        kind = "instant" if schema.get("format") == "date-time" else "text"
    return kind + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None:
        return f", `{schema['pattern']}`" if "pattern" in schema else ""
    return f", {least} to {most}" if most is not None else f", at least {least}"


def fields(schema: Mapping[str, Any]) -> list[str]:
    """The fields of a model."""
    needed = schema.get("required", ())
    rows = []
    for name, entry in schema.get("properties", {}).items():
        default = "required" if name in needed else f"`{json.dumps(entry.get('default'))}`"
        rows.append((f"`{name}`", schema_kind(entry), default))
    return table(("field", "type", "default"), rows) if rows else []


def model(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """One wire model."""
    yield from (f"### {name}", "", markdown(inspect.cleandoc(str(schema.get("description", "")))), "")
    if "enum" in schema:
        yield from ("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".", "")
    yield from fields(schema)


def operation(route: Route, described: Mapping[str, Any]) -> Iterator[str]:
    """One route."""
    yield from (f"### {route.method} {route.path}", "")
    yield from (f"{described['summary']}. {markdown(described['description'])}", "")
    rows = [
        (f"`{each['name']}`", each["in"], schema_kind(each["schema"]), each.get("description", ""))
        for each in described["parameters"]
        if each["in"] != "header"
    ]
    if rows:
        yield from table(("parameter", "in", "type", "meaning"), rows)
    if route.effect:
        yield from ("Takes an [idempotency key](#idempotency-keys).", "")
    if route.body is not None:
        yield from (f"Body: {link(route.body.__name__)}.", "")
    elif route.method == "PUT":
        yield from (f"Body: bytes, at most {route.limit_bytes // 2**20} MiB.", "")
    yield from (f"Answer: {route.status}, {_answer(route)}.", "")


def _answer(route: Route) -> str:
    if route.answer is not None:
        return f"{'list of ' if route.many else ''}{link(route.answer.__name__)}"
    return f"`{route.media.split(';')[0]}`" if route.media else "no body"


def idempotency_help(document: Mapping[str, Any]) -> str:
    """What the OpenAPI document says about the header."""
    header = next(each for each in document["paths"]["/api/jobs"]["post"]["parameters"] if each["in"] == "header")
    return str(header["description"])


def rest_api() -> str:
    """``rest-api.md``."""
    document = openapi.document(API, server="/services/fastgpu/", version="")
    lines = [
        "# REST API",
        "",
        NOTE,
        "",
        "All paths are below `https://YOUR-HUB/services/fastgpu/`. The same table as an OpenAPI 3.1 document:",
        "`GET api/openapi.json`. SDK, CLI, magics, JupyterLab and spawner use nothing else.",
        "",
        "Send `Authorization: token TOKEN` (or `Bearer TOKEN`) with a token of JupyterHub, made on its token page.",
        document["info"]["description"],
        "Requests with unknown fields are refused. Every error has the body [ErrorAnswer](#erroranswer).",
        "",
        "## Idempotency keys",
        "",
        "A POST that changes something takes the header `Idempotency-Key`: up to 200 printable ASCII characters, for",
        f"example a UUID. {idempotency_help(document)} The SDK sends one with each such call.",
        "",
        "## Routes",
        "",
    ]
    for route in API:
        lines += operation(route, document["paths"][f"/{route.path}"][route.method.lower()])
    lines += ["## Models", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += model(name, schema)
    return "\n".join(lines).rstrip() + "\n"


PAGES: dict[str, Callable[[], str]] = {"configuration.md": configuration, "rest-api.md": rest_api}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them."""
    old = []
    for name, write in PAGES.items():
        path, text = FOLDER / name, write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(name)
        if "--check" not in arguments:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")
    if "--check" in arguments and old:
        print(f"out of date: {', '.join(old)}; run make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the documents show exists: commands, links, images, names, options, settings."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from IPython.core.inputtransformer2 import TransformerManager
from traitlets.config import Config

import fastgpu
from fastgpu import cli, models
from fastgpu.client import GPUClient
from fastgpu.job import Job
from fastgpu.managing import Managing
from fastgpu_hub.service.commands import app as service_app
from fastgpu_magics.arguments import CELL_COMMANDS, LINE_COMMANDS, read_line

IMAGES = ("spawn-page.png", "notebook-job.png", "queue.png", "refusal.png", "status-bar.png", "class-page.png")
DRAWINGS = ("calibration.svg", "plan.svg")

# What the variables of the examples are.
NAMES: dict[str, type] = {
    "client": GPUClient,
    "job": Job,
    "status": models.Job,
    "quote": models.Quote,
    "receipt": models.Receipt,
    "report": models.ClassReport,
    "member": models.Member,
    "costs": models.CostReport,
    "row": models.CostRow,
    "promotion": models.Promotion,
    "draft": models.Promotion,
    "code": models.PromotionCode,
    "preview": models.Preview,
    "person": models.PreviewRow,
    "quota": models.QuotaUse,
    "grant": models.Grant,
    "ask": models.Ask,
    "notice": models.Notice,
    "line": models.ChargeLine,
    "entry": models.AuditLine,
    "problem": models.Problem,
    "device": models.InventoryGpu,
    "error": fastgpu.FastGPUError,
    "plan": models.StartPlan,
}
OPEN_ENDED = {
    "set_quota": models.QuotaSet,
    "add_promotion": models.PromotionSet,
    "edit_promotion": models.PromotionSet,
    "preview_promotion": models.PromotionSet,
    "grant": models.GrantSet,
}
# What a command named in passing is given, so that it parses.
JUST_NAMED = {
    **dict.fromkeys(("logs", "receipt", "cancel", "submit", "run"), ("JOB_ID",)),
    "redeem": ("CODE",),
    "ask": ("2", "reason"),
}


# ---------------------------------------------------------------- commands


def make_targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), re.MULTILINE))


def test_the_readmes_two_commands_are_in_the_makefile(readme, root):
    shown = [line.split("#")[0].strip() for block in readme.code("sh") for line in block.splitlines()]
    assert shown[:2] == ["make hub", "make test"]
    assert {"hub", "test", "demo", "lint", "bench"} <= make_targets(root)


def test_every_make_target_named_anywhere_exists(documents, root):
    named = {
        (document.name, target)
        for document in documents
        for text in (*document.commands, *document.code("text", "console"))
        for target in re.findall(r"(?:^|\s)make ([a-z][a-z-]*)", text)
    }
    assert ("README.md", "bench") in named
    assert not {(name, target) for name, target in named if target not in make_targets(root)}


def test_the_readme_shows_what_make_hub_prints(readme):
    from tools.hub import WELCOME

    printed = WELCOME.format(url="http://127.0.0.1:8000", gpus="", log="").split("GPUs:")[0].strip()
    assert printed in readme.code("text")


def test_every_fastgpu_command_shown_parses(written):
    commands = typer.main.get_command(cli.app)
    parsed = 0
    for document in written:
        for line in document.commands:
            words = shlex.split(line, comments=True) if line.startswith("fastgpu ") else []
            if not words:
                continue
            assert words[1] in commands.commands, f"{document.name}: {line}"
            arguments = words[2:] or list(JUST_NAMED.get(words[1], ()))
            commands.commands[words[1]].make_context(words[1], arguments)  # raises on an unknown option
            parsed += 1
    assert parsed > 20


def test_every_command_can_be_found(written):
    shown = {document.name: set(document.commands) | set(cell_magics(document)) for document in written}
    begun = {" ".join(line.split()[:2]) for lines in shown.values() for line in lines if line.strip()}
    commands = {f"fastgpu {name}" for name in typer.main.get_command(cli.app).commands}
    commands |= {f"%fastgpu {name}" for name in LINE_COMMANDS} | {f"%%fastgpu {name}" for name in CELL_COMMANDS}
    assert commands - begun == set()


def test_every_command_of_the_service_shown_parses(written):
    groups = typer.main.get_command(service_app).commands
    parsed = 0
    for document in written:
        for line in document.commands:
            words = shlex.split(line, comments=True) if line.startswith("fastgpu-hub ") else []
            if words:
                group, command = groups[words[1]], words[2]
                group.commands[command].make_context(command, words[3:])  # raises on an unknown option
                parsed += 1
    assert parsed >= 5


def cell_magics(document) -> Iterator[str]:
    lines = [line for block in document.code("python") for line in block.splitlines()]
    for line in (*lines, *document.spans):
        if re.match(r"%%?fastgpu\b", line):
            yield line


def test_every_magic_shown_parses(written):
    parsed = 0
    for document in written:
        for line in cell_magics(document):
            word, _, rest = line.partition(" ")
            commands = CELL_COMMANDS if word == "%%fastgpu" else LINE_COMMANDS
            if rest:
                read_line(rest, commands, "status", lambda expression: "j-1")
            parsed += 1
    assert parsed > 20


def test_options_named_on_their_own_exist(written, simulation):
    known = {option for line in (*LINE_COMMANDS.values(), *CELL_COMMANDS.values()) for option in line.parser.options}
    for command in typer.main.get_command(cli.app).commands.values():
        known |= {option for parameter in command.params for option in parameter.opts}
    for group in typer.main.get_command(service_app).commands.values():
        known |= {option for command in group.commands.values() for par in command.params for option in par.opts}
    for command in (simulation, *simulation.commands.values()):
        known |= {option for parameter in command.params for option in parameter.opts}
    known |= {"--help"}
    named = {
        (document.name, span.split()[0])
        for document in written
        for span in document.spans
        if span.startswith("--") and len(span) > 2
    }
    assert not {(name, option) for name, option in named if option not in known}


# ---------------------------------------------------------------- links, images


def test_every_relative_link_leads_somewhere(documents):
    anchors = {document.path: document.anchors for document in documents}
    broken = []
    for document in documents:
        for link in document.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target) or target.endswith(".png"):
                continue
            path = (document.path.parent / target).resolve() if target else document.path
            if not path.exists() or (anchor and anchor not in anchors.get(path, {anchor})):
                broken.append((document.name, link))
    assert not broken


@pytest.mark.parametrize("image", IMAGES)
def test_the_screenshots_are_there(image, root):
    assert (root / "docs" / "images" / image).is_file(), "make it with the browser tests and look at it"


def test_every_image_shown_is_one_of_the_screenshots_and_says_in_words_what_it_shows(documents, readme):
    shown = {
        (document.path.parent / target).resolve(): words
        for document in documents
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", document.prose)
    }
    assert {path.name for path in shown} <= {*IMAGES, *DRAWINGS}
    assert all(path.parent == readme.path.parent / "docs" / "images" for path in shown)
    assert all(len(words) > 20 for words in shown.values())
    assert all(image in readme.prose for image in IMAGES)


# ---------------------------------------------------------------- Python


def python_of(block: str) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(block))


def inner_cells(blocks: list[str]) -> Iterator[str]:
    """Blocks of Python; of a cell magic what is below it."""
    for block in blocks:
        yield block.partition("\n")[2] if block.startswith("%%") else block


def attribute_of(owner: type, name: str) -> Any:
    """What an attribute is; None when there is none. Errors set theirs when they are made."""
    fields = getattr(owner, "model_fields", {})
    if name in fields:
        return fields[name]
    if issubclass(owner, Exception) and re.search(rf"``{name}``", owner.__doc__ or ""):
        return name
    return getattr(owner, name, None)


def check_call(owner: type, call: ast.Call, where: str) -> None:
    assert isinstance(call.func, ast.Attribute)
    name = call.func.attr
    signature = inspect.signature(attribute_of(owner, name))
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    if name in OPEN_ENDED:
        unknown = {key for key in keywords if key not in {*signature.parameters, *OPEN_ENDED[name].model_fields}}
        assert not unknown, f"{where}: {name} takes no {unknown}"
    if not any(isinstance(argument, ast.Starred) for argument in call.args):
        signature.bind(None, *call.args, **keywords)  # raises TypeError for a name or a number it does not take


def owner_of(node: ast.AST) -> type | None:
    """What the thing before the dot is, by its name in the examples."""
    named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return NAMES.get(node.value.id) if named else None


def check_names(tree: ast.Module, where: str, *, calls: bool = True) -> int:
    """How many names were found to exist; with ``calls`` their arguments are checked too."""
    checked = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "fastgpu":
            assert all(alias.name in fastgpu.__all__ for alias in node.names), where
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fastgpu":
            assert node.attr in fastgpu.__all__, f"{where}: {ast.unparse(node)} does not exist"
            checked += 1
        elif isinstance(node, ast.Attribute) and (owner := owner_of(node)) is not None:
            assert attribute_of(owner, node.attr) is not None, f"{where}: {ast.unparse(node)} does not exist"
            checked += 1
        elif isinstance(node, ast.Call) and calls and (owner := owner_of(node.func)) is not None:
            check_call(owner, node, where)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "GPUClient":
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(GPUClient).bind(*node.args, **keywords)
    return checked


def test_every_sdk_name_and_argument_shown_exists(written):
    checked = 0
    for document in written:
        for block in inner_cells(document.code("python")):
            checked += check_names(python_of(block), document.name)
        for span in document.spans:
            if re.match(r"(client\.|job\.|GPUClient\()", span):  # `job.pull()` in passing names no arguments
                checked += check_names(ast.parse(span), document.name, calls=not span.endswith("()"))
    assert checked > 40


def test_all_that_teachers_and_administrators_do_is_shown(written):
    calls = {
        node.func.attr
        for document in written
        for block in inner_cells(document.code("python"))
        for node in ast.walk(python_of(block))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and owner_of(node.func) is GPUClient
    }
    spans = (span for document in written for span in document.spans)
    calls |= {match[1] for span in spans if (match := re.match(r"client\.(\w+)", span))}
    assert {name for name, member in vars(Managing).items() if inspect.isfunction(member)} - calls == {"send"}


def test_error_attributes_are_those_documented():
    error = fastgpu.FastGPUError("no", hint="try")
    assert (error.code, error.message, error.hint) == ("error", "no", "try")


# ---------------------------------------------------------------- configuration


def configured_classes() -> dict[str, type]:
    from jupyterhub.app import JupyterHub
    from jupyterhub.auth import Authenticator
    from jupyterhub.spawner import Spawner

    from tools.reference import SECTIONS

    return {owner.__name__: owner for owner in (JupyterHub, Authenticator, Spawner, *(each for each, _ in SECTIONS))}


def test_every_configuration_shown_is_one_the_code_takes(written, monkeypatch, tmp_path):
    """Runs each block as JupyterHub would; ``setup_fastgpu`` does its work in a folder of ours."""
    import fastgpu_hub
    from fastgpu_hub.engines.local import LocalEngine
    from fastgpu_hub.service.main import FastGPUService
    from fastgpu_hub.service.seeds import read_seeds

    real = fastgpu_hub.setup_fastgpu

    def setup(c: Config, *, state_dir: str, **more: Any) -> None:
        real(c, state_dir=tmp_path / state_dir.strip("/"), **more)

    monkeypatch.setattr(fastgpu_hub, "setup_fastgpu", setup)
    classes = configured_classes()
    seeds = set()
    for document in written:
        for block in document.code("python"):
            if not re.search(r"^(c\.|setup_fastgpu\()|^class \w+Spawner", block, re.MULTILINE):
                continue
            config = Config()
            exec(compile(block, document.name, "exec"), {"c": config, "setup_fastgpu": setup, "__name__": "config"})
            for section, traits in config.items():
                for name in traits:
                    known = classes[section].class_traits(config=True)
                    assert name in known, f"{document.name}: c.{section}.{name} does not exist"
            FastGPUService(config=config)  # traits check their values
            LocalEngine(config=config)
            if "FastGPUService" in config:
                seeds |= {seed.kind for seed in read_seeds(dict(config.FastGPUService))}
    assert seeds == {"prices", "grants", "quotas", "promotions"}


def test_every_trait_named_in_passing_exists(written):
    classes = configured_classes()
    checked = 0
    for document in written:
        for span in document.spans:
            if match := re.match(r"c\.([A-Z]\w+)\.(\w+)", span):
                owner, name = match.groups()
                assert name in classes[owner].class_traits(config=True), f"{document.name}: {span}"
                checked += 1
    assert checked > 10


def test_the_defaults_in_the_readmes_table_are_the_codes(readme):
    classes = configured_classes()
    compared = 0
    for owner, name, default in re.findall(r"^\| `c\.(\w+)\.(\w+)` \| (.+?) \|", readme.prose, re.MULTILINE):
        value = classes[owner].class_traits(config=True)[name].default()
        if default.startswith('`"'):
            assert value == default.strip('`"'), name
        elif number := re.match(r"\d+", default):
            assert value == int(number[0]), name
        elif default == "none":
            assert not value, name
        else:
            continue  # what the sentence says in words
        compared += 1
    assert compared >= 9


def test_extras_named_in_install_commands_exist(documents, root):
    text = (root / "pyproject.toml").read_text()
    known = set(re.findall(r"^(\w+) = \[", text.split("[project.optional-dependencies]")[1].split("\n[")[0], re.M))
    for document in documents:
        for command in document.commands:
            for extras in re.findall(r"pip install '[^']*\[([\w,]+)\]'", command):
                assert set(extras.split(",")) <= known, f"{document.name}: {command}"

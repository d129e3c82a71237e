"""The documents as pieces: code blocks, code spans, links, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Document:
    """One Markdown file."""

    path: Path
    blocks: list[tuple[str, str]] = field(default_factory=list)
    prose: str = ""

    @classmethod
    def read(cls, path: Path) -> Document:
        document = cls(path)
        prose: list[str] = []
        fence: list[str] | None = None
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("```"):
                if fence is None:
                    document.blocks.append((line[3:].strip(), ""))
                    fence = []
                else:
                    document.blocks[-1] = (document.blocks[-1][0], "\n".join(fence))
                    fence = None
            elif fence is None:
                prose.append(line)
            else:
                fence.append(line)
        assert fence is None, f"{path}: a code block is left open"
        document.prose = "\n".join(prose)
        return document

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def spans(self) -> list[str]:
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def anchors(self) -> set[str]:
        """Anchors of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def code(self, *languages: str) -> list[str]:
        """Blocks of these languages."""
        return [text for language, text in self.blocks if language in languages]

    @property
    def commands(self) -> list[str]:
        """Shell lines of blocks, and code spans."""
        lines = [line for text in self.code("sh") for line in text.splitlines()]
        return [line.strip() for line in (*lines, *self.spans) if line.strip()]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """README, changelog and everything below docs/."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [Document.read(path) for path in paths]


@pytest.fixture(scope="session")
def readme(documents: list[Document]) -> Document:
    return documents[0]


@pytest.fixture(scope="session")
def written(documents: list[Document]) -> list[Document]:
    """Documents that people write: all but the reference, which is made from the code."""
    return [document for document in documents if document.path.parent.name != "reference"]


@pytest.fixture(scope="session")
def simulation() -> Any:
    """The command line of ``python -m fastgpu_hub.simulate``."""
    from fastgpu_hub.simulate.commands import app

    return typer.main.get_command(app)

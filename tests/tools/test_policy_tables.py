"""The figures in the documents come from the simulation, and every policy has its row."""

from __future__ import annotations

import lzma
import re

import pytest

from fastgpu_hub.scheduling.policies import POLICIES
from tools import policy_tables

PAGES = (policy_tables.EXPLANATION, policy_tables.HOW_TO)


@pytest.fixture
def folder(tmp_path):
    """Traces of a few jobs under the names of the real ones."""
    (tmp_path / "venus_sept_dev.csv").write_text(
        "job_id,user,vc,gpu_num,submit_s,duration\n"
        + "".join(f"{n},u{n % 3},v,{n % 4 + 1},{n},{9 * n}\n" for n in range(20))
    )
    (tmp_path / "venus_dev_nodes.csv").write_text("vc,nodes,gpus_per_node\nv,1,8\n")
    lines = "".join(f"{n} {n} -1 {n + 5} 50 -1 -1 50 100 -1 1 {n % 3} 1 -1 1 -1 -1 -1\n" for n in range(1, 20))
    (tmp_path / "kth_sp2.swf.xz").write_bytes(lzma.compress(lines.encode()))
    return tmp_path


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs" / "images").mkdir(parents=True)
    for page in PAGES:
        (tmp_path / "docs" / page).parent.mkdir()
        text = (policy_tables.DOCS / page).read_text(encoding="utf-8")
        (tmp_path / "docs" / page).write_text(re.sub(r"(?s)(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", r"\1old\n\3", text))
    return tmp_path / "docs"


@pytest.mark.slow
def test_tables_and_drawings_are_written_between_the_marks_and_nothing_else_changes(folder, docs):
    before = {page: (docs / page).read_text() for page in PAGES}
    policy_tables.write(folder, docs, students=5, days=2, say=lambda text: None)
    for page in PAGES:
        after = (docs / page).read_text()
        assert re.sub(r"(?s)(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", r"\1old\n\3", after) == before[page]
        assert "\nold\n" not in after
    explained = (docs / policy_tables.EXPLANATION).read_text()
    for mark in ("venus", "kth"):
        table = explained.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
        rows = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
        assert rows == [*POLICIES, "default --oracle"]
    assert "5 students need " in (docs / policy_tables.HOW_TO).read_text()
    for name in (policy_tables.CALIBRATION, policy_tables.PLAN):
        assert "<svg" in (docs / name).read_text()


def test_a_document_without_its_mark_is_an_error(tmp_path):
    (tmp_path / "a.md").write_text("<!-- one -->\n")
    with pytest.raises(LookupError, match="0 places for one"):
        policy_tables._put(tmp_path / "a.md", {"one": "1"})


@pytest.mark.parametrize("mark", ["venus", "kth"])
def test_the_documents_have_a_row_for_every_policy_there_is(mark):
    text = (policy_tables.DOCS / policy_tables.EXPLANATION).read_text(encoding="utf-8")
    table = text.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
    rows = re.findall(r"^\| `([^` ]+)` \|", table, re.MULTILINE)
    assert rows == list(POLICIES), "write them anew: python -m tools.policy_tables FOLDER"

"""The reference pages are what the code says."""

from __future__ import annotations

import pytest

from tools import reference


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_committed_page_is_what_is_written_from_the_code(name):
    committed = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert committed == reference.PAGES[name](), "run make docs and commit what it writes"


def test_every_trait_of_ours_is_in_the_configuration_reference():
    text = reference.configuration()
    for owner, _ in reference.SECTIONS:
        for name, trait in reference.own_traits(owner).items():
            assert f"### `c.{owner.__name__}.{name}`" in text
            assert trait.help.strip(), f"{owner.__name__}.{name} has no help"


def test_every_route_and_model_is_in_the_api_reference():
    text = reference.rest_api()
    for route in reference.API:
        assert f"### {route.method} {route.path}\n" in text
        for model in (route.body, route.answer):
            assert model is None or f"\n### {model.__name__}\n" in text


def test_help_texts_become_markdown():
    help_text = """
        First line with ``code``.

        Example::

            c.A.b = {
                "x": 1,
            }

        After :class:`~a.b.C`.
    """
    assert reference.markdown(help_text) == (
        'First line with `code`.\n\nExample:\n\n```python\nc.A.b = {\n    "x": 1,\n}\n```\n\nAfter `C`.'
    )


def test_check_tells_of_a_page_that_is_out_of_date_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(reference, "PAGES", {"page.md": lambda: "new\n"})
    assert reference.main(["--check"]) == 1
    assert "page.md" in capsys.readouterr().out
    assert not (tmp_path / "page.md").exists()
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    assert (tmp_path / "page.md").read_text() == "new\n"

"""The code in docs/ runs, and prints what it says it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luthier import METHODS

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("page", ["extend.md"])
def test_the_code_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))
    exec(compile(code, page, "exec"), {"__name__": __name__})
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert promised and capsys.readouterr().out.split("\n")[:-1] == promised


def test_the_table_of_the_readme_is_that_of_the_methods() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| .*? \| `(.*?)` \|", (DOCS.parent / "README.md").read_text(), re.M
    )
    assert rows == [(m.name, m.summary, m.paper, m.file) for m in METHODS.values()]


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"`((?:luthier|examples|benchmarks|papers|tests|docs)/[\w/.]+\.(?:py|md|json))`", text))
    named |= {str((page.parent / link).resolve()) for link in re.findall(r"\]\(([\w./]+)\)", text)}
    assert [name for name in named if not (DOCS.parent / name).exists()] == []

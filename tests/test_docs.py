"""The code in docs/ runs, and prints what it says it prints."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

import luthier
from luthier import METHODS
from luthier.jobs import Reason

DOCS = Path(__file__).resolve().parent.parent / "docs"


RUN = ("extend", "from_optuna", "from_ray_tune", "going_on", "machines", "spaces", "stacks", "start", "weights")


@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL))
    exec(compile(code, page, "exec"), {"__name__": __name__})
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert promised and capsys.readouterr().out.split("\n")[:-1] == promised


QUESTIONS = {  # of a new user, and words on the page that answers
    "How do I tune a loop that I have?": ("start", "trial.report", "trial.should_stop"),
    "I know Optuna: what is suggest_float here?": ("from_optuna", "suggest_float", "lt.Float"),
    "How do I use two GPUs?": ("machines", "devices=["),
    "How do I run it under SLURM?": ("machines", "sbatch", "SIGTERM"),
    "Which method should I take?": ("choose", "no idea yet"),
    "How do I get the trained network?": ("weights", "study.model()", "luthier weights"),
    "Can I start from a configuration that works?": ("going_on", "start=", "known="),
    "Can I say that two values must not come together?": ("spaces", "constraint="),
    "Can another method go on with my study?": ("going_on", "Go on by another method", "learns from all"),
    "What does a running study show?": ("progress", "the time that is left"),
    "Is my result reproducible?": ("faq", "same seed"),
    "What happens when a machine dies?": ("promises", "SIGKILL"),
    "How do I write my own method?": ("extend", "propose(self, history, count, seeds)"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_new_user_finds_the_answer(question: str) -> None:
    page, *words = QUESTIONS[question]
    text = (DOCS / f"{page}.md").read_text()
    assert [word for word in words if word not in text] == []
    assert f"{page}.md" in (DOCS.parent / "mkdocs.yml").read_text()


def test_the_first_page_of_the_readme_is_two_screens_with_a_function_then_a_network() -> None:
    page = (DOCS.parent / "README.md").read_text().partition("\n## Methods\n")[0]
    assert len(page.splitlines()) <= 70 and 0 < page.index("def train(config, trial)") < page.index("lt.TorchTask(")


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


def public(dotted: str) -> bool:
    """True if each name below ``luthier`` is listed by what it stands in."""
    found = luthier
    for part in dotted.split(".")[1:]:
        if found in (luthier.interop, luthier.testing) and importlib.util.find_spec(f"{found.__name__}.{part}"):
            importlib.import_module(f"{found.__name__}.{part}")  # their modules are named in full
        elif inspect.ismodule(found) and part not in getattr(found, "__all__", dir(found)):
            return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_a_page_teaches_public_names_alone(page: Path) -> None:
    assert public("luthier.execute.run") and not public("luthier.train.run") and not public("luthier.space.Space")
    text = page.read_text()
    named = set(re.findall(r"\bluthier(?:\.[a-z]\w*)*\.[a-zA-Z]\w*(?!\.?\w)", re.sub(r"[\w/]+\.db\b", "", text)))
    for module, names in re.findall(r"^from (luthier[\w.]*) import ([\w, ]+)", text, re.M):
        named |= {f"{module}.{name.strip()}" for name in names.split(",")}
    assert [name for name in sorted(named) if not public(name)] == []


def test_every_reason_why_a_job_is_lost_is_in_the_table() -> None:
    rows = re.findall(r'^\| `"(\w+)"` \|', (DOCS / "extend.md").read_text(), re.M)
    assert sorted(rows) == sorted(get_args(Reason))

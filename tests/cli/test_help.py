from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from hwq.cli import COMMANDS, group

ROOT = Path(__file__).parents[2]


def _command(name: str) -> click.Command:
    command = group.get_command(click.Context(group, info_name="hwq"), name)
    assert command is not None
    return command


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_explains_itself(name: str, flag: str) -> None:
    done = CliRunner().invoke(group, [*([name] if name else []), flag])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Usage: ")
    assert "Options:" in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    bare = [p.name for p in _command(name).params if isinstance(p, click.Option) and not p.help]
    assert bare == []


def test_help_lists_every_command_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom hwq.cli import COMMANDS, group\n"
        "import click\n"
        "for c in COMMANDS: group.get_command(click.Context(group), c)\n"
        "print([m for m in ('torch', 'sklearn', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    listing = CliRunner().invoke(group, ["--help"]).output
    assert all(re.search(rf"^  {name} ", listing, re.MULTILINE) for name in COMMANDS)


def test_the_reference_page_is_what_help_says() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == _generator().page(), "run `make docs`"
    written = (ROOT / "docs" / "spellings.md").read_text(encoding="utf-8")
    assert written == _generator().spellings_page(), "run `make docs`"


def _shown() -> list[tuple[str, str]]:
    """Every `hwq ...` and `make ...` line of the code blocks of README and docs."""
    found = []
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for path in pages:
        if path.name == "cli.md":
            continue
        code = False
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("```"):
                code = not code
            if code or line.startswith("    "):
                text = line.strip().removeprefix("$ ")
                if text.startswith(("hwq ", "make ")):
                    found.append((path.name, text))
    return found


@pytest.mark.parametrize(("page", "line"), _shown())
def test_shown_commands_exist(page: str, line: str) -> None:
    tool, name, *arguments = shlex.split(line, comments=True)
    if tool == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert name in targets
        return
    assert name in COMMANDS
    command = _command(name)
    context = click.Context(command, info_name=name)
    values, _, _ = command.make_parser(context).parse_args(list(arguments))  # unknown options raise
    for parameter in command.params:
        given = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(given, str):
            assert given in parameter.type.choices


def test_the_readme_shows_commands() -> None:
    shown = [line for page, line in _shown() if page == "README.md"]
    assert {"make demo", "make test"} <= {line.split("#")[0].strip() for line in shown}
    assert len([line for line in shown if line.startswith("hwq ")]) >= 5


def test_links_between_pages_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["demo", "--nonsense"], "No such option"),
        (["demo", "--bits", "5"], "--bits"),
    ],
)
def test_unknown_words_are_usage_errors(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == 2
    assert said in done.output

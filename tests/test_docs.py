"""The documentation, kept true: commands, options, settings and tables that it names are there."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from spotinference_proxy.settings import Settings as ProxySettings

from spotinference_pipeline import cli, revision
from spotinference_pipeline.settings import PREFIX, Settings
from spotinference_pipeline.warehouse import SQL_DIR, describe_tables

ROOT = Path(__file__).parents[1]
ENVIRONMENT_EXAMPLE = ROOT / ".env.example"
DOCUMENTS = sorted(
    path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.is_file() and path.read_text().strip()
)
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
PROXY_SETTINGS = {
    PREFIX + (name if name == "now" else f"proxy_{name}").upper()
    for name in (field.name for field in dataclasses.fields(ProxySettings))
}


def code(text: str) -> Iterator[str]:
    """Give the lines of fenced and indented blocks and what stands between backticks."""
    for fenced in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        yield from fenced.splitlines()
    outside = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"^(?: {4}|\t)(.*)$", outside, flags=re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", outside)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Give each command of the pipeline that the text shows, and its options."""
    for line in code(text):
        shown = line.partition(" #")[0]
        for command, rest in re.findall(r"(?:^|[\s/$|&;(])spotinference +([a-z-]+)([^|&;)]*)", shown):
            yield command, re.findall(r"(?<!\S)--[a-z-]+", rest)


def options(command: str) -> set[str]:
    """Give the options of a command, of a group those of all its commands."""
    members = getattr(COMMANDS[command], "commands", {}).values()
    return {
        option for each in (COMMANDS[command], *members) for parameter in each.params for option in parameter.opts
    } | {"--help"}


def test_the_finder_sees_commands_in_code_and_not_in_prose() -> None:
    text = "spotinference is good. `spotinference build D --force`, `x`\n\n"
    text += "    $ spotinference status --json  # spotinference nothing\n"
    text += "```sh\n.venv/bin/spotinference verify URL | spotinference-proxy key new\n```\n"
    assert sorted(commands(text)) == [("build", ["--force"]), ("status", ["--json"]), ("verify", [])]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_document_shows_exists_with_its_options(document: Path) -> None:
    for command, shown in commands(document.read_text()):
        assert command in COMMANDS, f"{document.name} shows `spotinference {command}`, which is no command"
        assert set(shown) <= options(command), f"{document.name} shows {shown} for `spotinference {command}`"


def test_the_readme_shows_every_command_for_operators() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = {command for command, _ in commands(readme)}
    assert {"build", "publish", "verify", "status"} <= shown


@pytest.mark.parametrize("document", [*DOCUMENTS, ENVIRONMENT_EXAMPLE], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", text))
    known = SETTINGS | PROXY_SETTINGS | {f"{PREFIX}CONFIG"}
    assert named <= known, f"{document.name} names settings that nothing reads"


def test_every_setting_of_the_pipeline_is_in_the_example() -> None:
    text = ENVIRONMENT_EXAMPLE.read_text()
    assert set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", text)) >= SETTINGS


METHOD = (ROOT / "docs" / "method.md").read_text()
LINKED = set(re.findall(r"\]\(([^)#\s]+)\)", METHOD))


@pytest.mark.parametrize("stage", ["rollup", "metric"])
def test_the_method_names_every_sql_file_of_a_stage(stage: str) -> None:
    files = {f"../sql/{stage}/{file.name}" for file in (SQL_DIR / stage).glob("*.sql")}
    assert len(files) > 4
    assert files <= LINKED


def test_every_file_that_the_method_names_exists() -> None:
    assert len(LINKED) > 20
    assert [name for name in sorted(LINKED) if not (ROOT / "docs" / name).exists()] == []


def test_the_method_explains_every_figure_and_every_column_of_it() -> None:
    explained = set(re.findall(r"`([a-z0-9_.]+)`", METHOD))
    columns = {column.name for column in describe_tables()["metric.figures"]} - {"utc_day"}
    schema = json.loads((ROOT / "site" / "schema" / "revision.json").read_text())
    figures = set(schema["properties"]["figures"]["properties"])
    assert len(columns & figures) > 8
    assert sorted((columns | figures) - explained) == []


def columns_of(table: str) -> set[str]:
    return {column.name for column in describe_tables()[table]}


@pytest.mark.parametrize(
    ("table", "start", "end"),
    [
        ("metric.figures", "The row also has what other sections use", r"\n\n"),
        ("metric.bounds", r"The sums are in `metric\.bounds`", r"\)"),
    ],
)
def test_the_columns_that_the_method_gives_a_table_are_in_it(table: str, start: str, end: str) -> None:
    (told,) = re.findall(rf"{start}(.*?){end}", METHOD, flags=re.DOTALL)
    named = set(re.findall(r"`([a-z0-9_]+)`", told))
    assert len(named) > 4
    assert sorted(named - columns_of(table)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_column_that_a_document_names_with_its_table_exists(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:rollup|metric|validated)\.[a-z_]+)\.([a-z_]+)`", text)
    of_table = re.findall(r"`([a-z_]+)` of `((?:rollup|metric|validated)\.[a-z_]+)`", text)
    named += [(table, column) for column, table in of_table]
    missing = [f"{table}.{column}" for table, column in named if column not in columns_of(table)]
    assert missing == []


def test_every_sql_file_names_a_heading_of_the_method_that_is_there() -> None:
    headings = set(re.findall(r"^## (.+)$", METHOD, flags=re.MULTILINE))
    named = {
        (file.stem, heading)
        for file in SQL_DIR.glob("*/*.sql")
        for heading in re.findall(r'docs/method\.md, "([^"]+)"', file.read_text().replace("\n-- ", " "))
    }
    assert len(named) > 8
    assert [(file, heading) for file, heading in sorted(named) if heading not in headings] == []


def test_the_reasons_for_a_revision_are_told_in_the_order_in_which_they_are_given() -> None:
    text = (ROOT / "docs" / "publication.md").read_text()
    table = text[text.index("| reason | when |") : text.index("The first that applies")]
    given = re.findall(r'return "(\w+)"', inspect.getsource(revision._reason))
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == given
    schema = json.loads((ROOT / "site" / "schema" / "revision.json").read_text())
    (told,) = re.findall(r"The first that applies is given\. (.*?) in the schema and not given yet", text)
    assert set(re.findall(r"`(\w+)`", told)) == set(schema["properties"]["reason"]["enum"]) - set(given)


def test_every_table_of_the_schema_has_a_comment() -> None:
    lines = (SQL_DIR / "schema.sql").read_text().splitlines()
    tables = [place for place, line in enumerate(lines) if line.startswith("create table")]
    assert len(tables) > 20
    for place in tables:
        assert lines[place - 1].startswith("-- "), f"{lines[place]} has no comment"
        assert lines[place - 1].endswith("."), f"{lines[place]}: the comment is no sentence"


def test_every_command_says_what_it_does_in_a_sentence() -> None:
    for name, command in COMMANDS.items():
        for each in (command, *getattr(command, "commands", {}).values()):
            assert each.help, name
            assert each.help.strip().endswith("."), name

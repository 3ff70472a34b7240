"""`hwq doctor`."""

from __future__ import annotations

import click

from hwq.cli.options import HELP


@click.command(context_settings=HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def command(as_json: bool) -> int:
    """Tell what hwq needs on this machine, what is missing and how to get it.

    Exit code 4 when something required is missing.
    """
    import json

    from hwq.cosim.doctor import examine

    facts = examine()
    if as_json:
        click.echo(json.dumps([fact.to_json() for fact in facts], indent=1))
    else:
        from rich.table import Table
        from rich.text import Text

        from hwq.cli.console import output

        table = Table(title="hwq doctor")
        for heading in ("", "what", "found", "what to do"):
            table.add_column(heading, overflow="fold")
        for fact in facts:
            mark = "[green]ok" if fact.ok else ("[red]missing" if fact.required else "[yellow]none")
            table.add_row(mark, fact.name, Text(fact.found), Text(fact.advice))
        output().print(table)
    missing = [fact for fact in facts if fact.required and not fact.ok]
    return 4 if missing else 0

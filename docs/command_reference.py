"""What ``--help`` says of every command, as Markdown: from the same objects, so that there is no second list."""

from __future__ import annotations

import re

import typer


def commands() -> dict[str, str]:
    """Command name -> its description, usage, arguments and options."""
    from lora_graft.cli.app import app

    group = typer.main.get_command(app)
    above = group.context_class(group, info_name="lora-graft", **group.context_settings)
    return {
        name: _command(command, command.context_class(command, above, name)) for name, command in group.commands.items()
    }


def _command(command, context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [record for p in command.get_params(context) if (record := p.get_help_record(context))]
    rows = [f"| `{re.sub('  +', ' ', names)}` | {cell(text)} |" for names, text in records]
    return "\n\n".join(
        [_description(command.help), f"`{usage}`", "\n".join(["| Argument or option | Meaning |", "|---|---|", *rows])]
    )


def _description(text: str) -> str:
    """The paragraphs; one that must not be wrapped (click marks it with \\b) as a block."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(f"```text\n{p[2:]}\n```" if p.startswith("\b\n") else p for p in paragraphs)


def cell(text: str) -> str:
    """One line that Markdown takes literally: `*` and `|` mean files and alternatives here."""
    return re.sub(r"([*|\[\]_])", r"\\\1", re.sub(r"\s+", " ", text)).replace("<", "&lt;")

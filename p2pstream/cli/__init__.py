"""The command line: one module a command. Importing this costs click and nothing else."""

from __future__ import annotations

import difflib
import importlib
import sys

import click

from p2pstream import __version__
from p2pstream.errors import UserError

COMMANDS = {
    "broadcast": "Broadcast a file, a device, a URL or a test picture.",
    "watch": "Watch a stream.",
    "seed": "Run a seed: an always-on node that others find the network through.",
    "demo": "See a whole mesh at work on this machine.",
    "ticket": "Look into tickets.",
    "status": "Show the nodes that run on this machine.",
    "bench": "Measure what this machine can serve.",
    "simulate": "Run a mesh of simulated homes in virtual time.",
}

EXIT_CODES = """\b
Exit codes:
  0 done            6 bad config       12 input not found
  1 unforeseen      7 missing helper   13 no video
  2 usage           8 bad ticket       14 codec not supported
  3 no such stream  9 port in use      15 media worker failed
  4 refused        10 key in use       16 bad key file
  5 no peers       11 cannot write     17 no node running
"""


class Commands(click.Group):
    """Finds a command by name and imports it only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"p2pstream.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a hint for a misspelt name."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"no such command: {args[0]}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    epilog=EXIT_CODES,
    context_settings={"auto_envvar_prefix": "P2PSTREAM", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="p2pstream")
@click.option("--config", "config_path", metavar="FILE", help="Read this configuration file.")
@click.pass_context
def cli(ctx: click.Context, config_path: str | None) -> None:
    """Live streaming in which every viewer is part of the edge.

    \b
    Try it:    p2pstream demo
    Go live:   p2pstream broadcast talk.mp4
    Watch:     p2pstream watch p2pstream://...
    """
    if ctx.invoked_subcommand in {"broadcast", "watch", "seed"}:
        from p2pstream.config import defaults  # noqa: PLC0415  # Only these commands need it.

        ctx.default_map = {ctx.invoked_subcommand: defaults(config_path, ctx.invoked_subcommand)}


def main() -> None:
    """Run a command; every error of ours becomes one message and its exit code."""
    as_json = "--json" in sys.argv[1:]
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())  # The help, and no mistake.
        sys.exit(2)
    except click.ClickException as error:
        fail("usage", error.format_message(), _usage_hint(error), 2, as_json=as_json)
    except click.Abort:
        sys.exit(130)
    except UserError as error:
        fail(error.code, str(error), error.hint, error.exit_code, as_json=as_json)


def fail(code: str, message: str, hint: str, status: int, *, as_json: bool) -> None:
    """Say what failed, why, and what to do about it; then exit."""
    if as_json:
        import json  # noqa: PLC0415  # Not on the way of `--version`.

        error = {"code": code, "message": message, "hint": hint}
        click.echo(json.dumps({"error": error}))
    else:
        click.echo(f"{click.style('error', fg='red', bold=True)}: {message}", err=True)
        if hint:
            click.echo(f"  {hint}", err=True)
    sys.exit(status)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See {context.command_path} --help." if context else ""

"""The command line, ``vrpo``: one file per group of commands, no torch, no ray."""

import sys

import typer
from openai import APIConnectionError, APIStatusError

from vrpo.cli import db, files, jobs, keys, models
from vrpo.cli.doctor import doctor
from vrpo.cli.output import Exit, errors
from vrpo.cli.services import controller, serve, server
from vrpo.client import ChecksumMismatch, NoKey

app = typer.Typer(
    name="vrpo",
    help="Self-hosted preference fine-tuning of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve)
app.command("server")(server)
app.command("controller")(controller)
app.command("doctor")(doctor)
app.add_typer(files.app, name="files", help="Training files.")
app.add_typer(jobs.app, name="jobs", help="Fine-tuning jobs.")
app.add_typer(models.app, name="models", help="Base models and fine-tuned ones.")
app.add_typer(keys.app, name="keys", help="API keys.")
app.add_typer(db.app, name="db", help="The database.")

_USAGE_STATUS = range(400, 500)


def main() -> None:
    """Run the command line; errors of the service become a message and an exit code."""
    try:
        app()
    except APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        where = f" (param: {body['param']})" if body.get("param") else ""
        _say(f"{body.get('message') or error.message}{where}")
        sys.exit(Exit.USAGE if error.status_code in _USAGE_STATUS else Exit.FAILED)
    except APIConnectionError as error:
        _say(f"no answer from {error.request.url}: is `vrpo serve` running?")
        sys.exit(Exit.FAILED)
    except NoKey as error:
        _say(str(error))
        sys.exit(Exit.USAGE)
    except ChecksumMismatch as error:
        _say(str(error))
        sys.exit(Exit.FAILED)


def _say(message: str) -> None:
    errors.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)

"""``vrpo keys``: create, list, revoke; through the service's admin routes."""

from typing import Annotated, Any

import typer

from vrpo.cli.output import Json, console, print_json, print_table
from vrpo.client import connect, get_json

app = typer.Typer(no_args_is_help=True)
_PATH = "/admin/keys"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    role: Annotated[str, typer.Option(help="viewer, submitter or admin.")] = "submitter",
    tenant: Annotated[str | None, typer.Option(help="Another tenant than your own.")] = None,
    json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    body = {"name": name, "role": role} | ({"tenant": tenant} if tenant else {})
    key = connect().post(_PATH, body=body, cast_to=dict[str, Any])
    if json:
        print_json(key)
    else:
        console.print(f"{key['id']} ({key['role']}); shown this once:", highlight=False)
        typer.echo(key["key"])


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the keys; secrets are not kept and cannot be shown."""
    keys = get_json(connect(), _PATH)["data"]
    if json:
        print_json(keys)
    else:
        print_table(
            ("id", "name", "role", "created", "revoked"),
            [(k["id"], k["name"], k["role"], k["created_at"], k["revoked_at"]) for k in keys],
        )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id.")], json: Json = False
) -> None:
    """End a key at once."""
    revoked = connect().delete(f"{_PATH}/{key_id}", cast_to=dict[str, Any])
    if json:
        print_json(revoked)
    else:
        typer.echo(f"revoked {key_id}")

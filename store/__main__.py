"""``python -m store upgrade | check | backup FILE``: the database from the command line."""

import argparse
import sys
from pathlib import Path

from store.backup import backup, integrity_faults
from store.errors import StoreError
from store.migrate import differences, upgrade
from store.session import make_engine
from store.settings import StoreSettings


def main() -> int:
    """Run one command; returns 0, or 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("upgrade", help="bring the database to the newest schema")
    commands.add_parser("check", help="compare it with the schema and check its integrity")
    commands.add_parser("backup", help="copy a SQLite database in use").add_argument(
        "target", type=Path
    )
    arguments = parser.parse_args()
    settings = StoreSettings()
    settings.make_folders()
    engine = make_engine(settings.database_url)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        if arguments.command == "upgrade":
            upgrade(engine)
            sys.stdout.write(f"{shown} has the newest schema\n")
        elif arguments.command == "backup":
            backup(engine, arguments.target)
            sys.stdout.write(f"wrote {arguments.target}\n")
        else:
            faults = integrity_faults(engine) + differences(engine)
            sys.stdout.write("".join(f"{fault}\n" for fault in faults) or f"{shown} is sound\n")
            return 1 if faults else 0
    except StoreError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    finally:
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())

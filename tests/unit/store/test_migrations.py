"""Migrations: they make the tables of the models, go back and forth, and wait for each other."""

import os
import subprocess
import sys

import pytest
from sqlalchemy import inspect

from store.migrate import differences, downgrade, upgrade
from store.session import make_engine


@pytest.fixture
def engine(empty_url):
    made = make_engine(empty_url)
    yield made
    made.dispose()


def test_the_migrations_make_exactly_the_tables_of_the_models(engine):
    upgrade(engine)
    assert differences(engine) == []


def test_up_down_and_up_again(engine):
    upgrade(engine)
    downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    upgrade(engine)
    assert differences(engine) == []


def test_processes_that_start_at_once_wait_for_each_other(empty_url, engine, tmp_path):
    environment = {**os.environ, "VRPO_HOME": str(tmp_path), "VRPO_DATABASE_URL": empty_url}
    starting = [
        subprocess.Popen(
            [sys.executable, "-m", "store", "upgrade"], env=environment, stdout=subprocess.DEVNULL
        )
        for _ in range(3)
    ]
    assert [process.wait(timeout=120) for process in starting] == [0, 0, 0]
    assert differences(engine) == []


def test_the_command_line_checks_and_backs_up(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "store", *arguments],
            env={**os.environ, "VRPO_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("check").returncode == 1
    assert run("upgrade").returncode == 0
    assert run("check").returncode == 0
    assert run("backup", str(tmp_path / "copy.db")).returncode == 0
    assert run("backup", str(tmp_path / "copy.db")).returncode == 1
    copy = make_engine(f"sqlite:///{tmp_path / 'copy.db'}")
    assert differences(copy) == []
    copy.dispose()

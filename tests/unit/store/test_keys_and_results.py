"""Keys, stage results, and what SQLite sessions promise."""

import threading

import pytest
from sqlalchemy import select, text

from store import artifacts, keys, stage_cache, transitions
from store.errors import InvalidKey, NotAllowed
from store.keys import Principal, Role
from store.models import Tenant
from vrpo.contract.status import StageName, StageStatus

STAGE = StageName.PREPARE_DATA


def test_a_key_opens_its_tenant_and_changed_ones_do_not(sessions, tenant):
    with sessions.begin() as session:
        _, text_of_key = keys.create(session, tenant, name="k", role=Role.VIEWER)
    with sessions.read() as session:
        assert keys.authenticate(session, text_of_key).tenant_id == tenant
        for wrong in (text_of_key[:-1], text_of_key + "0", "vk__", "", "xk" + text_of_key[2:]):
            with pytest.raises(InvalidKey):
                keys.authenticate(session, wrong)


def test_a_role_does_what_the_lower_ones_may():
    submitter = Principal(tenant_id="t", role=Role.SUBMITTER, key_id="k")
    submitter.require(Role.VIEWER)
    submitter.require(Role.SUBMITTER)
    with pytest.raises(NotAllowed):
        submitter.require(Role.ADMIN)


def test_the_admin_key_stays_over_starts_and_is_replaced_when_it_opens_nothing(sessions, tmp_path):
    with sessions.begin() as session:
        first = keys.ensure_admin_key(session, tmp_path).read_text()
    with sessions.begin() as session:
        assert keys.ensure_admin_key(session, tmp_path).read_text() == first
    (tmp_path / "admin.key").write_text("vk_lost_key")
    with sessions.begin() as session:
        fresh = keys.ensure_admin_key(session, tmp_path).read_text().strip()
    with sessions.read() as session:
        assert keys.authenticate(session, fresh).role is Role.ADMIN
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600


def test_a_result_is_found_by_its_tenant_alone_and_the_first_one_stays(
    sessions, new_job, tenant, tmp_path
):
    job_id = new_job()
    for number in (1, 2):
        with sessions.begin() as session:
            stage_cache.record(
                session,
                tenant,
                "sha256:a",
                STAGE,
                tmp_path,
                [("x.txt", number, "0" * 64)],
                {"n": number},
                job_id,
            )
    with sessions.read() as session:
        assert stage_cache.lookup(session, tenant, "sha256:a").summary == {"n": 1}
        assert stage_cache.lookup(session, "other", "sha256:a") is None


def test_a_job_whose_stage_was_computed_before_shows_the_same_artifacts(
    sessions, new_job, claim, tenant, tmp_path
):
    first, second = new_job(), new_job()
    with sessions.begin() as session:
        stage_cache.record(
            session, tenant, "sha256:a", STAGE, tmp_path, [("x.txt", 1, "0" * 64)], {}, first
        )
    for _ in range(2):
        claimed = claim()
        with sessions.begin() as session:
            transitions.move_stage(
                session,
                claimed.job_id,
                claimed.epoch,
                STAGE,
                StageStatus.PENDING,
                StageStatus.SUCCEEDED,
                cached=claimed.job_id == second,
                key="sha256:a",
            )
    with sessions.read() as session:
        for job_id in (first, second):
            found = artifacts.of_job(session, tenant, job_id)
            assert [artifact.name for artifact in found] == ["prepare_data/x.txt"]


def test_two_transactions_that_read_and_then_write_lose_no_update(sessions, tenant):
    def add_one():
        for _ in range(20):
            with sessions.begin() as session:
                row = session.scalars(
                    select(Tenant).where(Tenant.id == tenant).with_for_update()
                ).one()
                row.change_seq += 1

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with sessions.read() as session:
        assert session.get(Tenant, tenant).change_seq == 80


def test_readers_do_not_wait_for_a_writer(sessions, tenant):
    with sessions.begin() as writer:
        writer.get(Tenant, tenant).change_seq = 5
        writer.flush()
        with sessions.read() as reader:
            assert reader.get(Tenant, tenant).change_seq == 0


def test_sqlite_is_set_up_to_lose_nothing(sessions):
    if sessions.engine.dialect.name != "sqlite":
        pytest.skip("settings of SQLite")
    with sessions.engine.connect() as connection:
        found = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 30000,
        "foreign_keys": 1,
    }

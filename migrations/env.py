"""Runs migrations on the connection it is given, or on ``VRPO_DATABASE_URL``'s database."""

from alembic import context
from sqlalchemy import Connection

from store import models
from store.session import make_engine
from store.settings import StoreSettings


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET lock_timeout = '10s'")
    context.configure(
        connection=connection,
        target_metadata=models.Tenant.metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    settings = StoreSettings()
    settings.make_folders()
    engine = make_engine(settings.database_url)
    with engine.connect() as own:
        run(own)
        own.commit()
    engine.dispose()

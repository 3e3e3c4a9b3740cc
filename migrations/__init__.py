"""Alembic's environment and migrations, installed with the product."""

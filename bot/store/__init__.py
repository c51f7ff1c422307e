"""The database: requests and where they stand. The only rooms with SQLAlchemy and Alembic."""

"""Run the migrations on the connection that ``custody.ledger.schema`` hands over."""

from alembic import context

from custody.ledger.schema import VERSION_TABLE
from custody.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()

"""The database: tables, moves between states, the queue, and who may see what."""

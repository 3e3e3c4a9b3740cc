"""What client, server and workers agree on: plain pydantic, no torch, no database, no HTTP."""

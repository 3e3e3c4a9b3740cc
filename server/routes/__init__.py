"""One file per resource; a route parses, calls the store, and returns a view."""

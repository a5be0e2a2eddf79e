"""The gradient datastore: identity, catalog, committed files, feature rows, search."""

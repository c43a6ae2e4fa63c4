"""Web pages: the gallery, and the local restoring page."""

"""Web pages: the gallery, and the local page that restores."""

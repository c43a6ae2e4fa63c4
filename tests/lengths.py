"""How much slow tests do: less in CI than they can."""

import os


def length(usual, whole):
    """The usual number of something, or the whole one if DMCNN_LONG is set and not empty."""
    return whole if os.environ.get("DMCNN_LONG") else usual

"""Models in the formats of other frameworks, and back."""

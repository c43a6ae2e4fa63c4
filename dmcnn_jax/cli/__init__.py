"""Commands, one file each, and what they share: parsers, start, errors and exit status."""

"""The networks of other systems, one file each."""

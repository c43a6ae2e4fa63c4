"""Process-level services: atomic writes, memory, compilation cache, devices."""

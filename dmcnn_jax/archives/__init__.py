"""Archives: millions of JPEG files, in shards that are each done once, on any machines."""

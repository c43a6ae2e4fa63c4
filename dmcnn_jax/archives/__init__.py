"""Archives: millions of JPEG files, restored shard by shard, each shard once, on any machines."""

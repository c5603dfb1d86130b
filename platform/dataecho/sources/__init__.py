"""Sources for the storage that users have: shards and files, here or behind a URL. Knows no framework."""

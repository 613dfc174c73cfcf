"""The adapters: one wire per file, found by URL scheme through the entry points of `socaity.transports`."""

"""The wire: what client and server say to each other, and nothing about how it is carried."""

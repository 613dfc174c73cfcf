"""Serving gRPC: the life of the server, what every method does first, health and reflection; whatever services there are."""

"""The Open Inference Protocol over HTTP, as a bare ASGI application."""

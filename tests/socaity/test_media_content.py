"""What is said of a URL that cannot be fetched."""

from __future__ import annotations

import re
import socket

import pytest

from socaity._media_content import download


def test_an_address_that_cannot_be_fetched_is_named_with_its_port_and_without_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for user in ("", "me:s3cret@"):
        with pytest.raises(
            ValueError, match=re.escape(f"http://127.0.0.1:{port}/cat.png could not be")
        ) as caught:
            download(f"http://{user}127.0.0.1:{port}/cat.png?key=s3cret")
        assert "s3cret" not in str(caught.value)

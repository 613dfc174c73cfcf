"""`socaity serve TARGET`: one `.onnx` file or the router of a module, as a service."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from socaity.exceptions import ConfigurationError

from .router import SocaityRouter

__all__ = ["serve"]

_USAGE_ERROR = 2


def serve(argv: list[str]) -> int:
    """Serve until interrupted; 2 for wrong usage, 130 after Ctrl-C."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else _USAGE_ERROR
    try:
        router = _load(options.target, options.max_batch_size)

        def say(url: str) -> None:
            names = ", ".join(router.dataplane.routes) or "no endpoints"
            print(f"Serving {names} at {url} (documentation: {url}/docs)", file=sys.stderr, flush=True)

        is_interrupted = router.start(options.host, options.port, log_level=options.log_level, on_ready=say)
    except ConfigurationError as exc:
        print(f"socaity serve: {exc}", file=sys.stderr)
        return _USAGE_ERROR
    return 130 if is_interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="socaity serve", description="Serve a model or a router.")
    parser.add_argument("target", help="one .onnx file, or module:router")
    parser.add_argument("--host", help="default: FASTAPI_HOST or 127.0.0.1")
    parser.add_argument("--port", type=int, help="default: FASTAPI_PORT or 8000; 0: any free one")
    parser.add_argument("--max-batch-size", type=int, default=64, help="of a model (default: 64)")
    parser.add_argument(
        "--log-level", default="warning", choices=("critical", "error", "warning", "info", "debug", "trace")
    )
    return parser


def _load(target: str, max_batch_size: int) -> SocaityRouter:
    if target.endswith(".onnx"):
        router = SocaityRouter(title=Path(target).stem)
        router.add_model(target, max_batch_size=max_batch_size)
        return router
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigurationError(f"A target is one .onnx file or module:router, not {target!r}.")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise  # the module is there, and something that it needs is not
        raise ConfigurationError(
            f"There is no module {module_name!r} (looked in {Path.cwd()} and sys.path)."
        ) from exc
    found = getattr(module, attribute, None)
    if not isinstance(found, SocaityRouter):
        routers = [name for name, value in vars(module).items() if isinstance(value, SocaityRouter)]
        known = f"; it has {', '.join(routers)}" if routers else ""
        what = "is not a SocaityRouter" if found is not None else "does not exist"
        raise ConfigurationError(f"{target!r} {what}{known}.")
    return found

"""`socaity serve TARGET`: a folder of models, one model file or the router of a module, as a service."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from socaity.exceptions import ConfigurationError

from .address import check_address
from .listing import listing
from .router import SocaityRouter
from .runtimes.registry import model_suffixes
from .settings import load_env_file, read_model_settings, read_settings

__all__ = ["serve"]

_USAGE_ERROR = 2
_logger = logging.getLogger(__package__)


def serve(argv: list[str]) -> int:
    """Serve until interrupted; 2 for wrong usage, 130 after Ctrl-C."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else _USAGE_ERROR
    load_env_file()
    level = options.log_level or "warning"
    try:
        router = _load(options)
        if options.fetch_from or options.public_url:
            others = read_settings(fetch_from=options.fetch_from, public_url=options.public_url)
            router.dataplane.fetch_from = others.fetch_from or router.dataplane.fetch_from
            router.dataplane.public_url = others.public_url or router.dataplane.public_url

        def say(url: str) -> None:
            for line in _report(router):
                print(line, file=sys.stderr)
            if router.grpc_address is not None:
                print(f"Open Inference over gRPC at {router.grpc_address}", file=sys.stderr)
            handled = [f"{name} (Open Inference only)" for name in sorted(router.app.open_inference.added)]
            names = ", ".join([*router.dataplane.routes, *handled]) or "no endpoints"
            print(f"Serving {names} at {url} (documentation: {url}/docs)", file=sys.stderr, flush=True)
            if options.watch and options.log_level is None:
                # what was loaded until now has just been reported
                _logger.setLevel(logging.INFO)

        with _log_to_stderr(level):
            is_interrupted = router.start(
                options.host,
                options.port,
                log_level=level,
                on_ready=say,
                tls_cert=options.tls_cert,
                tls_key=options.tls_key,
                grpc_port=options.grpc_port,
            )
    except ConfigurationError as exc:
        print(f"socaity serve: {exc}", file=sys.stderr)
        return _USAGE_ERROR
    return 130 if is_interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="socaity serve", description="Serve a model or a router.")
    parser.add_argument(
        "target",
        nargs="?",
        help="a folder of models, one model file (.onnx, .pt, .pt2, .joblib, .py), or module:router; "
        "default: the folder MODEL_DIRECTORY",
    )
    parser.add_argument("--host", help="default: FASTAPI_HOST or 127.0.0.1")
    parser.add_argument("--port", type=int, help="default: FASTAPI_PORT, PORT or 8000; 0: any free one")
    parser.add_argument(
        "--grpc-port",
        type=int,
        help="serve Open Inference over gRPC as well, at this port (default: GRPC_PORT, or not); 0: any free one",
    )
    parser.add_argument("--max-batch-size", type=int, help="of one model file (default: measured)")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled models (.joblib, .pt2) that have no hash in their configuration; they can run any code",
    )
    parser.add_argument("--watch", action="store_true", help="load models again when their files change")
    parser.add_argument(
        "--fetch-from",
        action="append",
        metavar="URL",
        help="another service whose results are fetched from there when a caller refers to them; may be repeated "
        "(default: SOCAITY_FETCH_FROM, or none)",
    )
    parser.add_argument(
        "--public-url",
        metavar="URL",
        help="where other services reach this one, if not where its clients do (default: SOCAITY_PUBLIC_URL)",
    )
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="serve at https with this certificate, in PEM form (default: SOCAITY_TLS_CERT, or none)",
    )
    parser.add_argument(
        "--tls-key",
        metavar="FILE",
        help="the key of the certificate (default: SOCAITY_TLS_KEY, or the same file)",
    )
    parser.add_argument(
        "--log-level",
        choices=("critical", "error", "warning", "info", "debug", "trace"),
        help="default: warning, and with --watch also what is loaded and unloaded",
    )
    return parser


@contextmanager
def _log_to_stderr(level: str) -> Iterator[None]:
    """What the server says of itself; a library sets up no logging, but this is a program."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = _logger.level
    _logger.addHandler(handler)
    _logger.setLevel("DEBUG" if level == "trace" else level.upper())
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(before)


def _report(router: SocaityRouter) -> Iterator[str]:
    """What was measured of each model, and what is wrong with the others."""
    for model in listing(router.dataplane):
        if model["state"] != "ready":
            yield f"{model['name']}: {model['state']}: {model['reason']}"
            continue
        loaded = router.dataplane.routes[model["name"]].model
        assert loaded is not None
        yield f"{loaded.name}: {loaded.summary}"
        for warning in loaded.warnings:
            yield f"{loaded.name}: warning: {warning}"


def _load(options: argparse.Namespace) -> SocaityRouter:
    target = options.target or read_model_settings().directory
    if target is None:
        raise ConfigurationError(
            "What is to be served? Give a folder, a file or module:router, or set MODEL_DIRECTORY."
        )
    path = Path(target)
    if path.is_dir():
        router = SocaityRouter(title=path.resolve().name)
        router.add_models(path, allow_pickle=options.allow_pickle or None, watch=options.watch)
        return router
    if path.suffix.lower() in model_suffixes() and ":" not in path.name:
        if path.is_file():
            settings = read_settings(host=options.host, port=options.port)
            check_address(settings.host, settings.port)  # before somebody waits for the model
        router = SocaityRouter(title=path.stem)
        router.add_model(
            path, max_batch_size=options.max_batch_size, allow_pickle=options.allow_pickle or None
        )
        return router
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigurationError(
            f"A target is a folder of models, a model file ({', '.join(model_suffixes())}) or module:router, not {target!r}."
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module = _import(module_name, attribute)
    found = getattr(module, attribute, None)
    if not isinstance(found, SocaityRouter):
        routers = [name for name, value in vars(module).items() if isinstance(value, SocaityRouter)]
        known = f"; it has {', '.join(routers)}" if routers else ""
        what = "is not a SocaityRouter" if found is not None else "does not exist"
        raise ConfigurationError(f"{target!r} {what}{known}.")
    return found


def _import(name: str, attribute: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ConfigurationError:  # it says itself what is wrong
        raise
    except Exception as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
            hint = f" Did you mean {name.removesuffix('.py')}:{attribute}?" if name.endswith(".py") else ""
            raise ConfigurationError(
                f"There is no module {name!r} (looked in {Path.cwd()} and sys.path).{hint}"
            ) from exc
        trace = exc.__traceback__
        while trace is not None and _is_of_import(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        traceback.print_exception(exc.with_traceback(trace))
        raise ConfigurationError(
            f"The module {name!r} could not be imported; the lines above say where it ended."
        ) from exc


def _is_of_import(file: str) -> bool:
    """Whether a line of a traceback is on the way to the module, and not in it."""
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")

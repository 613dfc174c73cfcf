"""Runs snippets in one namespace and writes down what each prints: `python run_blocks.py blocks.json outputs.json`.

It runs in the environments of the peers, so it imports nothing but the standard library.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys

blocks_file, outputs_file = sys.argv[1:]
sys.path[0] = ""  # as in a notebook: the files of the page can be imported
with open(blocks_file, encoding="utf-8") as file:
    blocks = json.load(file)
outputs = []
namespace = {"__name__": "page"}
with asyncio.Runner() as runner:
    for page, source in blocks:
        code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = eval(code, namespace)
            if inspect.iscoroutine(value):
                runner.run(value)
        outputs.append(printed.getvalue())
with open(outputs_file, "w", encoding="utf-8") as file:
    json.dump(outputs, file)
for name in ("service", "client"):  # gradio_client keeps a thread that would hold up the end of the process
    if hasattr(namespace.get(name), "close"):
        namespace[name].close()

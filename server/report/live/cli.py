"""The command ``watch``, and the options of a run by which others can follow it."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fedkd.errors import SettingsError

LivePort = Annotated[
    int | None,
    typer.Option(
        "--live",
        metavar="PORT",
        min=0,
        max=65535,
        help="Serve the page of the run on this machine while it goes on; 0: any free port.",
    ),
]
"""The option ``--live`` of a run."""
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write DIR/tensorboard for TensorBoard.")
]
"""The option ``--tensorboard`` of a run."""


def watch(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a run, finished or going on.")
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On this machine; 0: any that is free.")
    ] = 0,
    browser: Annotated[bool, typer.Option("--open", help="Also open it in the browser.")] = False,
) -> None:
    """Serve the page of a run on this machine; it refreshes itself. Ctrl-C ends it."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not a folder; name the folder of a run")
    from fedkd.server.report.live.live_page import LivePage
    from fedkd.server.report.live.page_server import PageServer, address, listen, new_key

    listening, key = listen(port), new_key()
    where = address(listening, key)
    with PageServer(listening, LivePage(folder), key) as server:
        print(where, flush=True)
        print("Ctrl-C ends it; the run goes on", file=sys.stderr)
        if browser:
            webbrowser.open(where)
        server.serve_forever()

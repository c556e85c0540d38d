"""Child process of ``--live``: see `fedkd.server.report.live.background_server`."""

from fedkd.server.report.live.background_server import serve_for_parent

if __name__ == "__main__":
    serve_for_parent()

"""``custody bitarchive viewer``: pywb and the nine commands, started together."""

from __future__ import annotations

import click

from custody.bitarchive.archive import Archive


@click.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8075, show_default=True, help="Of the commands, and of the proxy for a browser.")
@click.option("--pywb-port", default=8076, show_default=True, help="Of pywb.")
@click.option("--replay-url", help="How browsers reach pywb, where not at its own address (in a container).")
@click.option("--install", is_flag=True, help="Only make pywb's environment, from its lock.")
@click.option("--seeds", metavar="USER", help="Only print the missing URLs that USER recorded, as a seed list.")
def viewer(
    archive_name: str,
    host: str,
    port: int,
    pywb_port: int,
    replay_url: str | None,
    install: bool,
    seeds: str | None,
) -> None:
    """Serve the archive to browsers: commands at --port (also a proxy), replay by pywb at --pywb-port."""
    from custody.bitarchive.viewer import server
    from custody.bitarchive.viewer.session import Sessions

    archive = Archive.open(archive_name)
    if install:
        click.echo(server.install_pywb(server.environment_of(archive)))
        return
    if seeds is not None:
        for url in sorted(Sessions(server.home_of(archive) / "sessions").read(seeds).missing):
            click.echo(url)
        return
    server.find_pywb(archive)
    click.echo(f"commands: http://{host}:{port}/getStatus   replay: http://{host}:{pywb_port}/", err=True)
    server.serve(archive, host=host, port=port, pywb_port=pywb_port, replay_url=replay_url)


COMMANDS = (viewer,)

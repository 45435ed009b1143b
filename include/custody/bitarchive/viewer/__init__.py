"""The viewer: NetarchiveSuite's nine commands beside pywb, each user with a state of their own."""

COMMAND_HOSTS = frozenset({"netarchivesuite.viewerproxy.invalid", "viewerproxy.invalid"})
"""The names under which a browser that uses the viewer as its proxy finds the commands."""

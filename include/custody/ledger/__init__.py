"""The ledger: where every file is, since when, and what proves it.

An index, not the only copy: all of it can be rebuilt from the markers, manifests and labels that lie beside the data.
"""

from custody.ledger.database import default_url
from custody.ledger.store import CopyState, Ledger, Whereabouts, run_name

__all__ = ["CopyState", "Ledger", "Whereabouts", "default_url", "run_name"]

"""Engines: what makes a wiki's documents. ``sql`` reads its database; ``mediawiki`` runs MediaWiki's own scripts."""

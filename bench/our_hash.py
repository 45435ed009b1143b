"""Ours: hash the files of a series. ``our_hash.py ALGORITHMS THREADS DIRECTORY``; algorithms parted by commas."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from custody.digests import read_file

algorithms, threads, directory = sys.argv[1].split(","), int(sys.argv[2]), Path(sys.argv[3])
with ThreadPoolExecutor(threads) as pool:
    for reading in pool.map(lambda path: read_file(path, algorithms), sorted(directory.iterdir())):
        print(*reading.fixity.digests.values())

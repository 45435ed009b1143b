"""bzip2 from the inside: blocks at any bit, their checksums, random access, streams spliced and checked."""

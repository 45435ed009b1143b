"""Wiki dump: a MediaWiki farm, dumped wiki by wiki into the files that the world's dump readers parse.

Every published file was read back and found whole; what is private never lies in the public tree.
"""

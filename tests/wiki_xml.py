"""Reading documents independently of what wrote them: lxml, and the published schema where it is at hand."""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from custody.wiki_dump.engine import siteinfo
from custody.wiki_dump.engine.siteinfo import SiteInfo

SHARED = Path(__file__).parents[2] / "shared/data/wiki"
XML_XSD = (
    b'<?xml version="1.0"?><xs:schema targetNamespace="http://www.w3.org/XML/1998/namespace" '
    b'xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:attribute name="lang" type="xs:string"/>'
    b'<xs:attribute name="space"><xs:simpleType><xs:restriction base="xs:NCName"><xs:enumeration value="default"/>'
    b'<xs:enumeration value="preserve"/></xs:restriction></xs:simpleType></xs:attribute></xs:schema>'
)


class _Offline(etree.Resolver):
    def resolve(self, url: str, pubid: str, context: object) -> object:
        return self.resolve_string(XML_XSD, context) if "xml.xsd" in url else None


def parse(document: bytes) -> etree._Element:
    """A document as a tree."""
    return etree.fromstring(document, etree.XMLParser(huge_tree=True, no_network=True))


def schema_errors(document: bytes) -> list[str]:
    """What the published schema says against a document; nothing where the schema is not at hand."""
    path = SHARED / "export-0.11.xsd"
    if not path.exists():
        return []
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(_Offline())
    schema = etree.XMLSchema(etree.parse(str(path), parser))
    schema.validate(parse(document))
    return sorted({error.message for error in schema.error_log})


def site_of(document: bytes, wiki: str = "testwiki") -> SiteInfo:
    """What the head of a document says of its wiki."""
    return siteinfo.from_header(document[: document.index(b"</siteinfo>")], wiki)

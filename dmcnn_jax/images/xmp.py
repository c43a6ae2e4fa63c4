"""Edits XMP, metadata in XML: joins its parts, and drops entries on contents that results lack.

XMP comes from untrusted files. It is parsed by the standard library, after a pass that refuses
document types, and so all entities that could expand or point elsewhere.
"""

import re
import struct
from collections.abc import Sequence
from xml.dom import minidom
from xml.parsers import expat


class XmpError(ValueError):
    """XMP that can't be parsed safely."""


def has_promises(xmp: bytes) -> bool:
    """Returns whether XMP seems to have entries that `drop_promises` removes."""
    return _PROMISES.search(xmp) is not None


def drop_promises(xmp: bytes, *, extension: bool = False) -> bytes:
    """Removes XMP's entries about gain maps, videos and further pictures in the same file.

    Args:
        xmp: a packet.
        extension: whether its reference to an extension is removed too.

    Raises:
        XmpError: if it can't be parsed safely.
    """
    document = _parse(xmp)
    for element in _elements(document):
        for name, space, local in _attributes(element):
            if _is_promise(space, local, extension):
                element.removeAttribute(name)
        if _is_promise(element.namespaceURI, element.localName, extension):
            _remove(element)
    return _serialize(document)


def set_upright(xmp: bytes) -> bytes:
    """Sets the orientation in XMP, if there is one, to 1.

    Args:
        xmp: a packet.

    Raises:
        XmpError: if it can't be parsed safely.
    """
    document = _parse(xmp)
    for element in _elements(document):
        for name, space, local in _attributes(element):
            if (space, local) == (_TIFF, "Orientation"):
                element.setAttribute(name, "1")
        if (element.namespaceURI, element.localName) == (_TIFF, "Orientation"):
            while element.firstChild is not None:
                element.removeChild(element.firstChild)
            element.appendChild(document.createTextNode("1"))
    return _serialize(document)


def join_extension(xmp: bytes, parts: Sequence[bytes]) -> bytes:
    """Joins an XMP packet with its extension (XMP specification, part 3, 1.1.3.1).

    Args:
        xmp: the main packet, which names the extension.
        parts: of extensions, each with a GUID of 32 bytes, the total length, and its offset.

    Returns:
        One packet with all properties.

    Raises:
        XmpError: if parts are missing, or can't be parsed safely.
    """
    document = _parse(xmp)
    targets = _find(document, "RDF")
    guid = ""
    for element in _elements(document):
        for name, space, local in _attributes(element):
            if (space, local) == (_NOTE, _EXTENDED):
                guid = element.getAttribute(name)
                element.removeAttribute(name)
        if (element.namespaceURI, element.localName) == (_NOTE, _EXTENDED):
            guid = "".join(child.data for child in element.childNodes if hasattr(child, "data"))
            _remove(element)
    extension = _parse(_assemble(guid.strip().encode(), parts))
    if not targets:
        raise XmpError("the main packet has no rdf:RDF")
    for source in _find(extension, "Description"):
        parent = source.parentNode
        if parent is None or parent.localName != "RDF":
            continue
        _declare_namespaces(source)
        try:
            targets[0].appendChild(document.importNode(source, True))
        except RecursionError:
            raise XmpError("it is nested too deeply") from None
    return _serialize(document)


_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_NOTE, _EXTENDED = "http://ns.adobe.com/xmp/note/", "HasExtendedXMP"

_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_GAIN_MAPS = ("http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/")
# The list of the file's items, of which only the picture is left.
_DIRECTORIES = (
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/dd/1.0/container/",
)
_PROMISES = re.compile(
    rb"ns\.adobe\.com/hdr-gain-map/|ns\.apple\.com/HDRGainMap/|MotionPhoto|MicroVideo"
    rb"|ns\.google\.com/photos/(dd/)?1\.0/container/"
)


def _is_promise(space: str | None, name: str, extension: bool) -> bool:
    """Returns whether a property announces contents of the file besides the picture."""
    return (
        (extension and (space, name) == (_NOTE, _EXTENDED))
        or space in _GAIN_MAPS
        or (space == _CAMERA and name.startswith(("MotionPhoto", "MicroVideo")))
        or (space in _DIRECTORIES and name == "Directory")
    )


def _parse(xmp: bytes) -> minidom.Document:
    data = xmp.strip(b"\0 \t\r\n")
    try:
        checker = expat.ParserCreate()
        checker.StartDoctypeDeclHandler = _refuse_doctype
        checker.Parse(data, True)
        return minidom.parseString(data)
    except (expat.ExpatError, ValueError, LookupError, RecursionError) as error:
        raise XmpError(f"it can't be parsed safely: {error}") from None


def _refuse_doctype(*_: object) -> None:
    raise XmpError("it has a document type")


def _serialize(document: minidom.Document) -> bytes:
    try:
        # Without an XML declaration, since the packet's own header takes its place.
        return "".join(node.toxml() for node in document.childNodes).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise XmpError(f"it can't be written: {error}") from None


def _elements(node: minidom.Node) -> list[minidom.Element]:
    """Returns the elements below a node, siblings in order, each after its own children.

    Nothing recurses, since XMP may be nested deeply. In this order, an element that is removed is
    the first of its siblings or near it, where `removeChild` finds it at once.
    """
    found, waiting = [], list(node.childNodes)
    while waiting:
        each = waiting.pop()
        if isinstance(each, minidom.Element):
            found.append(each)
            waiting += each.childNodes
    return found[::-1]


def _find(document: minidom.Document, name: str) -> list[minidom.Element]:
    """Returns the elements of RDF with a name."""
    return [e for e in _elements(document) if (e.namespaceURI, e.localName) == (_RDF, name)]


def _attributes(element: minidom.Element) -> list[tuple[str, str | None, str]]:
    """Returns the name, the namespace and the local name of each attribute."""
    return [(a.name, a.namespaceURI, a.localName) for a in element.attributes.values()]


def _remove(element: minidom.Element) -> None:
    if element.parentNode is not None:
        element.parentNode.removeChild(element)


def _declare_namespaces(element: minidom.Element) -> None:
    """Copies the declarations of namespaces around an element to the element itself."""
    around = element.parentNode
    while isinstance(around, minidom.Element):
        for attribute in around.attributes.values():
            if attribute.name.startswith("xmlns") and not element.hasAttribute(attribute.name):
                element.setAttributeNS(
                    "http://www.w3.org/2000/xmlns/", attribute.name, attribute.value
                )
        around = around.parentNode


def _assemble(guid: bytes, parts: Sequence[bytes]) -> bytes:
    """Returns the extension with a GUID, from its parts in any order."""
    mine = sorted(
        (*struct.unpack_from(">II", part, 32), part[40:])
        for part in parts
        if part[:32] == guid and len(part) > 40
    )
    data = b""
    for _, offset, piece in mine:
        if offset != len(data):
            break
        data += piece
    if not mine or len(data) != mine[0][0]:
        raise XmpError("parts of it are missing")
    return data

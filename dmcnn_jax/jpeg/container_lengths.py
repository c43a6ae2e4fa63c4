"""Corrects the picture's size in bytes in XMP, and changes nothing else in the packet.

Google's container directory (Motion Photo 1.0, Ultra HDR, dynamic depth) lists the items in a file
with their lengths in bytes. The picture itself is the item "Primary". Its length is mostly absent
or 0, but some programs write it, measured from the file's start.

Other positions in XMP remain valid when the picture's size changes: `MicroVideoOffset` is measured
from the file's end, and the lengths of other items don't change.
"""

import dataclasses
import re
from xml.parsers import expat

_ITEM = re.compile(
    r"http://ns\.google\.com/photos/(?:dd/)?1\.0/(?:container/)?item/ (Semantic|Length)(?: \S+)?"
)
_ATTRIBUTE = re.compile(rb"([^\s=\"'<>/]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")


@dataclasses.dataclass(frozen=True)
class PrimaryLength:
    """The picture's length in an XMP packet.

    Attributes:
        value: in bytes.
        start, end: positions of its digits in the packet.
    """

    value: int
    start: int
    end: int


def find_primary_lengths(packet: bytes) -> tuple[PrimaryLength, ...]:
    """Finds the picture's length in the container directory of an XMP packet.

    Args:
        packet: XMP in UTF-8.

    Returns:
        A length for each item "Primary" that has one, in the packet's order; none if the packet is
        not XML, or declares a document type.
    """
    if b"Primary" not in packet or b"Length" not in packet:
        return ()
    finder = _Finder(packet)
    try:
        finder.parser.Parse(packet, True)
    except (expat.ExpatError, _DocumentTypeError):
        return ()
    return tuple(sorted(finder.found, key=lambda each: each.start))


def set_primary_lengths(packet: bytes, old: int, new: int) -> bytes:
    """Replaces the picture's length in an XMP packet.

    Only the digits change, and the packet's padding if their number changes, so that the packet
    keeps its size if the padding suffices.

    Args:
        packet: XMP in UTF-8.
        old: the length to replace; other values are kept.
        new: the length to write.
    """
    digits = b"%d" % new
    edited = packet
    for each in reversed(find_primary_lengths(packet)):
        if each.value == old:
            edited = edited[: each.start] + digits + edited[each.end :]
    return _adjust_padding(edited, len(edited) - len(packet))


class _DocumentTypeError(Exception):
    """A declared document type, whose entities could expand or point elsewhere."""


@dataclasses.dataclass
class _Element:
    """An open element of XMP.

    Attributes:
        field: "Semantic" or "Length" if it is a field of an item, else None.
        semantic: the item's semantic, if read so far.
        lengths: the item's lengths.
        text: the element's text so far, and its start.
    """

    field: str | None
    semantic: str = ""
    lengths: list[PrimaryLength] = dataclasses.field(default_factory=list)
    text: str = ""
    start: int = 0

    def set_field(self, field: str, text: str, start: int) -> None:
        """Stores a field of the item; ignores a length that is not a number."""
        digits = text.strip()
        if field == "Semantic":
            self.semantic = digits
        elif digits.isascii() and digits.isdigit() and len(digits) < 20:
            start += len(text) - len(text.lstrip())
            self.lengths.append(PrimaryLength(int(digits), start, start + len(digits)))


class _Finder:
    """The handlers of one pass over a packet."""

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.found: list[PrimaryLength] = []
        self.open: list[_Element] = []
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.namespace_prefixes = True
        self.parser.StartElementHandler = self._start
        self.parser.CharacterDataHandler = self._text
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        element = _Element(_field(name))
        for key, value in attributes.items():
            if (field := _field(key)) is not None:
                prefixed = ":".join(reversed(key.split(" ")[1:]))
                element.set_field(field, value, self._attribute_start(prefixed))
        self.open.append(element)

    def _attribute_start(self, name: str) -> int:
        """Returns the start of the value of an attribute in the current tag."""
        for found in _ATTRIBUTE.finditer(self.packet, self.parser.CurrentByteIndex):
            if found[1] == name.encode():
                return found.start(2) if found[2] is not None else found.start(3)
        raise AssertionError(name)  # expat has just read it

    def _text(self, text: str) -> None:
        element = self.open[-1]
        if element.field is None:
            return
        if not element.text:
            element.start = self.parser.CurrentByteIndex
        element.text += text

    def _end(self, _: str) -> None:
        element = self.open.pop()
        if element.field is not None and self.open:
            self.open[-1].set_field(element.field, element.text, element.start)
        if element.semantic == "Primary":
            self.found += [each for each in element.lengths if self._is_plain(each)]

    def _is_plain(self, length: PrimaryLength) -> bool:
        """Returns whether the packet has the digits literally, not as references or in UTF-16."""
        return self.packet[length.start : length.end] == b"%d" % length.value

    def _refuse(self, *_: object) -> None:
        raise _DocumentTypeError


def _field(name: str) -> str | None:
    """Returns which field of an item an expanded name means, if any."""
    found = _ITEM.fullmatch(name)
    return found[1] if found else None


def _adjust_padding(packet: bytes, surplus: int) -> bytes:
    """Removes spaces from the packet's padding if possible; a negative number adds spaces."""
    end = packet.rfind(b"<?xpacket end")
    if end < 0:
        return packet
    start = len(packet[:end].rstrip(b" \t\r\n"))
    padding = packet[start:end]
    padding = padding.replace(b" ", b"", surplus) if surplus > 0 else padding + b" " * -surplus
    return packet[:start] + padding + packet[end:]

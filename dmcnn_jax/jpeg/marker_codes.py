"""The marker codes of JPEG files (ITU-T T.81, table B.1), supported and unsupported."""

import re

SOI, EOI, SOS, DQT, DHT, DNL, DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDC, 0xDD
APP0, APP1, APP2, APP9, APP11, APP12, APP13 = 0xE0, 0xE1, 0xE2, 0xE9, 0xEB, 0xEC, 0xED
APP14, APP15, COM = 0xEE, 0xEF, 0xFE

BASELINE, EXTENDED_SEQUENTIAL, PROGRESSIVE = 0xC0, 0xC1, 0xC2
SUPPORTED_FRAMES = frozenset({BASELINE, EXTENDED_SEQUENTIAL, PROGRESSIVE})

# Markers without a segment: restart markers, and one for temporary use in arithmetic coding.
WITHOUT_SEGMENT = frozenset({*range(0xD0, 0xD8), 0x01})

_LOSSLESSLY = "`jpegtran -optimize` turns it into a Huffman-coded file without loss"
_NO_COEFFICIENTS = "it has no quantised coefficients to restore from"
UNSUPPORTED = {
    0xC3: f"lossless JPEG: {_NO_COEFFICIENTS}",
    0xC5: "hierarchical JPEG (differential sequential), which is not supported",
    0xC6: "hierarchical JPEG (differential progressive), which is not supported",
    0xC7: f"hierarchical lossless JPEG: {_NO_COEFFICIENTS}",
    0xC9: f"arithmetic-coded JPEG, which is not supported; {_LOSSLESSLY}",
    0xCA: f"arithmetic-coded progressive JPEG, which is not supported; {_LOSSLESSLY}",
    0xCB: f"arithmetic-coded lossless JPEG: {_NO_COEFFICIENTS}",
    0xCD: "arithmetic-coded hierarchical JPEG, which is not supported",
    0xCE: "arithmetic-coded hierarchical JPEG, which is not supported",
    0xCF: f"arithmetic-coded hierarchical lossless JPEG: {_NO_COEFFICIENTS}",
    0xDE: "hierarchical JPEG, which is not supported",
    0xDF: "hierarchical JPEG, which is not supported",
    0xF7: f"JPEG-LS: {_NO_COEFFICIENTS}",
}
"""Markers of files that can't be restored, and the reasons."""

# Reserved for extensions that were never defined, so these bytes are not a marker.
RESERVED = frozenset([*range(0x02, 0xC0), 0xC8, *range(0xF0, 0xFE)])

END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The end of entropy-coded data, in which 0xFF is followed by 0 or begins a restart marker.

Any number of 0xFF may precede a marker. They are not part of the pattern, since a file full of them
would then take quadratic time.
"""


def write_segment(marker: int, payload: bytes) -> bytes:
    """Returns a segment: its marker, its length and its payload of at most 65533 bytes."""
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload

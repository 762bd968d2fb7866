"""Read the bytes that a client put into a `data:` URI, as a browser would.

Follows https://fetch.spec.whatwg.org/#data-urls, and also takes base64's URL-safe alphabet.
The media type is ignored, because it says nothing that the bytes do not say better.
"""

import binascii
import re
from string import hexdigits, whitespace

import numpy as np

from deployments.errors import FileTooLarge, ImageLoadError

WHITESPACE = whitespace.encode()
FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# Base64 makes 4 characters of 3 bytes and percent-encoding 3 of each, so a byte takes at most 4;
# one more is for padding and line breaks.
MAX_EXPANSION = 5

BARE_BASE64 = re.compile(r"[\w+/-]{40,}={0,2}\s")

NOT_HEX = 255
HEX = np.full(256, NOT_HEX, np.uint8)
HEX[np.frombuffer(hexdigits.encode(), np.uint8)] = [int(digit, 16) for digit in hexdigits]


def read_data_uri(uri: str, max_bytes: int) -> bytes:
    """The bytes in `uri`, at least one and at most `max_bytes`.

    Raises:
        FileTooLarge: more than `max_bytes`; ctx holds `max_size`. Known before decoding.
        ImageLoadError: `uri` is no data URI, holds no data, or its base64 is damaged.
    """
    is_base64, payload = split(uri)
    if len(payload) > max_bytes * MAX_EXPANSION:
        raise FileTooLarge.of(max_bytes)
    data = percent_decode(payload.encode("utf-8", "replace"))
    content = base64_decode(data, max_bytes) if is_base64 else data
    if not content:
        raise ImageLoadError("The data URI holds no data.")
    if len(content) > max_bytes:
        raise FileTooLarge.of(max_bytes)
    return content


def hint_of_url(url: str) -> str:
    """How to write what cannot be fetched because it is no URL; nothing about a URL."""
    if re.match(r"[a-z]+://", url, re.IGNORECASE):
        return ""
    if BARE_BASE64.match(url[:64] + " "):
        return "Put `data:image/jpeg;base64,` before the base64, whatever kind of image it is."
    return (
        "`image_url` takes an http or https URL, a base64 data URI, or the URL of an upload; "
        "a file has to be uploaded or sent as a data URI."
    )


def split(uri: str) -> tuple[bool, str]:
    """Whether the payload is base64, and the payload without a fragment."""
    header, comma, payload = uri.partition(",")
    if header[:5].lower() != "data:" or not comma:
        raise ImageLoadError("The data URI is not of the form data:[<type>][;base64],<data>.")
    _, semicolon, encoding = header.rpartition(";")
    is_base64 = bool(semicolon) and encoding.strip(" ").lower() == "base64"
    return is_base64, payload.partition("#")[0]


def percent_decode(data: bytes) -> bytes:
    """`data` with every %XX replaced once; a % without two hex digits stays as it is.

    Vectorised, because `urllib.parse.unquote_to_bytes` makes a list of an object per escape:
    half a gigabyte for a hostile body of 32 MB.
    """
    if b"%" not in data:
        return data
    encoded = np.frombuffer(data, np.uint8)
    high, low = HEX[encoded[1:-1]], HEX[encoded[2:]]
    escaped = (encoded[:-2] == ord("%")) & (high != NOT_HEX) & (low != NOT_HEX)
    decoded, kept = encoded.copy(), np.ones(encoded.size, bool)
    np.copyto(decoded[:-2], high << 4 | low, where=escaped)
    kept[1:-1] &= ~escaped
    kept[2:] &= ~escaped
    return decoded[kept].tobytes()


def base64_decode(data: bytes, max_bytes: int) -> bytes:
    """Bytes of base64, padded or not, with white space anywhere."""
    digits = data.translate(FROM_URL_SAFE, WHITESPACE)
    if len(digits) % 4 == 0:
        digits = digits.removesuffix(b"=").removesuffix(b"=")
    if len(digits) * 3 // 4 > max_bytes:
        raise FileTooLarge.of(max_bytes)
    if len(digits) % 4 == 1 or b"=" in digits:
        raise damaged()
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error:
        raise damaged() from None


def damaged() -> ImageLoadError:
    return ImageLoadError("The data URI's base64 is damaged.")

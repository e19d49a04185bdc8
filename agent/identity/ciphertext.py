"""What an encrypted credential is bound to, by its own header: systemd-creds(1) chooses the key by itself.

The header is that of src/shared/creds-util.c in systemd 252 to 257: base64 of a 128-bit id of the kind of
key, four lengths (u32), the initialisation vector, padding to 8 bytes and, with a TPM2, the mask of PCRs
(u64). All little-endian.
"""

from __future__ import annotations

import binascii
import struct
from typing import Final, NamedTuple

_HOST: Final = "5a1c6a86df9d4096b1d5a65e0862f19a"
_NULL: Final = "058469daf6f54324800549da0f8ea2fb"
_TPM2: Final = {
    "0c7cc07b117645919c4b0bea08bc20fe": "its TPM2",
    "faf7eb9341e3412ca1a436f95a29362f": "its TPM2",
    "93a894094874449090caf2fc93cab553": "its TPM2 and its own key",
    "af4950a849134eb1a73846304ff30c05": "its TPM2 and its own key",
}
_LENGTHS: Final = struct.Struct("<16sIIII")
_MASK: Final = struct.Struct("<Q")
_PCRS: Final = 24


class Bound(NamedTuple):
    """What decrypts it, in words, and the PCRs that must not change; ``safe``: it needs a key at all."""

    words: str
    pcrs: tuple[int, ...] = ()
    safe: bool = True


def bound_to(encrypted: bytes) -> Bound:
    """Return what a file of systemd-creds is bound to; an unknown kind is said to be one."""
    try:
        raw = binascii.a2b_base64(encrypted)
        kind, _, _, vector, _ = _LENGTHS.unpack_from(raw)
        if kind.hex() == _HOST:
            return Bound("its own key, /var/lib/systemd/credential.secret")
        if kind.hex() == _NULL:
            return Bound("no key", safe=False)
        if words := _TPM2.get(kind.hex()):
            (mask,) = _MASK.unpack_from(raw, (_LENGTHS.size + vector + 7) // 8 * 8)
            return Bound(words, tuple(number for number in range(_PCRS) if mask >> number & 1))
    except (binascii.Error, struct.error):
        pass
    return Bound("a key of systemd's choice, of a kind that is not known here")

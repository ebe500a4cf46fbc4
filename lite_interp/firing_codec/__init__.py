"""Firings to bytes and back: of one latent in one shard, or of very many latents at once.

A blob is a head, the fields of the firings and a row of zeros and ones, all as little-endian bits,
the lowest bit of the lowest byte first:

    head    8 bits layout: 3 or 4
            5 bits low, the bits of a gap that stand in its field
            4 bits width, the bits of a value
            9 bits exponent + 149
           11 bits greatest pattern - 0x3C00
           the rest: number of firings. The head has 6 bytes in layout 3 and 8 in layout 4.
    fields  low + width bits for each firing, side by side: what its pattern lacks to the greatest,
            then the low bits of its gap; filled up to a byte
    gaps    for each firing as many zeros as its gap >> low says, then a one; filled up to a byte

A gap is the number of places between a firing and the one before (a Rice code with a parameter of
one less than the bits of the mean gap: Rice and Plaunt 1971; to try its neighbours saves nothing).
A value is divided by the power of two that puts the latent's greatest into [1, 2) and rounded to
float16, so that no scale overflows; one that would round to zero becomes the smallest float16. A
pattern is the 16 bits of such a float16 as a number, which rises with the value.

`pack_firings` and `unpack_firings` are the plain way, `pack_all` and `unpack_all` the fast one:
the same bytes, the same firings. Layout 2, of older files, is read too. A blob that does not parse
raises `ValueError`, before it takes more memory than its own length explains.
"""

from lite_interp.firing_codec.many import PackedFirings, pack_all, unpack_all
from lite_interp.firing_codec.one import pack_firings, unpack_firings

__all__ = ["PackedFirings", "pack_all", "pack_firings", "unpack_all", "unpack_firings"]

"""Lossless compression: files of examples by trained models, as long as their likelihoods say.

`encode` and `decode` are all that most need.  The coder is that of `constriction`; this package turns densities into its tables.
"""

from dlvm_jax.coding.codecs import Codec, bits_back, levels_codec
from dlvm_jax.coding.files import BATCH, Header, decode, encode, payload_bits, read_header
from dlvm_jax.coding.models import codec_of
from dlvm_jax.coding.stack import Stack, frequencies

__all__ = [
    "BATCH",
    "Codec",
    "Header",
    "Stack",
    "bits_back",
    "codec_of",
    "decode",
    "encode",
    "frequencies",
    "levels_codec",
    "payload_bits",
    "read_header",
]

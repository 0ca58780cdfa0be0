"""Compression: files of examples by trained models, without loss as long as their likelihoods say, and with loss.

`encode` and `decode` are all that most need.  The coder is that of `constriction`; this package turns densities into its tables.
"""

from dlvm_jax.coding.codecs import Codec, levels_codec
from dlvm_jax.coding.files import BATCH, Header, decode, encode, payload_bits, read_header
from dlvm_jax.coding.latents import bits_back
from dlvm_jax.coding.lossy import Loss, Lossy, lossy_of
from dlvm_jax.coding.models import codec_of
from dlvm_jax.coding.stack import Stack, frequencies

__all__ = [
    "BATCH",
    "Codec",
    "Header",
    "Loss",
    "Lossy",
    "Stack",
    "bits_back",
    "codec_of",
    "decode",
    "encode",
    "frequencies",
    "levels_codec",
    "lossy_of",
    "payload_bits",
    "read_header",
]

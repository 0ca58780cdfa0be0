"""Flax Linen modules and nothing else: no loss, no optimiser, no random key.

Every module maps [*batch, *event] (or a tuple of such arrays) to float32 [*batch, *out_shape], for any leading batch
shape; `dtype` is the compute type (bfloat16 on accelerators), parameters stay float32.  The recurrent ones take and return their
state too.
"""

from dlvm_jax.nets.causal_transformer import CausalTransformer
from dlvm_jax.nets.code_grids import GridDecoder, GridEncoder
from dlvm_jax.nets.conv import ConvDecoder, ConvEncoder, GatedConvDecoder, GatedConvEncoder
from dlvm_jax.nets.draw import DrawDecoder, DrawEncoder
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP, SMALL, GatedDense
from dlvm_jax.nets.pixelcnn import GatedPixelCNN

__all__ = [
    "MADE",
    "MLP",
    "SMALL",
    "CausalTransformer",
    "ConvDecoder",
    "ConvEncoder",
    "DrawDecoder",
    "DrawEncoder",
    "GatedConvDecoder",
    "GatedConvEncoder",
    "GatedDense",
    "GatedPixelCNN",
    "GridDecoder",
    "GridEncoder",
]

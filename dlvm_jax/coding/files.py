"""Compressed examples as bytes: a header in JSON, the words of the stack, a checksum of both."""

import contextlib
import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np

from dlvm_jax.coding.codecs import Codec
from dlvm_jax.coding.lossy import Loss, lossy_of
from dlvm_jax.coding.models import codec_of
from dlvm_jax.coding.stack import Stack
from dlvm_jax.digest import digest
from dlvm_jax.functional.numerics import as_integer
from dlvm_jax.models.spaces import check_points
from dlvm_jax.progress import Progress
from dlvm_jax.train.fitted import Fitted

__all__ = ["BATCH", "Header", "decode", "encode", "payload_bits", "read_header"]

MAGIC, HASH = b"dlvm_jax stream 1\n", 32
BATCH = 100  # examples that the networks see at once


@dataclasses.dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    model:   digest of the model that it was made by;  data: that of the examples, or of their codes, which decoding must give
    shape:   of all examples together;  protocol: of the data that the model was trained on
    batch:   examples that the networks see at once
    first:   how many were coded together at first, before there were bits enough for a whole batch
    program: versions and device that it was made with
    loss:    what is left out of the examples; None: nothing
    """

    model: str
    data: str
    shape: tuple[int, ...]
    protocol: str
    batch: int
    first: tuple[int, ...]
    program: str
    loss: Loss | None = None

    def sizes(self) -> list[int]:
        """How many examples were coded together, in that order."""
        left = self.shape[0] - sum(self.first)
        return [
            *self.first,
            *[self.batch] * (left // self.batch),
            *[left % self.batch] * (left % self.batch > 0),
        ]


def encode(fitted: Fitted, x: Any, batch: int = BATCH, loss: Loss | None = None) -> bytes:
    """A stream of examples x [N, *event], as the model sees them (`Data.test`).

    loss: what may be left out (see `lossy_of`); None: nothing, and examples are of levels

    Raises ValueError for other values, other shapes, and for models that cannot code (see `codec_of`).
    """
    x, batch = np.asarray(x), as_integer(batch, "the batch")
    if batch < 1:
        raise ValueError(f"the networks see at least one example at once, got a batch of {batch}")
    if x.shape[1:] != fitted.spec.event_shape or not len(x):
        raise ValueError(
            f"this model is of examples [N, {', '.join(map(str, fitted.spec.event_shape))}], got shape {x.shape}"
        )
    with jax.default_device(jax.devices("cpu")[0]):
        if loss is None:
            codec = codec_of(fitted, batch)
            _check(fitted, x)
            stack, first = _pushed(codec, x, batch)
        else:
            lossy = lossy_of(fitted, loss, batch)
            _check(fitted, x)
            shape, x, stack, first = x.shape, lossy.codes(x), Stack(), []
            lossy.codec.push(stack, x)
    header = Header(
        _model_digest(fitted),
        _data_digest(x),
        x.shape if loss is None else shape,
        fitted.spec.protocol_hash,
        batch,
        tuple(first),
        _program(),
        loss,
    )
    head = json.dumps(dataclasses.asdict(header)).encode()
    body = MAGIC + len(head).to_bytes(4, "little") + head + stack.words().astype("<u4").tobytes()
    return body + hashlib.sha256(body).digest()


def _check(fitted, x):
    density: Any = fitted.model.density
    check_points(density.space, x, "x")


def _pushed(codec, x, batch):
    """The stack of all examples, and how many were coded together at first."""
    stack, first, left = Stack(_beginning(codec), seal=True), [], len(x)
    with Progress("encoding", len(x), "example") as bar:
        while left:  # from the last to the first, which so comes out first
            possible = stack.bits // codec.takes if codec.takes else batch
            n = min(batch, left, max(1, possible))
            codec.push(stack, x[left - n : left])
            first += [n] * (n < batch and n < left)
            left -= n
            bar.advance(n)
    return stack, first


def read_header(stream: bytes) -> Header:
    """What a stream says of itself; raises ValueError where it is no stream, or not the one that was written."""
    return _opened(stream)[0]


def payload_bits(fitted: Fitted, stream: bytes) -> int:
    """The length of the code alone: without header and checksum, and without the bits that it began with and that come back."""
    header, words = _opened(stream)
    return 32 * (len(words) - (0 if header.loss else len(_beginning(codec_of(fitted, header.batch)))))


def decode(fitted: Fitted, stream: bytes, seed: int | None = None) -> np.ndarray:
    """The examples [N, *event] of a stream: exactly those that were encoded, or, of one with loss, means, as real numbers.

    seed: of draws of the layers of a hierarchical VAE that were left out; None: the means of their priors

    Raises ValueError for a stream that is damaged, of another model, or that this program does not decode to what was encoded.
    """
    header, words = _opened(stream)
    if header.model != _model_digest(fitted):
        raise ValueError(
            f"this stream is of the model {header.model[:12]}, the one given is {_model_digest(fitted)[:12]}; "
            "give the folder of the run that it was made with"
        )
    with jax.default_device(jax.devices("cpu")[0]):
        stack = Stack(words)
        if header.loss:
            lossy = lossy_of(fitted, header.loss, header.batch)
            codes = lossy.codec.pop(stack, header.shape[0])
            _check_decoded(header, codes, stack)
            return lossy.examples(codes, seed)
        codec, found = codec_of(fitted, header.batch), []
        with Progress("decoding", header.shape[0], "example") as bar:
            for n in reversed(header.sizes()):
                found.append(codec.pop(stack, n))
                bar.advance(n)
        x = np.concatenate(found)
        _check_decoded(header, x, stack, _beginning(codec))
    return x


def _check_decoded(header, x, stack, beginning=None):
    """Raise ValueError unless all is as it was encoded, and the stack as it was at the beginning."""
    left: Any = None
    with contextlib.suppress(ValueError):  # where the bits that the stream began with do not come back
        left = stack.words(unseal=beginning is not None)
    if _data_digest(x) != header.data or not np.array_equal(left, [] if beginning is None else beginning):
        raise ValueError(
            f"this stream decodes to other examples than were encoded: networks compute other numbers here ({_program()}) than "
            f"where it was made ({header.program}); decode it there"
        )


def _opened(stream):
    """Header and words, once the checksum is right."""
    body, end = stream[:-HASH], stream[-HASH:]
    if not stream.startswith(MAGIC):
        raise ValueError(
            "this is no stream of dlvm_jax, or its beginning is damaged; give a file that `encode` wrote"
        )
    if hashlib.sha256(body).digest() != end:
        raise ValueError("this stream is damaged or cut short: its checksum is another; get it again")
    start = len(MAGIC) + 4
    stop = start + int.from_bytes(body[start - 4 : start], "little")
    fields = json.loads(body[start:stop])
    fields |= {name: tuple(fields[name]) for name in ("shape", "first")}
    header = Header(**{**fields, "loss": fields.get("loss") and Loss(**fields["loss"])})
    return header, np.frombuffer(body[stop:], "<u4")


def _beginning(codec: Codec) -> np.ndarray:
    """The words that a stack begins with: enough for the first example, and known to both sides."""
    return np.random.RandomState(0).randint(0, 2**32, codec.takes // 32 + 1, np.uint32)


def _model_digest(fitted):
    recipe = json.dumps(fitted.recipe.as_json(), sort_keys=True)
    return hashlib.sha256(f"{recipe} {digest((fitted.params, dict(fitted.constants)))}".encode()).hexdigest()


def _data_digest(x):
    return hashlib.sha256(np.asarray(x).astype("<u2").tobytes()).hexdigest()


def _program():
    return f"jax {jax.__version__}, {jax.devices('cpu')[0].device_kind}"

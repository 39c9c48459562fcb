"""Decompression does not depend on how a body is split, and is bounded."""

import gzip
import itertools
import random
import tracemalloc
import zlib

import pytest
from parley_server.errors import ProviderMalformed
from parley_server.providers.http.encoding import MAX_PIECE_BYTES, Inflater, decoded

BODY = b"".join(b"data: %d\n\n" % number for number in range(50_000))


def raw_deflate(body):
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeezer.compress(body) + squeezer.flush()


FORMS = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip of two members": ("x-gzip", gzip.compress(BODY[:1000]) + gzip.compress(BODY[1000:])),
    "deflate": ("Deflate ", zlib.compress(BODY)),
    "raw deflate": ("deflate", raw_deflate(BODY)),
    "identity": ("identity", BODY),
    "none": ("", BODY),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cuts", [0, 1, 20, None])
def test_decompression_does_not_depend_on_how_the_body_is_split(form, cuts):
    encoding, body = FORMS[form]
    taken = []
    feed = decoded(encoding, taken.append, provider="acme")
    dice = random.Random(form)
    places = range(len(body)) if cuts is None and len(body) < 200_000 else dice.sample(range(len(body)), cuts or 0)
    places = sorted({0, len(body), *places})
    for start, end in itertools.pairwise(places):
        feed(body[start:end])
    assert b"".join(taken) == BODY


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "compress"])
def test_an_unknown_encoding_is_malformed(encoding):
    with pytest.raises(ProviderMalformed, match="acme"):
        decoded(encoding, lambda _: None, provider="acme")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_invalid_compressed_data_is_malformed(encoding):
    with pytest.raises(ProviderMalformed, match="acme"):
        decoded(encoding, lambda _: None, provider="acme")(b"data: not compressed at all\n\n" * 10)


def test_a_decompression_bomb_is_refused_before_it_fills_memory():
    bomb = gzip.compress(bytes(80 * 1024 * 1024), compresslevel=1)
    sizes = []
    tracemalloc.start()
    with pytest.raises(ProviderMalformed):
        sizes.extend(len(piece) for piece in Inflater(deflate=False).pieces(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(sizes, default=0) <= MAX_PIECE_BYTES
    assert peak < 16 * 1024 * 1024

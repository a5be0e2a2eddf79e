"""Seeded mutations of valid inputs: the same seed and number give the same bytes, on every machine."""

from random import Random

INTERESTING = (0, 1, 2, 7, 8, 16, 31, 32, 64, 100, 127, 128, 255, 256, 1000, 1024, 4096, 32767, 32768, 65535, 65536,
               (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
TOKENS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x1b[2J", b"\r", b"\n", b"\n\n", b'"', b"'", b"\\", b"{", b"}", b"[", b"]",
    b"(", b")", b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"-0.0", b"0x10", b"9" * 400,
    b"&a ", b"*a", b"!!python/object:os.system", b"<<: ", b"- ", b"? ", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"../", b"%", b"$",
)  # fmt: skip
MOST_BYTES = 1 << 20  # of a mutated input


def mutated(seeds: list[bytes], words: tuple[bytes, ...], random: Random) -> bytes:
    """One of the seeds, changed in one place or some."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 5, 9))):
        at = random.randrange(len(data) + 1)
        random.choice(WAYS)(data, at, random, seeds, words)
    return bytes(data[:MOST_BYTES])


def _flip(data, at, random, _seeds, _words):
    if at < len(data):
        data[at] ^= 1 << random.randrange(8)


def _byte(data, at, random, _seeds, _words):
    if at < len(data):
        data[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _cut(data, at, random, _seeds, _words):
    del data[at : at + _length(random)]


def _end(data, at, _random, _seeds, _words):
    del data[at:]


def _insert(data, at, random, _seeds, _words):
    data[at:at] = random.randbytes(_length(random))


def _repeat(data, at, random, _seeds, _words):
    part = bytes(data[at : at + _length(random)])
    data[at:at] = part * random.choice((1, 2, 10, 100, 2_000 if len(part) <= 64 else 10))


def _splice(data, at, random, seeds, _words):
    other = random.choice(seeds)
    start = random.randrange(len(other) + 1)
    data[at : at + random.choice((0, _length(random)))] = other[start : start + _length(random)]


def _number(data, at, random, _seeds, _words):
    """An interesting number, as bytes of any width in the place of others."""
    width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    value = random.choice(INTERESTING) + random.choice((-1, 0, 0, 1))
    data[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, order)


def _digits(data, at, random, _seeds, _words):
    """An interesting number in the place of the next digits."""
    start = next((k for k in range(at, len(data)) if 48 <= data[k] <= 57), len(data))
    end = next((k for k in range(start, len(data)) if not 48 <= data[k] <= 57), len(data))
    data[start:end] = str(random.choice((-1, 1)) * random.choice(INTERESTING)).encode()


def _token(data, at, random, _seeds, words):
    data[at : at + random.choice((0, 0, 1, 4))] = random.choice(words or TOKENS if random.random() < 0.5 else TOKENS)


def _swap(data, at, random, _seeds, _words):
    size, other = _length(random), random.randrange(len(data) + 1)
    data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]


def _length(random):
    return random.choice((1, 2, 4, 8, random.randrange(1, 33), random.randrange(1, 1025)))


WAYS = (_flip, _flip, _byte, _cut, _end, _insert, _repeat, _splice, _number, _number, _digits, _token, _token, _swap)

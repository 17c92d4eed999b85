"""Signature algorithms in plain Python, slow and open: what they sign can be made wrong at every step.

Everything comes from a random generator with a fixed seed, so that the same vectors are made each time. None
of these keys is a secret.
"""

import base64
import hashlib
import hmac
import random

random_numbers = random.Random("keyward")


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value, size=None):
    """Base64url of a number, in as many bytes as it needs or in `size`."""
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def random_bytes(size):
    return random_numbers.getrandbits(8 * size).to_bytes(size, "big")


def digest(bits, data):
    return hashlib.new(f"sha{bits}", data).digest()


# --- RSA (RFC 8017) ---

SMALL_PRIMES = [n for n in range(2, 2000) if all(n % p for p in range(2, int(n**0.5) + 1))]


def is_prime(n):
    if any(n % p == 0 for p in SMALL_PRIMES):
        return n in SMALL_PRIMES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in SMALL_PRIMES[:12]:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def prime(bits):
    while True:
        # The two highest bits make the product of two as long as both together.
        n = random_numbers.getrandbits(bits) | 3 << (bits - 2) | 3
        if is_prime(n):
            return n


def roca_prime(bits):
    """A prime as Infineon's library made them (CVE-2017-15361): a power of 65537 modulo many small primes."""
    modulus = 1
    for p in SMALL_PRIMES[:126]:
        modulus *= p
    while True:
        power = pow(65537, random_numbers.getrandbits(200), modulus)
        lowest = (3 << (bits - 2)) // modulus + 1
        n = (lowest + random_numbers.randrange(2 ** (bits - 2) // modulus)) * modulus + power
        if n.bit_length() == bits and is_prime(n):
            return n


class Rsa:
    def __init__(self, primes, e=65537):
        self.primes, self.e = primes, e
        self.n = self.phi = 1
        for p in primes:
            self.n, self.phi = self.n * p, self.phi * (p - 1)
        self.bits = self.n.bit_length()
        self.size = (self.bits + 7) // 8

    def jwk(self, **members):
        return {"kty": "RSA", "n": number(self.n), "e": number(self.e), **members}

    def raw(self, encoded):
        """The signature over a message that is encoded already."""
        value, root, product = int.from_bytes(encoded, "big"), 0, 1
        for p in self.primes:
            part = pow(value % p, pow(self.e, -1, p - 1), p)
            root += product * ((part - root) * pow(product, -1, p) % p)
            product *= p
        return root.to_bytes(self.size, "big")

    def square_root(self, encoded):
        """The signature for the exponent 2, if there is one."""
        root, product = 0, 1
        for p in self.primes:
            value = int.from_bytes(encoded, "big") % p
            part = pow(value, (p + 1) // 4, p)
            if part * part % p != value:
                return None
            root += product * ((part - root) * pow(product, -1, p) % p)
            product *= p
        return root.to_bytes(self.size, "big")

    def pkcs1(self, bits, message):
        return self.raw(pkcs1(self.size, digest_info(bits, digest(bits, message))))

    def pss(self, bits, message, **changes):
        return self.raw(pss(self.bits - 1, bits, message, **changes))


OIDS = {1: "2b0e03021a", 256: "608648016503040201", 384: "608648016503040202", 512: "608648016503040203"}


def der(tag, *parts, form="short"):
    """A value in DER; with another form of its length it is BER."""
    content = b"".join(parts)
    length = {"short": bytes([len(content)]), "long": bytes([0x81, len(content)])}
    length["longer"] = bytes([0x82, 0, len(content)])
    return bytes([tag]) + length[form] + content


def digest_info(bits, hashed, null=b"\5\0", forms=("short",) * 4):
    outer, algorithm, oid, octets = forms
    oid = der(6, bytes.fromhex(OIDS[bits]), form=oid)
    return der(48, der(48, oid, null, form=algorithm), der(4, hashed, form=octets), form=outer)


def pkcs1(size, info, start=b"\0\1", fill=b"\xff", end=b"\0"):
    """EMSA-PKCS1-v1_5 (RFC 8017, section 9.2)."""
    return start + fill * (size - len(start) - len(end) - len(info)) + end + info


def mgf1(bits, seed, size):
    blocks = (digest(bits, seed + i.to_bytes(4, "big")) for i in range(size // 20 + 1))
    return b"".join(blocks)[:size]


def pss(em_bits, bits, message, salt=None, mgf=None, trailer=0xBC, separator=1, pad=0, top=0):
    """EMSA-PSS (RFC 8017, section 9.1.1)."""
    em_size, hashed = (em_bits + 7) // 8, digest(bits, message)
    salt = random_bytes(bits // 8 if salt is None else salt)
    h = digest(bits, bytes(8) + hashed + salt)
    db = bytes([pad]) * (em_size - len(salt) - len(h) - 2) + bytes([separator]) + salt
    masked = bytearray(a ^ b for a, b in zip(db, mgf1(mgf or bits, h, len(db))))
    masked[0] &= 0xFF >> (8 * em_size - em_bits)
    masked[0] |= top
    return bytes(masked) + h + bytes([trailer])


# --- ECDSA (FIPS 186-5) on P-256 and P-384 ---


class Curve:
    def __init__(self, name, size, p, b, n, g):
        self.name, self.size, self.p, self.b, self.n, self.g = name, size, p, b, n, g
        assert self.holds(g) and self.times(n, g) is None

    def holds(self, point):
        x, y = point
        return (y * y - x**3 + 3 * x - self.b) % self.p == 0

    def add(self, a, b):
        if a is None or b is None:
            return a or b
        if a[0] == b[0]:
            if (a[1] + b[1]) % self.p == 0:
                return None
            slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, self.p)
        else:
            slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, self.p)
        x = (slope * slope - a[0] - b[0]) % self.p
        return x, (slope * (a[0] - x) - a[1]) % self.p

    def times(self, k, point):
        result = None
        for bit in bin(k)[2:]:
            result = self.add(result, result)
            if bit == "1":
                result = self.add(result, point)
        return result


P256 = Curve(
    "P-256",
    32,
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
P384 = Curve(
    "P-384",
    48,
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    (
        0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
        0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
    ),
)


class Ec:
    def __init__(self, curve):
        self.curve = curve
        self.d = random_numbers.randrange(1, curve.n)
        self.point = curve.times(self.d, curve.g)

    def jwk(self, **members):
        x, y = (number(value, self.curve.size) for value in self.point)
        return {"kty": "EC", "crv": self.curve.name, "x": x, "y": y, **members}

    def signatures(self, message):
        """One after the other, for those who need one of a certain form."""
        n, z = self.curve.n, int.from_bytes(digest(8 * self.curve.size, message), "big")
        k = random_numbers.randrange(1, n // 2)
        point = self.curve.times(k, self.curve.g)
        while True:
            yield point[0] % n, pow(k, -1, n) * (z + point[0] * self.d) % n
            k, point = k + 1, self.curve.add(point, self.curve.g)

    def numbers(self, message):
        return next(self.signatures(message))

    def pack(self, r, s):
        return b"".join(value.to_bytes(self.curve.size, "big") for value in (r, s))

    def sign(self, message):
        return self.pack(*self.numbers(message))


# --- Ed25519 (RFC 8032) ---

Q = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, Q) % Q
NEUTRAL = (0, 1)


def edwards_add(a, b):
    t = D * a[0] * b[0] * a[1] * b[1]
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + t, -1, Q)
    return x % Q, (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, -1, Q) % Q


def edwards_times(k, point):
    result = NEUTRAL
    for bit in bin(k)[2:]:
        result = edwards_add(result, result)
        if bit == "1":
            result = edwards_add(result, point)
    return result


def edwards_pack(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def edwards_x(y, sign):
    square = (y * y - 1) * pow(D * y * y + 1, -1, Q) % Q
    x = pow(square, (Q + 3) // 8, Q)
    if x * x % Q != square:
        x = x * pow(2, (Q - 1) // 4, Q) % Q
    return x if x % 2 == sign else Q - x


BASE = (edwards_x(4 * pow(5, -1, Q) % Q, 0), 4 * pow(5, -1, Q) % Q)


class Ed:
    def __init__(self):
        half = hashlib.sha512(random_bytes(32)).digest()
        self.a = int.from_bytes(half[:32], "little") & (2**254 - 8) | 2**254
        self.prefix = half[32:]
        self.public = edwards_pack(edwards_times(self.a, BASE))

    def jwk(self, **members):
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(self.public), **members}

    def numbers(self, message, domain=b""):
        r = int.from_bytes(hashlib.sha512(domain + self.prefix + message).digest(), "little") % L
        packed = edwards_pack(edwards_times(r, BASE))
        k = int.from_bytes(hashlib.sha512(domain + packed + self.public + message).digest(), "little") % L
        return packed, (r + k * self.a) % L

    def sign(self, message, domain=b""):
        r, s = self.numbers(message, domain)
        return r + s.to_bytes(32, "little")


def mac(bits, key, message):
    return hmac.new(key, message, f"sha{bits}").digest()

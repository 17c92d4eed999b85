"""Keys that must not be used, each with a token that it verifies if somebody does, and signatures of special
values."""

from itertools import product
from math import gcd

import jwe
from algorithms import (
    BASE, D, L, NEUTRAL, P256, Q, Ec, Rsa, b64, der, digest, digest_info, edwards_pack, edwards_times, edwards_x,
    hashlib, number, pkcs1, prime, random_numbers, roca_prime,
)  # fmt: skip
from cases import (
    BOTH, CLAIMS, EC, EC384, EC384_OTHER, EC_OTHER, ED, ED_OTHER, PRIMES, RSA, RSA_OTHER, RUST, SECRET, SECRET_OTHER,
    accept, group, jwk, message_of, oct_jwk, refuse, signed, signer, text, token,
)  # fmt: skip

# --- WrongUse, WrongKeyOps ---

for alg in ("HS256", "RS256", "ES256", "EdDSA"):
    for comment, members in (
        ("use enc", {"use": "enc"}),
        ("use unknown", {"use": "tls"}),
        ("key_ops sign", {"key_ops": ["sign"]}),
        ("key_ops encrypt", {"key_ops": ["encrypt", "wrapKey"]}),
        ("key_ops empty", {"key_ops": []}),
        ("use sig, key_ops encrypt", {"use": "sig", "key_ops": ["encrypt"]}),
        ("use enc, key_ops verify", {"use": "enc", "key_ops": ["verify"]}),
    ):
        group(f"WrongUse, {alg}, {comment}", jwk(alg, **members))
        refuse("signed by the key", token(alg), BOTH)
    for members in ({"use": "sig"}, {"key_ops": ["verify"]}, {"use": "sig", "key_ops": ["sign", "verify"]}):
        group(f"use, {alg}, {members}", jwk(alg, **members))
        accept("signed by the key", token(alg))

# --- MixedKeySet ---

SHARED = oct_jwk(SECRET, alg="HS256", use="sig", kid="shared")
for alg in ("RS256", "ES256", "EdDSA"):
    group(f"MixedKeySet, symmetric and public, {alg}", SHARED, jwk(alg))
    refuse("by the symmetric key", token("HS256", kid="shared"), BOTH)
    refuse("by the symmetric key, for the public one", token("HS256", kid="one"))
    group(f"MixedKeySet, public and symmetric, {alg}", jwk(alg), SHARED)
    refuse("by the symmetric key", token("HS256", kid="shared"), BOTH)
for alg, private, other in (
    ("RS256", RSA.jwk(d=number(3)), RSA_OTHER),
    ("ES256", EC.jwk(d=number(EC.d, 32)), EC_OTHER),
    ("EdDSA", ED.jwk(d=b64(bytes(32))), ED_OTHER),
):
    group(f"MixedKeySet, private and public, {alg}", {**private, "alg": alg, "kid": "one"}, other.jwk(alg=alg, kid="public"))
    refuse("by the private key that everybody sees", token(alg), BOTH)

group("key sets", jwk("RS256", kid="a"), jwk("ES256", kid="b"), jwk("ES384", kid="c"), jwk("EdDSA", kid="d"))
for alg, kid in (("RS256", "a"), ("ES256", "b"), ("ES384", "c"), ("EdDSA", "d")):
    accept(f"{alg} by the key of its kid", token(alg, kid=kid))
    for other in "abcd":
        if other != kid:
            refuse(f"{alg} with the kid of another key, {other}", token(alg, kid=other))
    refuse(f"{alg} with an unknown kid", token(alg, kid="e"))
    refuse(f"{alg} with a kid in another case", token(alg, kid=kid.upper()))
group("key sets, secrets", oct_jwk(SECRET, alg="HS256", kid="a"), oct_jwk(SECRET_OTHER, alg="HS256", kid="b"))
accept("by the first", token("HS256", kid="a"))
accept("by the second", token("HS256", SECRET_OTHER, kid="b"))
refuse("by the first, with the kid of the second", token("HS256", kid="b"))

# --- DuplicateKid ---

for alg, first, second in (
    ("HS256", SECRET, SECRET_OTHER),
    ("RS256", RSA, RSA_OTHER),
    ("ES256", EC, EC_OTHER),
    ("ES384", EC384, EC384_OTHER),
    ("EdDSA", ED, ED_OTHER),
):
    other = oct_jwk(second, alg=alg, kid="one") if alg == "HS256" else second.jwk(alg=alg, kid="one")
    group(f"DuplicateKid, {alg}", jwk(alg), other)
    refuse("by the first", token(alg, first), BOTH)
    refuse("by the second", token(alg, second))
# "Different keys might use the same kid value if they have different kty values" (RFC 7517, section 4.5).
group("the same kid for another kty", jwk("RS256"), jwk("ES256"))
accept("by the first", token("RS256"))
accept("by the second", token("ES256"), BOTH)
group("the same key twice", jwk("ES256"), jwk("ES256"))
accept("by the key", token("ES256"))

# --- HMAC keys ---

for alg, size in (("HS256", 32), ("HS384", 48), ("HS512", 64)):
    for length in (0, 1, 16, size - 1):
        group(f"KeyTooShort, {alg}, {length} bytes", oct_jwk(SECRET[:length], alg=alg, kid="one"))
        refuse("by the key", token(alg, SECRET[:length]), BOTH)
    group(f"long keys, {alg}", oct_jwk(SECRET + SECRET_OTHER, alg=alg, kid="one"))
    accept("by the key", token(alg, SECRET + SECRET_OTHER))
    group(f"keys as long as the hash, {alg}", oct_jwk(SECRET[:size], alg=alg, kid="one"))
    accept("by the key", token(alg, SECRET[:size]))
for alg in ("A128KW", "A256KW", "A256GCM", "A128CBC-HS256", "dir", "PBES2-HS256+A128KW", "RS256", "none"):
    group(f"a symmetric key for {alg}", oct_jwk(SECRET, alg=alg, kid="one"))
    refuse("used for HS256", token("HS256"), BOTH)
group("a public key as a symmetric one", oct_jwk(text(jwk("RS256")), alg="HS256", kid="one"))
refuse("used for HS256", token("HS256", text(jwk("RS256"))), BOTH)

# --- RSA keys ---


def rsa_case(comment, check, key, wrong=(), claims=CLAIMS):
    group(comment, key.jwk(alg="RS256", kid="one"))
    check("by the key", signed(signer("RS256", key), {"alg": "RS256", "kid": "one"}, claims), wrong)


def rsa(name, *sizes, e=65537, make=prime):
    random_numbers.seed(name)
    while True:
        key = Rsa([make(size) for size in sizes], e)
        if gcd(e, key.phi) == 1:
            return key


rsa_case("RSA of 1024 bits", refuse, rsa("1024", 512, 512), (RUST,))
rsa_case("RSA of 2047 bits", refuse, rsa("2047", 1024, 1023), (RUST,))
rsa_case("RSA of 2056 bits", accept, rsa("2056", 1024, 1032))
rsa_case("RSA of 3072 bits", accept, Rsa(PRIMES[:3]))
rsa_case("RSA of 4096 bits", accept, Rsa(PRIMES[:4]))
rsa_case("RSA exponent 3", accept, rsa("3", 1024, 1024, e=3))
rsa_case("RocaVulnerability", refuse, rsa("ROCA", 1024, 1024, make=roca_prime), BOTH)
group("RSA exponent 1", {**RSA.jwk(alg="RS256", kid="one"), "e": number(1)})
unsigned = message_of({"alg": "RS256", "kid": "one"})
refuse("by nobody", f"{unsigned}.{b64(pkcs1(RSA.size, digest_info(256, digest(256, unsigned.encode()))))}")
group("RSA exponent 2", {**RSA.jwk(alg="RS256", kid="one"), "e": number(2)})
for attempt in range(100):
    unsigned = message_of({"alg": "RS256", "kid": "one"}, {**CLAIMS, "jti": str(attempt)})
    if root := RSA.square_root(pkcs1(RSA.size, digest_info(256, digest(256, unsigned.encode())))):
        break
refuse("by the key", f"{unsigned}.{b64(root)}")

# --- ModifiedKey: curves, algorithms, types and points ---


def modified(comment, key, signs, wrong=()):
    group(f"ModifiedKey, {comment}", {**key, "kid": "one"})
    refuse("by the key that it was", token(signs), wrong)


for alg in ("ES224", "ES384", "ES512", "ES521", "ES256K", "RS256", "HS256", "EdDSA", "ECDH-ES"):
    modified(f"{alg} on P-256", EC.jwk(alg=alg), "ES256", BOTH)
for alg in ("ES256", "RS256", "HS512", "Ed448"):
    modified(f"{alg} on P-384", EC384.jwk(alg=alg), "ES384", BOTH)
for alg in ("ES256", "RS256", "HS256", "Ed448"):
    modified(f"{alg} on Ed25519", ED.jwk(alg=alg), "EdDSA", BOTH)
for alg in ("ES256", "HS256", "EdDSA", "RSA-OAEP", "RSA-OAEP-256", "RSA1_5"):
    modified(f"{alg} on RSA", RSA.jwk(alg=alg), "RS256", BOTH)
for members in ({}, {"alg": "ES256"}, {"alg": "ES384"}):
    modified(f"P-256 said to be P-384, {members}", EC.jwk(crv="P-384", **members), "ES256", BOTH)
    modified(f"P-384 said to be P-256, {members}", EC384.jwk(crv="P-256", **members), "ES384", BOTH)
modified("P-256 said to be P-521", EC.jwk(crv="P-521"), "ES256", BOTH)
modified("P-256 said to be Ed25519", EC.jwk(crv="Ed25519"), "ES256", BOTH)
modified("P-256 said to be secp256k1", EC.jwk(crv="secp256k1"), "ES256")
modified("P-256 without a curve", {k: v for k, v in EC.jwk().items() if k != "crv"}, "ES256")
modified("Ed25519 said to be P-256", ED.jwk(crv="P-256"), "EdDSA", BOTH)
modified("Ed25519 said to be X25519", ED.jwk(crv="X25519"), "EdDSA")
modified("Ed25519 said to be Ed448", ED.jwk(crv="Ed448"), "EdDSA")
for kty in ("RSA", "OKP", "oct", "ec", "AKP"):
    modified(f"P-256 of the type {kty}", EC.jwk(kty=kty), "ES256")
for kty in ("EC", "OKP", "oct", "rsa"):
    modified(f"RSA of the type {kty}", RSA.jwk(kty=kty), "RS256")
for kty in ("EC", "RSA", "oct"):
    modified(f"Ed25519 of the type {kty}", ED.jwk(kty=kty), "EdDSA")
X, Y = EC.point
for comment, (x, y) in (
    ("off the curve", (X, Y ^ 16)),
    ("coordinates exchanged", (Y, X)),
    ("zero", (0, 0)),
    ("beyond the field", (P256.p, Y)),
    ("of another key", (X, EC_OTHER.point[1])),
):
    modified(f"point {comment}", EC.jwk(x=number(x, 32), y=number(y, 32)), "ES256")
modified("point with a long x", EC.jwk(x=number(X, 33)), "ES256")
modified("point with a long y", EC.jwk(y=number(Y, 33)), "ES256")
modified("point without y", {k: v for k, v in EC.jwk().items() if k != "y"}, "ES256")
modified("point with padding", EC.jwk(x=number(X, 32) + "="), "ES256")
modified("modulus with padding", RSA.jwk(n=number(RSA.n) + "=="), "RS256")
modified("modulus cut", RSA.jwk(n=number(RSA.n >> 8)), "RS256")
modified("modulus even", RSA.jwk(n=number(RSA.n - 1)), "RS256")
modified("exponent even", RSA.jwk(e=number(65536)), "RS256")
modified("exponent empty", RSA.jwk(e=""), "RS256")
modified("Ed25519 of 31 bytes", ED.jwk(x=b64(ED.public[:31])), "EdDSA")
modified("Ed25519 of 33 bytes", ED.jwk(x=b64(ED.public + b"\0")), "EdDSA", (RUST,))
while (SHORT := Ec(P256)).point[0] >> 248:
    pass
group("a coordinate with a zero in front", SHORT.jwk(alg="ES256", kid="one"))
accept("by the key", token("ES256", SHORT))
group("ModifiedKey, a coordinate without its zero", {**SHORT.jwk(alg="ES256", kid="one"), "x": number(SHORT.point[0])})
refuse("by the key", token("ES256", SHORT))

# --- points of small order: everybody can sign ---


def small_order():
    """A point of order 8."""
    for y in range(2, 100):
        x = edwards_x(y, 0)
        if (x * x * (D * y * y + 1) - y * y + 1) % Q == 0:
            point = edwards_times(L, (x, y))
            if edwards_times(4, point) != NEUTRAL:
                return point
    raise AssertionError("there are such points")


TORSION = [edwards_times(i, small_order()) for i in range(8)]
ENCODED = [(f"of order {8 // gcd(i, 8)}, {i}", edwards_pack(point), BOTH) for i, point in enumerate(TORSION)]
# AWS-LC reads a point only in its one canonical form.
for comment, value in (
    ("neutral, the other sign", 1 | 1 << 255),
    ("of order 2, the other sign", Q - 1 | 1 << 255),
    ("of order 4, not reduced", Q),
    ("of order 4, not reduced, the other sign", Q | 1 << 255),
    ("neutral, not reduced", Q + 1),
    ("neutral, not reduced, the other sign", Q + 1 | 1 << 255),
):
    ENCODED.append((comment, value.to_bytes(32, "little"), (RUST,)))
for comment, public, wrong in ENCODED:
    group(f"a point {comment}", {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "one", "x": b64(public)})
    s = random_numbers.randrange(L)
    r = edwards_pack(edwards_times(s, BASE))
    for attempt in range(200):
        unsigned = message_of({"alg": "EdDSA", "kid": "one"}, {**CLAIMS, "jti": str(attempt)})
        k = int.from_bytes(hashlib.sha512(r + public + unsigned.encode()).digest(), "little")
        if k % L % 8 == 0:
            break
    refuse("signed by nobody", f"{unsigned}.{b64(r + s.to_bytes(32, 'little'))}", wrong)

# --- SpecialCaseEs256, and the others ---


def in_bytes(value, size=None):
    return value.to_bytes(size or (value.bit_length() + 7) // 8, "big")


def der_number(value):
    return der(2, in_bytes(value, value.bit_length() // 8 + 1))


for alg, key in (("ES256", EC), ("ES384", EC384)):
    size, n = key.curve.size, key.curve.n
    group(f"SpecialCase, {alg}", jwk(alg))
    unsigned = message_of({"alg": alg, "kid": "one"})
    values = (("0", 0), ("1", 1), ("n-1", n - 1), ("n", n), ("n+1", n + 1))
    for (left, r), (right, s) in product(values, values):
        refuse(f"X05 r = {left}, s = {right}", f"{unsigned}.{b64(key.pack(r, s))}")
    refuse("X05 r = p", f"{unsigned}.{b64(key.pack(key.curve.p, 1))}")
    r, s = key.numbers(unsigned.encode())
    accept("as it should be", f"{unsigned}.{b64(key.pack(r, s))}")
    accept("the negative s", f"{unsigned}.{b64(key.pack(r, n - s))}")
    for comment, changed in (
        ("r and s exchanged", key.pack(s, r)),
        ("the negative r", key.pack(n - r, s)),
        ("r negative and s too", key.pack(n - r, n - s)),
        ("r less 1", key.pack(r - 1, s)),
        ("s plus 1", key.pack(r, s + 1)),
        ("s of 0", key.pack(r, 0)),
        ("s of n", key.pack(r, n)),
        ("in DER", der(48, der_number(r), der_number(s))),
        ("a zero before each", in_bytes(r, size + 1) + in_bytes(s, size + 1)),
        ("as long as for the other curve", (key.pack(r, s) + bytes(32))[: 160 - 2 * size]),
    ):
        refuse(comment, f"{unsigned}.{b64(changed)}")
    for comment, is_special in (
        ("a zero in front of r", lambda r, s: not r >> 8 * (size - 1)),
        ("a zero in front of s", lambda r, s: not s >> 8 * (size - 1)),
    ):
        pair = next(pair for pair in key.signatures(unsigned.encode()) if is_special(*pair))
        accept(comment, f"{unsigned}.{b64(key.pack(*pair))}")
        refuse(f"{comment}, left out", f"{unsigned}.{b64(b''.join(in_bytes(value) for value in pair))}")

group("SpecialCase, EdDSA", jwk("EdDSA"))
unsigned = message_of({"alg": "EdDSA", "kid": "one"})
r, s = ED.numbers(unsigned.encode())
for comment, changed in (
    ("S plus the order", r + (s + L).to_bytes(32, "little")),
    ("S plus twice the order", r + (s + 2 * L).to_bytes(32, "little")),
    ("S with its highest bit", r + (s | 1 << 255).to_bytes(32, "little")),
    ("S of 0", r + bytes(32)),
    ("S of the order", r + L.to_bytes(32, "little")),
    ("the negative S", r + (L - s).to_bytes(32, "little")),
    ("R with the other sign", r[:31] + bytes([r[31] ^ 128]) + s.to_bytes(32, "little")),
    ("R of 0", bytes(32) + s.to_bytes(32, "little")),
    ("R neutral, S of 0", b"\1" + bytes(63)),
    ("R of 0 and S of 0", bytes(64)),
    ("R not reduced", (Q + 1).to_bytes(32, "little") + bytes(32)),
    ("S before R", s.to_bytes(32, "little") + r),
    ("in big endian", r[::-1] + s.to_bytes(32, "big")),
    ("with a context", ED.sign(unsigned.encode(), b"SigEd25519 no Ed25519 collisions\0\3foo")),
    ("as for Ed25519ph", ED.sign(hashlib.sha512(unsigned.encode()).digest(), b"SigEd25519 no Ed25519 collisions\1\0")),
):
    refuse(comment, f"{unsigned}.{b64(changed)}")

# --- encrypted tokens ---

for alg in ("RS256", "HS256", "ES256"):
    group(f"Encrypted, {alg}", jwk(alg))
    for comment, encrypted in jwe.TOKENS:
        refuse(comment, encrypted)
    good = token(alg)
    refuse("five parts around a good token", f"{b64(text({'alg': 'dir', 'enc': 'A256GCM'}))}.{good}.{b64(bytes(16))}")
    refuse("five parts after a good token", f"{good}.{b64(bytes(12))}.{b64(bytes(16))}")
    for member in ({"enc": "A256GCM"}, {"zip": "DEF"}, {"p2c": 1000, "p2s": "AAAA"}, {"epk": EC.jwk()}):
        refuse(f"a signed token with {' and '.join(member)}", token(alg, **member), BOTH)
    nested = f"{b64(text({'alg': alg, 'kid': 'one', 'cty': 'JWT'}))}.{b64(good.encode())}"
    refuse("a signed token in a signed token", f"{nested}.{b64(signer(alg)(nested.encode()))}")

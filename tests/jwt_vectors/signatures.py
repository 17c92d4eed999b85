"""Good keys, and tokens that are signed as they must not be."""

from algorithms import b64, der, digest, digest_info, number, pkcs1, pss, random_bytes
from cases import (
    ALGORITHMS, BOTH, CLAIMS, EC, EC384, EC384_OTHER, EC_OTHER, ED, OTHERS, RSA, accept, group, jwk, message_of,
    refuse, signed, signer, split, text, token,
)  # fmt: skip

# --- ModifiedSignature, and what is valid ---

for alg in ALGORITHMS:
    group(f"ModifiedSignature, {alg}", jwk(alg))
    good = token(alg)
    message, signature = split(good)
    accept("as it should be", good)
    accept("without a kid", signed(signer(alg), {"alg": alg}))
    for comment, at in (("first", 0), ("middle", len(signature) // 2), ("last", len(signature) - 1)):
        changed = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        refuse(f"the {comment} byte changed", f"{message}.{b64(changed)}")
    for comment, changed in (
        ("the last byte missing", signature[:-1]),
        ("the first byte missing", signature[1:]),
        ("a zero after it", signature + b"\0"),
        ("a zero before it", b"\0" + signature),
        ("all zero", bytes(len(signature))),
        ("all ones", b"\xff" * len(signature)),
        ("twice", signature + signature),
        ("empty", b""),
    ):
        refuse(comment, f"{message}.{b64(changed)}")
    refuse("missing", message)
    other_claims = message_of({"alg": alg, "kid": "one"}, {**CLAIMS, "sub": "bob"})
    refuse("of other claims", f"{other_claims}.{b64(signature)}")
    other = OTHERS.get(alg[:2]) or (EC_OTHER if alg == "ES256" else EC384_OTHER)
    refuse("of another key", token(alg, other))

# --- ModifiedPadding ---


def padded(bits, encoded):
    """A token whose signature is over what `encoded` makes of the hash."""
    return signed(lambda message: RSA.raw(encoded(message)), {"alg": f"RS{bits}", "kid": "one"})


def info_changes(bits):
    for comment, changes in (
        ("no parameters", {"null": b""}),
        ("parameters that are no NULL", {"null": b"\4\0"}),
        ("parameters twice", {"null": b"\5\0\5\0"}),
        ("a long NULL", {"null": b"\5\x81\0"}),
        ("a NULL with content", {"null": b"\5\1\0"}),
        ("a long length of all", {"forms": ("long", "short", "short", "short")}),
        ("a long length of the algorithm", {"forms": ("short", "long", "short", "short")}),
        ("a long length of the OID", {"forms": ("short", "short", "long", "short")}),
        ("a long length of the hash", {"forms": ("short", "short", "short", "long")}),
        ("long lengths everywhere", {"forms": ("long",) * 4}),
        ("longer lengths everywhere", {"forms": ("longer",) * 4}),
    ):
        yield comment, lambda h, changes=changes: digest_info(bits, h, **changes)
    other = 384 if bits == 256 else 256
    yield "the OID of another hash", lambda h: digest_info(other, h)
    yield "the OID of SHA-1", lambda h: digest_info(1, h)
    yield "the hash alone", lambda h: h
    yield "the hash as octets alone", lambda h: der(4, h)
    yield "the hash cut", lambda h: digest_info(bits, h[:-1])
    yield "the hash longer", lambda h: digest_info(bits, h + b"\0")
    yield "no hash", lambda h: digest_info(bits, b"")
    yield "a byte after it", lambda h: digest_info(bits, h) + b"\0"
    yield "garbage after it", lambda h: digest_info(bits, h) + random_bytes(40)
    yield "an element after the hash", lambda h: der(48, digest_info(bits, h)[2:], b"\5\0")
    yield "another tag", lambda h: b"\x31" + digest_info(bits, h)[1:]
    yield "another first bit of the hash", lambda h: digest_info(bits, bytes([h[0] ^ 128]) + h[1:])


def padding_changes(bits):
    def info(message):
        return digest_info(bits, digest(bits, message))

    for comment, changes in (
        ("no zero first", {"start": b"\1\1"}),
        ("block type 0", {"start": b"\0\0", "fill": b"\0"}),
        ("block type 2", {"start": b"\0\2"}),
        ("filled with 0x01", {"fill": b"\1"}),
        ("no zero before the hash", {"end": b"\xff"}),
        ("two zeros before the hash", {"end": b"\0\0"}),
        ("another byte in the fill", {"start": b"\0\1\xfe"}),
        ("a zero in the fill", {"start": b"\0\1\xff\xff\0"}),
        ("another last byte of the fill", {"end": b"\xfe\0"}),
    ):
        yield comment, lambda message, changes=changes: pkcs1(RSA.size, info(message), **changes)

    def early(message):
        start = b"\0\1" + b"\xff" * 8 + b"\0" + info(message)
        return start + random_bytes(RSA.size - len(start))

    yield "a short fill, and garbage at the end", early
    yield "as one byte shorter", lambda message: b"\0" + pkcs1(RSA.size - 1, info(message))
    yield "of zeros", lambda message: bytes(RSA.size)
    yield "encoded as for PSS", lambda message: pss(RSA.bits - 1, bits, message)


for bits in (256, 384, 512):
    group(f"ModifiedPadding, RS{bits}", jwk(f"RS{bits}"))
    # The hash is the only difference, so a few of each kind are enough for the others.
    some = slice(None) if bits == 256 else slice(None, None, 6)
    for comment, make in list(info_changes(bits))[some]:
        refuse(comment, padded(bits, lambda message: pkcs1(RSA.size, make(digest(bits, message)))))
    for comment, make in list(padding_changes(bits))[some]:
        refuse(comment, padded(bits, make))
    message, signature = split(token(f"RS{bits}"))
    value = int.from_bytes(signature, "big")
    for comment, changed in (
        ("the number 0", 0),
        ("the number 1", 1),
        ("the modulus less 1", RSA.n - 1),
        ("the modulus", RSA.n),
        ("the negative", RSA.n - value),
        ("the modulus more", RSA.n + value if (RSA.n + value).bit_length() <= 2048 else RSA.n + 1),
    ):
        refuse(comment, f"{message}.{number(changed, RSA.size)}")

for bits in (256, 384, 512):
    alg, other = f"PS{bits}", 384 if bits == 256 else 256
    group(f"ModifiedPadding, {alg}", jwk(alg))
    pss_changes = (
        ("no salt", {"salt": 0}),
        ("a salt of 20 bytes", {"salt": 20}),
        ("a salt too short by 1", {"salt": bits // 8 - 1}),
        ("a salt too long by 1", {"salt": bits // 8 + 1}),
        ("the longest salt", {"salt": 254 - bits // 8}),
        ("MGF1 of another hash", {"mgf": other}),
        ("MGF1 of SHA-1", {"mgf": 1}),
        ("trailer 0xCC", {"trailer": 0xCC}),
        ("trailer 0", {"trailer": 0}),
        ("separator 0", {"separator": 0}),
        ("separator 2", {"separator": 2}),
        ("a padding of ones", {"pad": 1}),
    )
    for comment, changes in pss_changes if bits == 256 else pss_changes[::4]:
        refuse(comment, signed(lambda message: RSA.pss(bits, message, **changes), {"alg": alg, "kid": "one"}))
    refuse("another hash", signed(signer(f"PS{other}"), {"alg": alg, "kid": "one"}))
    refuse("encoded as for RSASSA-PKCS1-v1_5", signed(signer(f"RS{bits}"), {"alg": alg, "kid": "one"}))
    message, signature = split(token(alg))
    refuse("the number 0", f"{message}.{b64(bytes(RSA.size))}")
    refuse("the modulus", f"{message}.{number(RSA.n, RSA.size)}")

# --- WrongPrimitive ---

for alg, others in (
    ("PS512", ("PS256", "PS384", "RS256", "RS384", "RS512")),
    ("RS256", ("RS384", "RS512", "PS256", "PS384", "PS512")),
    ("HS256", ("HS384", "HS512")),
    ("HS512", ("HS256", "HS384")),
):
    group(f"WrongPrimitive, {alg}", jwk(alg))
    for other in others:
        refuse(f"signed by {other}, which the header says", token(other), BOTH)
        refuse(f"signed by {other}, the header says {alg}", token(other, alg=alg))
        refuse(f"signed by {alg}, the header says {other}", token(alg, alg=other))

for alg, public in (
    ("RS256", (RSA.n.to_bytes(256, "big"), number(RSA.n).encode())),
    ("ES256", (b"\4" + EC.pack(*EC.point), EC.pack(*EC.point))),
    ("ES384", (b"\4" + EC384.pack(*EC384.point), EC384.pack(*EC384.point))),
    ("EdDSA", (ED.public, b64(ED.public).encode())),
):
    group(f"WrongPrimitive, {alg}", jwk(alg))
    for bits in (256, 384, 512):
        for form, secret in zip(("in bytes", "as it is written"), public):
            refuse(f"HS{bits} with the public key {form}", token(f"HS{bits}", secret))
        refuse(f"HS{bits} with the whole JWK", token(f"HS{bits}", text(jwk(alg))))
        refuse(f"HS{bits} with an empty secret", token(f"HS{bits}", b""))
    for other in ("RS256", "PS256", "ES256", "ES384", "EdDSA"):
        if other != alg:
            refuse(f"{other} in the header", token(alg, alg=other))

# --- AlgIsNone ---

for alg in ("HS256", "RS256", "ES256", "EdDSA"):
    group(f"AlgIsNone, {alg}", jwk(alg))
    for none in ("none", "None", "NONE", "nOnE", ""):
        message = message_of({"alg": none, "kid": "one"})
        refuse(f"“{none}”, no signature", f"{message}.")
        refuse(f"“{none}”, a good signature", token(alg, alg=none))
    refuse("no alg", signed(signer(alg), {"kid": "one"}))
    refuse("null", token(alg, alg=None))
for alg in ("RS256", "ES256", "EdDSA"):
    group(f"AlgIsNone, a key for none, {alg}", jwk(alg, alg="none"))
    refuse("signed by the key", token(alg), BOTH)
    refuse("unsigned", f"{message_of({'alg': 'none', 'kid': 'one'})}.")

# --- JsonSerialization ---

for alg in ("HS256", "ES256"):
    group(f"JsonSerialization, {alg}", jwk(alg))
    header, payload, signature = token(alg).split(".")
    one = {"protected": header, "signature": signature}
    other = {"protected": header, "signature": b64(bytes(32))}
    for comment, value in (
        ("flattened", {"payload": payload, **one}),
        ("general, one signature", {"payload": payload, "signatures": [one]}),
        ("general, two signatures", {"payload": payload, "signatures": [one, other]}),
        ("general, the second is good", {"payload": payload, "signatures": [other, one]}),
        ("flattened, and a compact one in it", {"payload": payload, **one, "x": f".{payload}.{signature}"}),
    ):
        refuse(comment, text(value).decode())
    refuse("a flattened header", f"{text({'protected': header}).decode()}.{payload}.{signature}")
    refuse("the flattened form as the header", f"{b64(text({'payload': payload, **one}))}.{payload}.{signature}")

# --- base64 ---

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def with_unused_bits(part):
    """The same bytes, written with an unused bit set."""
    assert len(part) % 4, "every bit is used"
    return part[:-1] + ALPHABET[ALPHABET.index(part[-1]) | 1]


for alg in ("HS256", "ES256", "RS256", "EdDSA"):
    group(f"base64, {alg}", jwk(alg))
    # Of lengths that leave bits unused.
    header, claims = text({"alg": alg, "kid": "one"}), {**CLAIMS, "jti": "1"}
    header += b" " * (len(header) % 3 == 0)
    while len(text(claims)) % 3 == 0:
        claims["jti"] += "1"
    h, p = b64(header), b64(text(claims))

    def resigned(h, p):
        return f"{h}.{p}.{b64(signer(alg)(f'{h}.{p}'.encode()))}"

    good = resigned(h, p)
    s = good.split(".")[2]
    accept("as it should be", good)
    pad_h, pad_p, pad_s = ("=" * (-len(part) % 4) for part in (h, p, s))
    for comment, changed in (
        ("padding of the header", resigned(h + pad_h, p)),
        ("padding of the claims", resigned(h, p + pad_p)),
        ("padding of the signature", good + pad_s),
        ("unused bits of the header", resigned(with_unused_bits(h), p)),
        ("unused bits of the claims", resigned(h, with_unused_bits(p))),
        ("unused bits of the signature", f"{h}.{p}.{with_unused_bits(s)}"),
        ("the standard alphabet", f"{h}.{p}.+{s[1:]}"),
        ("a slash", f"{h}.{p}./{s[1:]}"),
        ("a question mark in it", f"{h}.{p}.{s[:5]}?{s[5:]}"),
        ("a space in it", f"{h}.{p}.{s[:5]} {s[5:]}"),
        ("a line end in it", f"{h}.{p}.{s[:5]}\n{s[5:]}"),
        ("a line end after it", f"{good}\n"),
        ("a question mark in the claims", resigned(h, f"{p[:5]}?{p[5:]}")),
        ("a line end in the header", resigned(f"{h[:5]}\n{h[5:]}", p)),
        ("one character too many", f"{good}{'A' * (1 + (-len(s) % 4))}"),
        ("a dot after it", f"{good}."),
        ("a dot before it", f".{good}"),
        ("a part more", f"{good}.{s}"),
    ):
        refuse(comment, changed)

"""The keys of the vectors, and how a case is written down."""

import base64
import json

from algorithms import P256, P384, Ec, Ed, Rsa, b64, mac, prime, random_bytes, random_numbers

CLAIMS = {"iss": "https://login.example", "aud": "https://api.example", "sub": "alice", "exp": 4102444800}
BOTH = AWS, RUST = "aws_lc_rs", "rust_crypto"
ALGORITHMS = "HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA".split()

groups = []


def seeded(name, make):
    """What is made depends on the name alone, not on what was made before."""
    random_numbers.seed(name)
    return make()


def group(name, *keys):
    random_numbers.seed(name)
    groups.append({"class": name, "jwks": {"keys": list(keys)}, "tests": []})


def case(comment, token, result, wrong):
    other = "invalid" if result == "valid" else "valid"
    plain = {backend: other if backend in wrong else result for backend in BOTH}
    plain = plain if plain[AWS] != plain[RUST] else plain[AWS]
    groups[-1]["tests"].append({"comment": comment, "result": result, "plain": plain, "token": token})


def accept(comment, token, wrong=()):
    case(comment, token, "valid", wrong)


def refuse(comment, token, wrong=()):
    case(comment, token, "invalid", wrong)


def text(value):
    return json.dumps(value, separators=(",", ":")).encode()


def message_of(header, claims=CLAIMS):
    return f"{b64(text(header))}.{b64(text(claims))}"


def signed(sign, header, claims=CLAIMS):
    message = message_of(header, claims)
    return f"{message}.{b64(sign(message.encode()))}"


def split(token):
    """The signed text and the bytes of the signature."""
    message, signature = token.rsplit(".", 1)
    return message, base64.urlsafe_b64decode(signature + "==")


# --- keys ---

PRIMES = seeded("primes", lambda: [prime(1024) for _ in range(4)])
RSA, RSA_OTHER = Rsa(PRIMES[:2]), Rsa(PRIMES[2:4])
EC, EC_OTHER = seeded("P-256", lambda: Ec(P256)), seeded("another P-256", lambda: Ec(P256))
EC384, EC384_OTHER = seeded("P-384", lambda: Ec(P384)), seeded("another P-384", lambda: Ec(P384))
ED, ED_OTHER = seeded("Ed25519", Ed), seeded("another Ed25519", Ed)
SECRET = seeded("secret", lambda: random_bytes(64))
SECRET_OTHER = seeded("another secret", lambda: random_bytes(64))


def oct_jwk(secret, **members):
    return {"kty": "oct", "k": b64(secret), **members}


def signer(alg, key=None):
    """Signs by an algorithm, with the key for it or another one."""
    bits = int(alg[2:]) if alg[2:].isdigit() else 0
    return {
        "HS": lambda message: mac(bits, SECRET if key is None else key, message),
        "RS": lambda message: (key or RSA).pkcs1(bits, message),
        "PS": lambda message: (key or RSA).pss(bits, message),
        "ES": lambda message: (key or (EC if bits == 256 else EC384)).sign(message),
        "Ed": lambda message: (key or ED).sign(message),
    }[alg[:2]]


def jwk(alg, /, **members):
    members = {"alg": alg, "kid": "one", **members}
    if alg.startswith("HS"):
        return oct_jwk(SECRET, **members)
    key = {"RS": RSA, "PS": RSA, "ES": EC if alg == "ES256" else EC384, "Ed": ED}[alg[:2]]
    return key.jwk(**members)


def token(by, /, key=None, kid="one", **header):
    """A token that is signed by this algorithm and says so, unless its header is told to say another."""
    return signed(signer(by, key), {"alg": by, "kid": kid, **header})


OTHERS = {"HS": SECRET_OTHER, "RS": RSA_OTHER, "PS": RSA_OTHER, "Ed": ED_OTHER}

"""Prints a fresh key and a token of it for each algorithm, made by PyJWT."""

import base64
import json
import secrets
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ALGORITHMS = "HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA".split()


def private_key(name):
    if name == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if name == "ES384":
        return ec.generate_private_key(ec.SECP384R1())
    if name == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def case(name):
    kid = f"peer-{name}"
    if name.startswith("HS"):
        key = secret = secrets.token_hex(64)
        k = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
        jwk, shown = {"kty": "oct", "k": k}, {"secret": secret}
    else:
        key = private_key(name)
        public = key.public_key()
        jwk = json.loads(get_default_algorithms()[name].to_jwk(public))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        shown = {"pem": public.public_bytes(serialization.Encoding.PEM, form).decode()}
    now = int(time.time())
    claims = {
        "iss": "https://login.example",
        "aud": "https://api.example",
        "sub": "alice",
        "iat": now,
        "exp": now + 600,
        "jti": secrets.token_hex(16),
    }
    token = jwt.encode(claims, key, algorithm=name, headers={"kid": kid})
    return {"alg": name, "jwk": json.dumps({**jwk, "alg": name, "kid": kid}), "token": token, **shown}


print(json.dumps([case(name) for name in ALGORITHMS]))

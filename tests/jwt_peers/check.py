"""Reads {token, secret or jwks} from standard input; prints the subject if PyJWT accepts the token."""

import json
import sys

import jwt

given = json.load(sys.stdin)
if "secret" in given:
    key, algorithm = given["secret"], "HS256"
else:
    kid = jwt.get_unverified_header(given["token"])["kid"]
    key, algorithm = jwt.PyJWKSet.from_json(given["jwks"])[kid].key, "EdDSA"
claims = jwt.decode(
    given["token"],
    key,
    algorithms=[algorithm],
    issuer="https://login.example",
    audience="https://api.example",
    options={"require": ["iss", "aud", "sub", "iat", "exp", "jti"]},
)
print(claims["sub"])

"""Makes vectors.json: tokens and the keys to verify them with, in the classes of Wycheproof's JOSE files.

    python3 tests/jwt_vectors/make.py > tests/jwt_vectors/vectors.json

It needs nothing but Python, and makes the same file each time. Each case says whether the token must be
accepted, and what plain `jsonwebtoken` answers on each of its backends, when it is used as its documentation
shows: the algorithm of the token's header, the key of the token's `kid` by `JwkSet::find` and
`DecodingKey::from_jwk`, issuer and audience set.
"""

import json

import signatures  # noqa: F401
import key_sets  # noqa: F401
from cases import groups



def line(value):
    return json.dumps(value, ensure_ascii=False)


for at, group in enumerate(groups):
    print("[" if at == 0 else ",")
    print(f'{{"class": {line(group["class"])}, "jwks": {line(group["jwks"])}, "tests": [')
    print(",\n".join(line(test) for test in group["tests"]), end="\n]}")
print("\n]")

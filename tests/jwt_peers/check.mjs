// Reads {token, secret or jwks} from standard input; prints the subject if jose accepts the token.

import "./webcrypto.mjs";
import { text } from "node:stream/consumers";
import { createLocalJWKSet, jwtVerify } from "jose";

const given = JSON.parse(await text(process.stdin));
const [key, algorithm] = given.secret
  ? [new TextEncoder().encode(given.secret), "HS256"]
  : [createLocalJWKSet(JSON.parse(given.jwks)), "EdDSA"];
const { payload } = await jwtVerify(given.token, key, {
  algorithms: [algorithm],
  issuer: "https://login.example",
  audience: "https://api.example",
  typ: "at+jwt",
  requiredClaims: ["sub", "iat", "exp", "jti"],
});
console.log(payload.sub);

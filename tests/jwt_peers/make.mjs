// Prints a fresh key and a token of it for each algorithm, made by jose.

import "./webcrypto.mjs";
import { randomBytes } from "node:crypto";
import { SignJWT, base64url, exportJWK, exportSPKI, generateKeyPair } from "jose";

const ALGORITHMS =
  "HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA Ed25519".split(" ");

async function keyOf(alg) {
  if (alg.startsWith("HS")) {
    const secret = randomBytes(64).toString("hex");
    const key = new TextEncoder().encode(secret);
    return { key, jwk: { kty: "oct", k: base64url.encode(key) }, shown: { secret } };
  }
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { key: privateKey, jwk: await exportJWK(publicKey), shown: { pem: await exportSPKI(publicKey) } };
}

async function caseOf(alg) {
  const { key, jwk, shown } = await keyOf(alg);
  const kid = `peer-${alg}`;
  const token = await new SignJWT({})
    .setProtectedHeader({ alg, kid, typ: "JWT" })
    .setIssuer("https://login.example")
    .setAudience("https://api.example")
    .setSubject("alice")
    .setIssuedAt()
    .setExpirationTime("10m")
    .setJti(randomBytes(16).toString("hex"))
    .sign(key);
  return { alg, jwk: JSON.stringify({ ...jwk, alg, kid }), token, ...shown };
}

console.log(JSON.stringify(await Promise.all(ALGORITHMS.map(caseOf))));

// Node 18 has what jose needs, but not where it looks for it.
import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto;

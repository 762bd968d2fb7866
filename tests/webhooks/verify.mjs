// fal's published steps to verify a webhook, with Node's own crypto.
// In: {"headers", "body" (base64), "jwks", "now"} on stdin. Out: true or false.
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const LEEWAY_S = 300;
const DER_ED25519 = Buffer.from("302a300506032b6570032100", "hex"); // what precedes a public key

const { headers, body, jwks, now } = JSON.parse(readFileSync(0, "utf8"));
const timestamp = headers["x-fal-webhook-timestamp"];
const signature = Buffer.from(headers["x-fal-webhook-signature"], "hex");
const digest = createHash("sha256").update(Buffer.from(body, "base64")).digest("hex");
const message = [
  headers["x-fal-webhook-request-id"],
  headers["x-fal-webhook-user-id"],
  timestamp,
  digest,
].join("\n");

function fits(jwk) {
  const der = Buffer.concat([DER_ED25519, Buffer.from(jwk.x, "base64url")]);
  const key = createPublicKey({ key: der, format: "der", type: "spki" });
  return verify(null, Buffer.from(message), key, signature);
}

const isRecent = Math.abs(now - parseInt(timestamp, 10)) <= LEEWAY_S;
console.log(isRecent && jwks.keys.some(fits));

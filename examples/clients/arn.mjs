// Purify and classify images by fetch, in Node 18 and later and in browsers:
//   import { purify, classify } from "./arn.mjs";

const BUSY = [429, 503]; // nothing is wrong with the request: Retry-After says when to come back

/** An answer that is no result: its `status`, its `code` and the service's sentence. */
export class ArnError extends Error {
  constructor(status, code, sentence) {
    super(`${status} ${code}: ${sentence}`);
    Object.assign(this, { status, code });
  }
}

/**
 * POST an image (Blob, File, ArrayBuffer or Uint8Array); the checked answer of fetch.
 * Asks again while the service is busy. Throws an ArnError where it refuses, is still busy after `attempts`, did not
 * purify, or where another checkpoint than `sha256` answered; a TypeError where it cannot be reached.
 */
async function ask(url, image, { key = "", sha256 = "", attempts = 6, signal } = {}) {
  const headers = { "Content-Type": "application/octet-stream", ...(key && { "X-API-Key": key }) };
  for (let attempt = 1; ; attempt++) {
    const answer = await fetch(url, { method: "POST", body: image, headers, signal });
    if (answer.ok) return check(answer, sha256);
    if (!BUSY.includes(answer.status) || attempt === attempts) throw await refusal(answer);
    await answer.arrayBuffer(); // so that its connection can be used again
    const seconds = Number(answer.headers.get("Retry-After") ?? 1) + Math.random(); // not all clients at once
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    signal?.throwIfAborted();
  }
}

function check(answer, sha256) {
  const [done, by] = ["X-ARN-Purified", "X-ARN-Model-SHA256"].map((name) => answer.headers.get(name));
  if (done !== "true") throw new ArnError(answer.status, "not_purified", `X-ARN-Purified is ${done}`);
  if (sha256 && by !== sha256) throw new ArnError(answer.status, "other_checkpoint", `X-ARN-Model-SHA256 is ${by}`);
  return answer;
}

/** What a refusal says: {"error": sentence, "code": slug}, unless a proxy answered. */
async function refusal(answer) {
  const said = await answer.json().catch(() => ({}));
  return new ArnError(answer.status, said.code ?? "unknown", said.error ?? answer.statusText);
}

/** The purified image: `png` (a Blob), `model`, `sha256`, and `linf`, the largest change on [0, 1]. */
export async function purify(base, image, options) {
  const answer = await ask(`${base}/purify`, image, options);
  const header = (name) => answer.headers.get(`X-ARN-${name}`);
  const [model, sha256, linf] = [header("Model"), header("Model-SHA256"), Number(header("Residual-Linf"))];
  return { png: await answer.blob(), model, sha256, linf };
}

/** The embedded classifier's answer for the purified image: `label`, `class_name`, `probabilities`, ... */
export async function classify(base, image, options) {
  return (await ask(`${base}/classify`, image, options)).json();
}

/** `work(item)` for every item, no more than `inFlight` at a time; the results in order. */
export async function bounded(items, work, inFlight = 8) {
  const results = [];
  const entries = items.entries(); // one iterator that the workers share
  const worker = async () => {
    for (const [index, item] of entries) results[index] = await work(item);
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  return results;
}

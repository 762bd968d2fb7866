// fal's protocol, as any client speaks it: runs, streams, the queue, uploads.

import { APP } from "./tasks.js";

const DATA_URI_BYTES = 1_500_000; // a larger picture is uploaded once, and asked about by its URL
const UPLOAD_AGE_MS = 30 * 60_000; // the service keeps files for an hour unless set otherwise
const QUEUED = /^florence_queue_requests\{[^}]*state="queued"[^}]*\} (\S+)/m;

/** Why a call got no answer. `status` is 0 where the service could not be reached. */
export class CallError extends Error {
  constructor(status, body = {}, headers = new Headers()) {
    const faults = Array.isArray(body?.detail) ? body.detail : [];
    super(faults.map((fault) => fault.msg).join(" ") || String(body?.detail ?? ""));
    this.status = status;
    this.faults = faults;
    this.hint = body?.hint ?? "";
    this.type = body?.error_type ?? faults[0]?.type ?? "";
    this.requestId = headers.get("x-fal-request-id") ?? "";
    this.retryAfterS = Number(headers.get("retry-after")) || 0;
  }
}

export class Client {
  /** `base` is the service's address with a slash at its end; `key()` gives the key. */
  constructor(base, key) {
    this.base = base;
    this.key = key;
    this.uploads = new WeakMap();
  }

  /** What is served: the model, and the note of a demo. */
  async index() {
    return (await this.call("GET", "")).json();
  }

  /** How many jobs wait; NaN where the service does not say. */
  async queued() {
    const response = await this.call("GET", "metrics");
    return Number(QUEUED.exec(await response.text())?.[1] ?? NaN);
  }

  async alive() {
    return (await this.call("GET", "health")).ok;
  }

  /** The answer of `task` to `input`. */
  async run(task, input, signal) {
    const response = await this.call("POST", `${APP}/${task}`, { body: input, signal });
    return { output: await response.json(), ...about(response) };
  }

  /** The same; `onPartial` is called with the output so far each time it has grown. */
  async stream(task, input, signal, onPartial) {
    const response = await this.call("POST", `${APP}/${task}/stream`, { body: input, signal });
    let output = null;
    for await (const event of events(response)) {
      if (event.name === "error") throw new CallError(500, event.data);
      output = event.data;
      onPartial(output);
    }
    return { output, ...about(response) };
  }

  /** Queue a job; its id. */
  async submit(task, input, webhook, signal) {
    const query = webhook ? `?fal_webhook=${encodeURIComponent(webhook)}` : "";
    const response = await this.call("POST", `queue/${APP}/${task}${query}`, { body: input, signal });
    return response.json();
  }

  /** Each status of a job as it changes, to the last. */
  async *statuses(id, signal) {
    const response = await this.call("GET", `queue/${APP}/requests/${id}/status/stream?logs=1`, { signal });
    for await (const event of events(response)) yield event.data;
  }

  async result(id, signal) {
    const response = await this.call("GET", `queue/${APP}/requests/${id}`, { signal });
    return { output: await response.json(), ...about(response) };
  }

  async cancel(id) {
    await this.call("PUT", `queue/${APP}/requests/${id}/cancel`);
  }

  /** What `image_url` is for `picture`: its own URL, its bytes, or the URL of an upload. */
  async imageUrl(picture, signal) {
    if (picture.url) return picture.url;
    if (picture.blob.size <= DATA_URI_BYTES) return dataUri(picture.blob);
    const known = this.uploads.get(picture.blob);
    if (known && Date.now() - known.at < UPLOAD_AGE_MS) return known.url;
    const url = await this.upload(picture, signal);
    this.uploads.set(picture.blob, { url, at: Date.now() });
    return url;
  }

  async upload({ blob, name }, signal) {
    const body = { file_name: name, content_type: blob.type || "application/octet-stream" };
    const started = await (await this.call("POST", "rest/storage/upload/initiate", { body, signal })).json();
    // The URL may name the service as others see it; the page stays with the address it came from.
    const path = started.upload_url.slice(started.upload_url.indexOf("/cdn/upload/") + 1);
    await this.call("PUT", path, { raw: blob, signal, withKey: false });
    return started.file_url;
  }

  /** @throws {CallError} where the service does not answer well. */
  async call(method, path, { body, raw, signal, withKey = true } = {}) {
    const headers = { Accept: "application/json, text/event-stream, text/plain" };
    if (withKey && this.key()) headers.Authorization = `Key ${this.key()}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(this.base + path, { method, headers, signal, body: raw ?? (body && JSON.stringify(body)) });
    } catch (error) {
      throw error.name === "AbortError" ? error : new CallError(0);
    }
    if (response.ok) return response;
    throw new CallError(response.status, await response.json().catch(() => ({})), response.headers);
  }
}

/** What the headers say of an answer. */
function about(response) {
  return {
    model: response.headers.get("x-florence-model") ?? "",
    timing: stages(response.headers.get("server-timing") ?? ""),
    requestId: response.headers.get("x-fal-request-id") ?? "",
  };
}

/** The stages of a Server-Timing header, in milliseconds. */
export function stages(header) {
  return [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => ({ name, ms: Number(ms) }));
}

/** The server-sent events of a response, with their data as JSON. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const whole = text.split("\n\n");
      text = whole.pop();
      for (const lines of whole) {
        const fields = Object.fromEntries(lines.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
        if (fields.data !== undefined) yield { name: fields.event ?? "message", data: JSON.parse(fields.data) };
      }
    }
  } catch (error) {
    throw error.name === "TypeError" || error.message === "network error" ? new CallError(0) : error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A blob as a data URI. */
function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

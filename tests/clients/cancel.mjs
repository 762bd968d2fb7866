// Requests that are cancelled: one while it runs, one while it waits, one too late.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const endpoint = "fal-ai/florence-2-large/region-proposal";
const { IMAGE_URL, HANGING_URL, NUM_OTHERS } = process.env;

const submit = async (image_url, priority) =>
  (await fal.queue.submit(endpoint, { input: { image_url }, priority })).request_id;

const begun = async (requestId) => {
  let status = "IN_QUEUE";
  while (status === "IN_QUEUE") {
    ({ status } = await fal.queue.status(endpoint, { requestId }));
  }
  return status;
};

const ended = async (requestId) => {
  const status = await fal.queue.subscribeToStatus(endpoint, { requestId, pollInterval: 100 });
  const error = await fal.queue.result(endpoint, { requestId }).catch((error) => error);
  return { status, result: { status: error.status, body: error.body } };
};

const running = await submit(HANGING_URL);
console.log({ running: await begun(running) });
await fal.queue.cancel(endpoint, { requestId: running });
console.log({ cancelled: "running", ...(await ended(running)) });

const others = await Promise.all(Array.from({ length: NUM_OTHERS }, () => submit(HANGING_URL)));
const waiting = await submit(IMAGE_URL, "low");
const { status, queue_position } = await fal.queue.status(endpoint, { requestId: waiting });
await fal.queue.cancel(endpoint, { requestId: waiting });
console.log({ cancelled: "waiting", was: { status, queue_position }, ...(await ended(waiting)) });
await Promise.allSettled(others.map((requestId) => fal.queue.cancel(endpoint, { requestId })));

const { requestId } = await fal.subscribe(endpoint, { input: { image_url: IMAGE_URL } });
const late = await fal.queue.cancel(endpoint, { requestId }).catch((error) => error);
console.log({ cancelled: "late", result: { status: late.status, body: late.body } });

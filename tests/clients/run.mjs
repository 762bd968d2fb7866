// The synchronous run, and its stream.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const endpoint = "fal-ai/florence-2-large/region-proposal";
const input = { image_url: process.env.IMAGE_URL };

const { data, requestId } = await fal.run(endpoint, { input });
console.log({ data, requestId });

const events = [];
const stream = await fal.stream(endpoint, { input });
for await (const event of stream) {
  events.push(event);
}
console.log({ events, done: await stream.done() });

// A stream with the partial output in each event, and the final run.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const endpoint = "fal-ai/florence-2-large/region-proposal";
const input = { image_url: process.env.SEVERAL_URL, num_beams: 1 };

const events = [];
const stream = await fal.stream(endpoint, { input });
for await (const event of stream) {
  events.push(event);
}
const done = await stream.done();
const { data } = await fal.run(endpoint, { input });
console.log({ events, done, data });

const refused = await fal.stream(endpoint, { input: { ...input, num_beams: 99 } });
const { status, body } = await refused.done().catch((error) => error);
console.log({ status, body });

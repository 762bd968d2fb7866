// A subscription in the mode of MODE, with everything that is heard on the way.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const updates = [];
const { data, requestId } = await fal.subscribe("fal-ai/florence-2-large/region-proposal", {
  input: { image_url: process.env.LATE_URL },
  logs: true,
  mode: process.env.MODE,
  onEnqueue: (request_id) => console.log({ enqueued: request_id }),
  onQueueUpdate: (update) => updates.push(structuredClone(update)),
});
console.log({ updates, data, requestId });

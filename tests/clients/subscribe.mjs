// fal's published example of the endpoint.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const result = await fal.subscribe("fal-ai/florence-2-large/region-proposal", {
  input: {
    image_url: process.env.LATE_URL
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
console.log(result.data);
console.log(result.requestId);

// fal's published examples of the queue, one after the other.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const { request_id } = await fal.queue.submit("fal-ai/florence-2-large/region-proposal", {
  input: {
    image_url: process.env.IMAGE_URL
  },
  webhookUrl: process.env.WEBHOOK_URL,
});
console.log(request_id);

const statusNow = async () => {
  const status = await fal.queue.status("fal-ai/florence-2-large/region-proposal", {
    requestId: request_id,
    logs: true,
  });
  return status;
};

let status = await statusNow();
while (status.status !== "COMPLETED") {
  status = await statusNow();
}
console.log(status);

const result = await fal.queue.result("fal-ai/florence-2-large/region-proposal", {
  requestId: request_id
});
console.log(result.data);
console.log(result.requestId);

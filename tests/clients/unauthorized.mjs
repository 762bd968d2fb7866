// What a wrong key hears, at once and from the queue.
import { ApiError, fal } from "@fal-ai/client";
import "./configure.mjs";

const endpoint = "fal-ai/florence-2-large/region-proposal";
const input = { image_url: process.env.IMAGE_URL };
const calls = [() => fal.run(endpoint, { input }), () => fal.subscribe(endpoint, { input })];

for (const call of calls) {
  const error = await call().catch((error) => error);
  console.log({ isApiError: error instanceof ApiError, status: error.status, body: error.body });
}

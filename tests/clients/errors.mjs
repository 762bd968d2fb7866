// Each error, as the client raises it.
import { ApiError, ValidationError, fal } from "@fal-ai/client";
import "./configure.mjs";

const endpoint = "fal-ai/florence-2-large/region-proposal";
const noImage = { image_url: "data:image/png;base64,SGVsbG8sIFdvcmxkIQ==" };
const unknown = { requestId: "00000000-0000-4000-8000-000000000000" };

const attempts = {
  "no image": () => fal.run(endpoint, { input: noImage }),
  "no input": () => fal.run(endpoint, { input: {} }),
  "no image, queued": () => fal.subscribe(endpoint, { input: noImage }),
  "no image, streamed": () => fal.subscribe(endpoint, { input: noImage, mode: "streaming" }),
  "no input, queued": () => fal.queue.submit(endpoint, { input: {} }),
  "unknown status": () => fal.queue.status(endpoint, unknown),
  "unknown result": () => fal.queue.result(endpoint, unknown),
  "unknown cancel": () => fal.queue.cancel(endpoint, unknown),
  "unknown endpoint": () => fal.run("fal-ai/florence-2-large/no-such-task", { input: noImage }),
};

for (const [attempt, call] of Object.entries(attempts)) {
  try {
    console.log({ attempt, answer: await call() });
  } catch (error) {
    console.log({ attempt, ...fieldsOf(error) });
  }
}

function fieldsOf(error) {
  return {
    isApiError: error instanceof ApiError,
    isValidationError: error instanceof ValidationError,
    status: error.status,
    body: error.body,
    requestId: error.requestId,
    ofImage: error instanceof ValidationError ? error.getFieldErrors("image_url") : [],
    faults: error instanceof ValidationError ? error.fieldErrors : [],
  };
}

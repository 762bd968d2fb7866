// The guard of docs/javascript.md: nothing is sent anywhere but to our own service.
import { fal } from "@fal-ai/client";

const base = "http://127.0.0.1:9"; // no server listens here

const guarded = (url, options) => {
  if (!String(url).startsWith(`${base}/`)) throw new Error(`not our service: ${url}`);
  return Promise.reject(new Error(`allowed: ${url}`));
};

async function attempt(config) {
  fal.config({ credentials: "k", fetch: guarded, ...config });
  try {
    await fal.queue.submit("fal-ai/florence-2-large/caption", {
      input: { image_url: "https://example.com/a.png" },
    });
    return "sent";
  } catch (error) {
    return error.message;
  }
}

console.log(JSON.stringify(await attempt({})));
console.log(
  JSON.stringify(await attempt({ proxyUrl: { url: `${base}/api/fal/proxy`, when: "always" } })),
);

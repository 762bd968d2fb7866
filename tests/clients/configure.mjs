// Points fal's client at the service under test: the one line that a program adds to fal's own.
// Where a page's examples print for people, this prints lines of JSON for the tests.
import { fal } from "@fal-ai/client";

const { BASE_URL, KEY, PROXY_URL, WAY } = process.env;

const here = (url) =>
  url
    .replace("https://queue.fal.run", `${BASE_URL}/queue`)
    .replace("https://fal.run", `${BASE_URL}/run`)
    .replace(/^https:\/\/rest\.(alpha\.)?fal\.ai/, `${BASE_URL}/rest`);

const requestMiddleware = async (request) => ({ ...request, url: here(request.url) });

const ways = {
  // the service's own proxy route, from a program
  proxyUrl: {
    credentials: KEY,
    proxyUrl: { url: `${BASE_URL}/api/fal/proxy`, when: "always" },
  },
  // rewritten URLs, in every version
  requestMiddleware: { credentials: KEY, requestMiddleware },
  // the service's own proxy route, from a page
  page: {
    credentials: KEY,
    proxyUrl: `${BASE_URL}/api/fal/proxy`,
    suppressLocalCredentialsWarning: true,
  },
  // a page whose key stays in the application's own server
  serverProxy: { credentials: () => undefined, proxyUrl: PROXY_URL, requestMiddleware },
};

if (WAY === "page" || WAY === "serverProxy") {
  globalThis.window = { document: {} }; // what the client knows a browser by
}

fal.config(ways[WAY]);

console.log = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

// An application's own server with fal's proxy in it, which alone knows the key.
import { createHandler, route } from "@fal-ai/server-proxy/express";
import express from "express";

const { BASE_URL, KEY } = process.env;

const handler = createHandler({
  allowedUrlPatterns: [`${new URL(BASE_URL).host}/**`],
  allowedEndpoints: ["**"],
  allowUnauthorizedRequests: true,
  isAuthenticated: async () => true,
  resolveFalAuth: async () => `Key ${KEY}`,
});

const app = express();
app.use(express.json({ limit: "10mb" }));
app.all(route, handler);

const server = app.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify(`http://127.0.0.1:${server.address().port}${route}`));
});

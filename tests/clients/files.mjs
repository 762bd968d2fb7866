// Files given as input, which the client uploads by itself.
import { readFile } from "node:fs/promises";
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const bytes = await readFile(process.env.IMAGE_FILE);
const files = {
  File: new File([bytes], "scene.png", { type: "image/png" }),
  Blob: new Blob([bytes], { type: "image/png" }),
};

for (const [kind, image_url] of Object.entries(files)) {
  const { data } = await fal.subscribe("fal-ai/florence-2-large/region-proposal", {
    input: { image_url },
  });
  console.log({ kind, data });
}

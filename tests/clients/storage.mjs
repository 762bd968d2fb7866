// fal's published example of an upload.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const file = new File(["Hello, World!"], "hello.txt", { type: "text/plain" });
const url = await fal.storage.upload(file);
console.log(url);

// Every endpoint in fal's published ways: run, subscribe and stream; some endpoints at a time.
import { fal } from "@fal-ai/client";
import "./configure.mjs";

const AT_A_TIME = 2;
const left = Object.entries(JSON.parse(process.env.INPUTS));

const ask = async (endpoint, input) => {
  const { data: run } = await fal.run(endpoint, { input });
  const { data: subscribe } = await fal.subscribe(endpoint, { input, logs: true });
  const stream = await fal.stream(endpoint, { input });
  console.log({ endpoint, answers: { run, subscribe, stream: await stream.done() } });
};

const work = async () => {
  while (left.length) {
    await ask(...left.shift());
  }
};

await Promise.all(Array.from({ length: AT_A_TIME }, work));

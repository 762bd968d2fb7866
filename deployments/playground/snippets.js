// The call of the page as code for other places. The key is never in it.

import { APP } from "./tasks.js";

const KEY = "FLORENCE_API_KEY";

/** The languages, by the name under which `snippet` knows them. */
export const LANGUAGES = ["curl", "javascript", "javascript-old", "python", "python-plain"];

/**
 * Code that asks `task` about a picture.
 *
 * `base` is the service's address with a slash at its end; `input` the fields beside the picture;
 * `picture` has its `url`, or the `name` of a file in the working folder and its `type`.
 */
export function snippet(language, { base, task, input, picture }) {
  return WRITERS[language]({ base: base.replace(/\/$/, ""), endpoint: `${APP}/${task}`, input, picture });
}

function curl({ base, endpoint, input, picture }) {
  const call = `curl -sS ${quoted(`${base}/${endpoint}`)} \\
  -H "Authorization: Key $${KEY}" -H "Content-Type: application/json"`;
  const key = `export ${KEY}="florence-…"\n`;
  if (picture.url) return `${key}${call} \\\n  -d ${quoted(JSON.stringify({ image_url: picture.url, ...input }))}\n`;
  const rest = Object.entries(input).map(([name, value]) => `, ${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return `${key}image_url="data:${picture.type};base64,$(base64 < ${quoted(picture.name)} | tr -d '\\n')"
printf '{"image_url": "%s"%s}' "$image_url" ${quoted(rest.join(""))} |
${call} -d @-
`;
}

function javascript(call) {
  return node(call, `fal.config({ credentials, proxyUrl: { url: ${JSON.stringify(`${call.base}/api/fal/proxy`)}, when: "always" } });`);
}

function javascriptOld(call) {
  return node(call, `const base = ${JSON.stringify(call.base)};
fal.config({
  credentials,
  requestMiddleware: async (request) => ({
    ...request,
    url: request.url
      .replace("https://queue.fal.run", \`\${base}/queue\`)
      .replace("https://fal.run", \`\${base}/run\`)
      .replace(/https:\\/\\/rest\\.(alpha\\.)?fal\\.ai/, \`\${base}/rest\`),
  }),
});`);
}

function node({ endpoint, input, picture }, configuration) {
  const reads = picture.url ? "" : `import { readFileSync } from "node:fs";\n`;
  const image = picture.url
    ? JSON.stringify(picture.url)
    : `\`data:${picture.type};base64,\${readFileSync(${JSON.stringify(picture.name)}, "base64")}\``;
  return `${reads}import { fal } from "@fal-ai/client";

const credentials = process.env.${KEY};
${configuration}
const image_url = ${image};
const { data } = await fal.run(${JSON.stringify(endpoint)}, {
  input: { image_url${fields(input, JSON.stringify)} },
});
console.log(JSON.stringify(data));
`;
}

function python({ base, endpoint, input, picture }) {
  const address = base.replace(/^https?:\/\//, "");
  const image = picture.url ? literal(picture.url) : `fal_client.encode_file(${literal(picture.name)})`;
  return `import os

os.environ["FAL_KEY"] = os.environ["${KEY}"]
os.environ["FAL_RUN_HOST"] = ${literal(`${address}/run`)}
os.environ["FAL_QUEUE_RUN_HOST"] = ${literal(`${address}/queue`)}

import fal_client  # reads the environment when it is imported

arguments = {"image_url": ${image}${members(input)}}
result = fal_client.run(${literal(endpoint)}, arguments=arguments)
print(result)
`;
}

function pythonPlain({ base, endpoint, input, picture }) {
  const reads = picture.url
    ? `image_url = ${literal(picture.url)}\n`
    : `with open(${literal(picture.name)}, "rb") as file:
    image_url = "data:${picture.type};base64," + base64.b64encode(file.read()).decode()\n`;
  return `import base64
import json
import os
import urllib.request

${reads}request = urllib.request.Request(
    ${literal(`${base}/${endpoint}`)},
    data=json.dumps({"image_url": image_url${members(input)}}).encode(),
    headers={
        "Authorization": "Key " + os.environ["${KEY}"],
        "Content-Type": "application/json",
    },
)
with urllib.request.urlopen(request) as response:
    print(json.dumps(json.load(response)))
`;
}

const WRITERS = { curl, javascript, "javascript-old": javascriptOld, python, "python-plain": pythonPlain };

const fields = (input, write) => Object.entries(input).map(([name, value]) => `, ${name}: ${write(value)}`).join("");

const members = (input) => Object.entries(input).map(([name, value]) => `, ${literal(name)}: ${literal(value)}`).join("");

/** For sh: nothing in it is expanded. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** For Python, whose words for three values are its own; strings of JSON are strings of Python. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${literal(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

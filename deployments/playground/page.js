// The page: what is asked, and what becomes of it.

import { Card } from "./answers.js";
import { CallError, Client } from "./client.js";
import { button, copyButton, download, fill, h } from "./element.js";
import { forgetAll, remember, remembered } from "./history.js";
import { forget, keep, key, takeFromFragment } from "./key.js";
import * as pictures from "./picture.js";
import { coco, colour } from "./shapes.js";
import { LANGUAGES, snippet } from "./snippets.js";
import { GROUPS, TASKS, taskOf } from "./tasks.js";
import { text } from "./text.js";
import { View } from "./view.js";

const QUEUE_MS = 10_000; // between two looks at the queue
const AWAY_MS = 2000; // between two looks for a service that does not answer
const SIDES = ["x1", "y1", "x2", "y2"];

takeFromFragment();
const base = new URL(".", location.href).href.replace(/[?#].*/, "");
const client = new Client(base, key);

let picture = null;
let cards = [];
let abort = null;
let jobs = new Set();
let asked = new URLSearchParams(location.search).getAll("task").filter(taskOf);
let isAway = false;

// What the person sees, from top to bottom.

const model = h("span", { class: "chip", hidden: true });
const queued = h("span", { class: "chip", hidden: true });
const keyButton = button(text.key.open, () => askKey(), { class: "small" });
const away = h("p", { class: "banner warning", role: "alert", hidden: true }, text.away);
const demo = h("p", { class: "banner", hidden: true }, text.demo, " ",
  button(text.trySample, () => choose(pictures.fromSample(pictures.SAMPLES[0])), { class: "small" }));
const message = h("p", { class: "message", role: "status" });

const file = h("input", { type: "file", accept: "image/*,.tif,.tiff", class: "offscreen", id: "file", tabIndex: -1, "aria-label": text.picture.choose, onchange: () => {
  const [chosen] = file.files;
  if (chosen) choose(pictures.fromBlob(chosen, chosen.name));
  file.value = "";
} });
const url = h("input", { type: "url", id: "url", placeholder: "https://", autocomplete: "off" });
const canvas = h("canvas", { tabIndex: 0, role: "img", id: "picture" });
const about = h("p", { class: "help" });
const dropHint = h("p", { class: "drop" }, text.picture.drop);
const stage = h("div", { class: "stage" }, canvas, dropHint);

const checks = new Map(TASKS.map(({ path }) => [path, h("input", {
  type: "checkbox", id: `task-${path}`, value: path, checked: (asked.length ? asked : ["object-detection"]).includes(path), onchange: update,
})]));
const words = h("input", { type: "text", id: "text_input", autocomplete: "off", "aria-describedby": "words-help", oninput: () => { words.touched = true; update(); } });
const sides = SIDES.map((side) => h("input", { type: "number", id: `region-${side}`, step: 1, min: 0, oninput: regionTyped }));
const beams = h("input", { type: "number", id: "num_beams", min: 1, step: 1, oninput: update });
const scores = h("input", { type: "checkbox", id: "scores", onchange: update });
const minScore = h("input", { type: "number", id: "min_score", min: 0, max: 1, step: 0.05, oninput: update });
const adapter = h("select", { id: "adapter", onchange: update }, h("option", { value: "" }, text.input.noAdapter));
const adapterField = field(adapter, text.input.adapter);
adapterField.hidden = true;
const webhook = h("input", { type: "url", id: "webhook", placeholder: "https://", autocomplete: "off" });
const wordsField = field(words, text.input.words, h("span", { class: "help", id: "words-help" }, text.input.wordsHelp));
const regionField = h("fieldset", { class: "region" }, h("legend", {}, text.input.region),
  h("p", { class: "help" }, text.input.regionHelp),
  h("div", { class: "sides" }, ...sides.map((input, n) => field(input, SIDES[n]))));
const runs = ["run", "stream", "queue"].map((mode) => button(text.run[mode], () => start(mode), { class: mode === "run" ? "primary" : "", id: mode }));
const stop = button(text.run.stop, halt, { id: "stop", hidden: true });

const slider = h("input", { type: "range", id: "lowest", min: 0, max: 1, step: 0.01, value: 0, oninput: refresh });
const sliderField = field(slider, text.answer.score);
sliderField.hidden = true;
const downloads = h("div", { class: "downloads", hidden: true }, h("span", { class: "help" }, text.answer.download),
  button(text.answer.png, savePng, { class: "small" }),
  button(text.answer.json, () => save(outputs(), "json"), { class: "small" }),
  button(text.answer.coco, () => save(coco({ ...picture, ...view.size }, shown()), "coco.json"), { class: "small" }));
const list = h("div", { class: "cards" }, h("p", { class: "help" }, text.answer.empty));

let language = "curl";
const code = h("pre", { tabIndex: 0, id: "code" });
const codeNote = h("p", { class: "help" });
const languages = LANGUAGES.map((name) => button(text.code.names[name], () => { language = name; showCode(); }, { class: "small", "data-language": name }));
const past = h("ul", { class: "past" });

const view = new View(canvas, {
  hover: (shape) => point(shape),
  toggle: (shape) => { shape.off = true; refresh(); },
  region: (region) => { SIDES.forEach((side, n) => { sides[n].value = region[side]; }); update(); },
});

document.body.append(
  h("a", { href: "#answers", class: "skip" }, text.skip),
  h("header", { class: "top" }, h("h1", {}, text.title), model, queued, h("span", { class: "space" }),
    h("a", { href: "docs" }, text.reference), keyButton),
  away, demo,
  h("main", {},
    h("section", { class: "show", "aria-label": text.picture.title },
      stage,
      h("div", { class: "tools" },
        button("−", () => view.zoom(0.8), { "aria-label": text.view.out, class: "small" }),
        button("+", () => view.zoom(1.25), { "aria-label": text.view.in, class: "small" }),
        button(text.view.fit, () => view.fit(), { class: "small" }), about),
      h("div", { class: "samples", role: "group", "aria-label": text.picture.samples }, ...pictures.SAMPLES.map(sampleButton)),
      h("p", { class: "help keys" }, text.view.keys)),
    h("section", { class: "ask", "aria-label": text.task.title },
      h("h2", {}, text.picture.title),
      h("div", { class: "row" }, button(text.picture.choose, () => file.click(), { id: "choose" }), file, button(text.picture.camera, openCamera)),
      h("form", { class: "row", onsubmit: useUrl }, h("label", { for: "url", class: "offscreen" }, text.picture.url), url, h("button", {}, text.picture.useUrl)),
      h("h2", {}, text.task.title),
      ...GROUPS.map((group) => h("fieldset", {}, h("legend", {}, text.task.groups[group]),
        ...TASKS.filter((task) => task.group === group).map(({ path }) => h("label", { class: "check" }, checks.get(path), text.task.names[path])))),
      wordsField, regionField,
      h("details", {}, h("summary", {}, text.input.options),
        field(beams, text.input.beams, h("span", { class: "help" }, text.input.beamsHelp)),
        h("label", { class: "check" }, scores, text.input.scores),
        field(minScore, text.input.minScore), adapterField, field(webhook, text.input.webhook)),
      h("div", { class: "row run" }, ...runs, stop),
      message),
    h("section", { class: "answers", id: "answers", "aria-label": text.answer.title, tabIndex: -1 },
      h("h2", {}, text.answer.title), sliderField, downloads, list),
    h("section", { class: "more" },
      h("h2", {}, text.code.title),
      h("div", { class: "row", role: "group", "aria-label": text.code.title }, ...languages),
      codeNote, h("div", { class: "code" }, code, copyButton(text.answer.copy, text.answer.copied, () => code.textContent)),
      h("details", { ontoggle: showPast, id: "past" }, h("summary", {}, text.history.title),
        h("p", { class: "help" }, text.history.help, " ", button(text.history.clear, async () => { await forgetAll(); showPast(); }, { class: "small" })), past))));

document.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
document.addEventListener("dragleave", () => stage.classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); stage.classList.remove("over"); take(event.dataTransfer); });
document.addEventListener("paste", (event) => { if (imageIn(event.clipboardData)) take(event.clipboardData); });
update();
showCode();
know();
lookAtQueue();

function field(input, label, ...more) {
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, ...more);
}

function sampleButton(sample) {
  return h("button", { type: "button", class: "sample", "data-sample": sample.name, onclick: () => choose(pictures.fromSample(sample)) },
    h("img", { src: pictures.sampleUrl(sample), alt: "", width: 96, height: 72 }), text.picture.sample[sample.name]);
}

// The picture.

function imageIn(data) {
  return pictures.imageIn(data.files);
}

function take(data) {
  const image = imageIn(data);
  const address = data.getData("text/uri-list") || data.getData("text/plain");
  if (image) choose(pictures.fromBlob(image, image.name));
  else if (/^https?:/.test(address)) choose(pictures.fromUrl(address.split("\n")[0].trim()));
}

function useUrl(event) {
  event.preventDefault();
  if (/^https?:\/\/./.test(url.value.trim()) && URL.canParse(url.value.trim())) choose(pictures.fromUrl(url.value.trim()));
  else say(text.picture.badUrl);
}

async function choose(opening) {
  show(await opening);
}

function show(chosen) {
  picture = chosen;
  view.show(picture);
  setRegion(picture.sample?.region ?? null);
  if (picture.sample && !words.touched) words.value = picture.sample.text;
  setCards([]);
  say(picture.image ? "" : text.picture.noPreview);
  dropHint.hidden = true;
  about.textContent = text.picture.about(picture);
  update();
}

async function openCamera() {
  const video = h("video", { muted: true, playsInline: true });
  let close = () => {};
  const dialog = popUp(text.picture.camera, video, button(text.picture.take, async () => {
    const taken = await pictures.fromVideo(video);
    dialog.close();
    show(taken);
  }, { class: "primary" }));
  dialog.addEventListener("close", () => close());
  try {
    close = await pictures.openCamera(video);
  } catch {
    dialog.close();
    say(text.picture.noCamera);
  }
}

// What is asked.

function tasks() {
  return TASKS.filter(({ path }) => checks.get(path).checked);
}

/** The fields of the input beside the picture, for `task`. */
function inputOf(task) {
  const number = (input) => (input.value === "" ? undefined : Number(input.value));
  const input = {
    text_input: task.needs === "text_input" ? words.value : undefined,
    region: task.needs === "region" ? view.region ?? undefined : undefined,
    num_beams: number(beams),
    scores: scores.checked || undefined,
    min_score: number(minScore),
    adapter: adapter.value || undefined,
  };
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined));
}

function regionTyped() {
  const values = sides.map((side) => (side.value === "" ? NaN : Number(side.value)));
  view.setRegion(values.some(Number.isNaN) ? null : Object.fromEntries(SIDES.map((side, n) => [side, values[n]])));
  update();
}

function setRegion(region) {
  SIDES.forEach((side, n) => { sides[n].value = region?.[side] ?? ""; });
  view.setRegion(region);
}

/** Show the fields that the tasks need, and the code of the call. */
function update() {
  const needs = new Set(tasks().map((task) => task.needs));
  wordsField.hidden = !needs.has("text_input");
  regionField.hidden = !needs.has("region");
  view.takesRegion = needs.has("region");
  canvas.classList.toggle("draws", view.takesRegion);
  view.redraw();
  showCode();
}

function say(words_) {
  message.textContent = words_;
}

function missing() {
  if (!picture) return text.picture.none;
  if (!tasks().length) return text.task.none;
  if (tasks().some((task) => task.needs === "region") && !view.region) return text.input.noRegion;
  return "";
}

async function start(mode) {
  say(missing());
  if (missing()) return;
  if (!key()) {
    askKey(text.key.needed, () => start(mode));
    return;
  }
  unmark();
  setCards(tasks().map((task) => newCard(task.path)));
  const began = performance.now();
  await busy(() => Promise.all(cards.map((card) => ask(card, mode))));
  const answered = cards.filter((card) => card.finished);
  if (!answered.length) return;
  say(text.answer.done(answered.length, performance.now() - began));
  const answers = answered.map(({ task, finished }) => ({ task, finished }));
  const { name, blob, url: address, width, height, sample } = picture;
  await remember({
    time: Date.now(), answers, thumbnail: pictures.thumbnail(picture), words: words.value, region: view.region,
    picture: { name, blob, url: address, width, height, sample },
  });
  showPast();
}

async function busy(work) {
  abort = new AbortController();
  for (const each of runs) each.disabled = true;
  stop.hidden = false;
  try {
    await work();
  } finally {
    for (const each of runs) each.disabled = false;
    stop.hidden = true;
    jobs = new Set();
  }
}

/** Stop runs and streams; cancel jobs, whose end is then their answer. */
function halt() {
  if (jobs.size) for (const cancel of jobs) cancel();
  else abort.abort();
}

/** Ask again for as long as the service is full; show the answer, or why there is none. */
async function ask(card, mode) {
  const { signal } = abort;
  const input = inputOf(taskOf(card.task));
  for (;;) {
    const began = performance.now();
    try {
      card.say(text.run.running);
      const image_url = await client.imageUrl(picture, signal);
      const answer = await MODES[mode](card, { image_url, ...input }, signal);
      card.finished = { ...answer, ms: performance.now() - began };
      card.finish(card.finished);
      if (answer.model) showModel(answer.model);
      return;
    } catch (error) {
      if (error instanceof CallError && error.status === 429 && (await waited(card, error.retryAfterS, signal))) continue;
      fail(card, mode, error);
      return;
    }
  }
}

async function waited(card, seconds, signal) {
  for (let left = Math.max(1, seconds); left > 0 && !signal.aborted; left -= 1) {
    card.say(text.run.waiting(left));
    await sleep(1000, signal);
  }
  return !signal.aborted;
}

function fail(card, mode, error) {
  if (error.name === "AbortError" || abort.signal.aborted) {
    card.say(text.run.stopped);
    return;
  }
  if (!(error instanceof CallError)) throw error;
  if (error.status === 499) {
    card.say(text.run.cancelled);
    return;
  }
  card.fail(error, () => busy(() => ask(card, mode)));
  mark(error.faults);
  if (error.status === 0) goAway();
  if (error.status === 401) askKey(text.key.wrong, () => start(mode));
}

const MODES = {
  run: (card, input, signal) => client.run(card.task, input, signal),

  async stream(card, input, signal) {
    card.say(text.run.streaming);
    return client.stream(card.task, input, signal, (output) => card.show(output));
  },

  async queue(card, input, signal) {
    const { request_id: id } = await client.submit(card.task, input, webhook.value.trim(), signal);
    const cancel = () => client.cancel(id).catch(() => {});
    const cancelButton = button(text.run.cancel, cancel, { class: "small" });
    jobs.add(cancel);
    card.say(text.run.submitted, cancelButton);
    let seen = 0;
    for (let status = null; status?.status !== "COMPLETED";) {
      try {
        let lines = 0;
        for await (status of client.statuses(id, signal)) {
          // A connection that is new begins the log again.
          const logs = status.logs ?? [];
          card.follow({ ...status, logs: logs.slice(Math.max(0, seen - lines)) });
          lines += logs.length;
          seen = Math.max(seen, lines);
          card.say(status.status === "IN_QUEUE" ? text.run.position(status.queue_position) : text.run.inProgress, cancelButton);
        }
      } catch (error) {
        if (!(error instanceof CallError) || (error.status && error.status < 500)) throw error;
        goAway();
      }
      if (status?.status !== "COMPLETED") {
        card.say(text.run.lost, cancelButton);
        await sleep(1000, signal);
      }
    }
    jobs.delete(cancel);
    return client.result(id, signal);
  },
};

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Show which fields the service refused. */
function mark(faults) {
  for (const { loc } of faults) {
    const name = loc[1] === "region" ? `region-${loc[2] ?? "x1"}` : loc[1];
    document.getElementById(name)?.setAttribute("aria-invalid", "true");
  }
}

function unmark() {
  for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

// The answers.

function newCard(task) {
  return new Card(task, { hover: point, change: refresh });
}

function setCards(made) {
  cards = made;
  fill(list, ...(cards.length ? cards.map((card) => card.element) : [h("p", { class: "help" }, text.answer.empty)]));
  slider.value = 0;
  refresh();
}

/** Draw the shapes of all answers, in colours of their own. */
function refresh() {
  const shapes = cards.flatMap((card) => card.shapes);
  sliderField.hidden = !shapes.some((shape) => shape.score !== null);
  downloads.hidden = !cards.some((card) => card.output);
  const lowest = sliderField.hidden ? 0 : Number(slider.value);
  for (const shape of shapes) shape.hidden = shape.off || (shape.score ?? 1) < lowest;
  colour(shapes);
  for (const card of cards) card.refresh();
  sizeFromAnswer();
  view.setShapes(shapes);
  canvas.setAttribute("aria-label", text.view.label(picture?.name, shown().length));
}

/** The service knows the size of a picture that this browser cannot read. */
function sizeFromAnswer() {
  const known = cards.find((card) => card.output?.image?.width)?.output.image;
  if (!picture || picture.width || !known) return;
  picture.width = known.width;
  picture.height = known.height;
  view.fit();
}

function shown() {
  return cards.flatMap((card) => card.shapes).filter((shape) => !shape.hidden);
}

function point(shape) {
  view.activate(shape);
  for (const card of cards) card.point(shape);
}

function outputs() {
  const all = cards.filter((card) => card.output);
  return all.length === 1 ? all[0].output : Object.fromEntries(all.map((card) => [card.task, card.output]));
}

function save(value, suffix) {
  download(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }), `${stem()}.${suffix}`);
}

async function savePng() {
  try {
    download(await view.png(), `${stem()}.annotated.png`);
  } catch {
    say(text.answer.noPng);
  }
}

const stem = () => picture.name.replace(/\.\w+$/, "");

// The code of the call.

function showCode() {
  const [task = TASKS[0]] = tasks();
  const image = picture?.url
    ? { url: picture.url }
    : { name: picture?.name ?? "photo.jpg", type: picture?.blob.type || "image/jpeg" };
  code.textContent = snippet(language, { base, task: task.path, input: inputOf(task), picture: image });
  codeNote.textContent = text.code.notes[language];
  codeNote.hidden = !codeNote.textContent;
  languages.forEach((each, n) => each.setAttribute("aria-pressed", String(LANGUAGES[n] === language)));
}

// The last runs.

async function showPast() {
  const kept = await remembered();
  fill(past, ...(kept.length ? kept.map(entry) : [h("li", { class: "help" }, text.history.none)]));
}

function entry(run) {
  const names = run.answers.map(({ task }) => text.task.names[task]).join(", ");
  return h("li", {}, h("button", { type: "button", class: "entry", onclick: () => recall(run) },
    run.thumbnail ? h("img", { src: run.thumbnail, alt: "" }) : null, text.history.entry(run.time, names)));
}

async function recall(run) {
  const { picture: kept, answers } = run;
  const opened = kept.url ? await pictures.fromUrl(kept.url) : await pictures.fromBlob(kept.blob, kept.name);
  show({ ...kept, ...opened });
  const paths = answers.map(({ task }) => task);
  for (const [path, check] of checks) check.checked = paths.includes(path);
  words.value = run.words;
  setRegion(run.region);
  update();
  setCards(paths.map(newCard));
  answers.forEach(({ finished }, n) => cards[n].finish(finished));
}

// The key.

function askKey(why = "", then = () => {}) {
  if (document.querySelector("dialog[open]")) return;
  const input = h("input", { type: "password", id: "key", autocomplete: "off", value: key(), required: true });
  const dialog = popUp(text.key.title,
    why ? h("p", { class: "warning" }, why) : null,
    h("p", { class: "help" }, text.key.help),
    h("form", { onsubmit: (event) => {
      event.preventDefault();
      keep(input.value);
      dialog.close();
      then();
    } }, field(input, text.key.label), h("div", { class: "row" }, h("button", { class: "primary" }, text.key.use),
      button(text.key.forget, () => { forget(); dialog.close(); }))));
  input.focus();
}

function popUp(title, ...children) {
  const dialog = h("dialog", { "aria-label": title }, h("div", { class: "row" }, h("h2", {}, title), h("span", { class: "space" }),
    button(text.key.close, () => dialog.close(), { class: "small" })), ...children);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// The service.

async function know() {
  try {
    const index = await client.index();
    showModel(index.model);
    demo.hidden = !index.note;
    for (const name of index.adapters ?? []) adapter.append(h("option", { value: name }, name));
    adapterField.hidden = adapter.options.length === 1;
  } catch {
    goAway();
  }
}

function showModel(name) {
  model.textContent = text.model(name);
  model.hidden = false;
}

async function lookAtQueue() {
  if (!document.hidden && !isAway) {
    try {
      const waiting = await client.queued();
      queued.textContent = text.queued(waiting);
      queued.hidden = Number.isNaN(waiting);
    } catch (error) {
      queued.hidden = true;
      if (error.status === 0) goAway();
    }
  }
  setTimeout(lookAtQueue, QUEUE_MS);
}

/** Say that the service is away, until it answers again. */
async function goAway() {
  if (isAway) return;
  isAway = true;
  away.hidden = false;
  while (!(await client.alive().catch(() => false))) await sleep(AWAY_MS);
  isAway = false;
  away.hidden = true;
  say(text.back);
  if (model.hidden) know();
}

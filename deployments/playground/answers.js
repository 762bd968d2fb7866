// The answers: one card for each task that was asked.

import { button, copyButton, fill, h } from "./element.js";
import { shapesOf } from "./shapes.js";
import { text } from "./text.js";

export class Card {
  /** `on.hover(shape)` and `on.change()` tell what the person does with the list. */
  constructor(task, on) {
    this.task = task;
    this.on = on;
    this.shapes = [];
    this.rows = new Map();
    this.output = null;
    this.status = h("p", { class: "status" });
    this.actions = h("span", { class: "actions" });
    this.body = h("div");
    this.log = h("ol", { class: "log", hidden: true, "aria-label": text.answer.log, tabIndex: 0 });
    this.foot = h("div", { class: "foot" });
    this.element = h("section", { class: "card", "aria-label": text.task.names[task], "data-task": task },
      h("header", {}, h("h3", {}, text.task.names[task]), this.actions), this.status, this.log, this.body, this.foot);
  }

  say(words, ...actions) {
    this.status.textContent = words;
    this.status.hidden = !words;
    fill(this.actions, ...actions);
  }

  /** A status of the job, with the lines of its log that are new. */
  follow(status) {
    for (const line of status.logs ?? []) this.log.append(h("li", {}, line.message));
    this.log.hidden = !this.log.children.length;
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** The output so far. What was hidden stays hidden. */
  show(output) {
    const before = this.shapes;
    this.output = output;
    this.shapes = shapesOf(output);
    this.shapes.forEach((shape, n) => { shape.off = before[n]?.off ?? false; });
    fill(this.body, ...(typeof output?.results === "string" ? this.words(output) : this.list()));
    this.on.change();
  }

  /** The whole answer: its output, timing, model, and how long it took here. */
  finish({ output, timing, requestId, ms }) {
    this.show(output);
    this.say("");
    fill(this.foot,
      output.truncated ? h("p", { class: "warning" }, text.answer.truncated) : null,
      bar(timing ?? [], ms),
      h("details", {}, h("summary", {}, text.answer.showJson),
        copyButton(text.answer.copy, text.answer.copied, () => JSON.stringify(output, null, 2)),
        h("pre", { tabIndex: 0 }, JSON.stringify(output, null, 2)),
        requestId ? h("p", { class: "help" }, text.answer.request(requestId)) : null),
      output.image ? h("a", { href: output.image.url, download: output.image.file_name ?? "", target: "_blank", rel: "noopener" }, text.answer.annotated) : null);
  }

  fail(error, again) {
    this.say("", again ? button(text.run.again, again, { class: "small" }) : null);
    fill(this.body, h("div", { class: "error", role: "alert" },
      h("strong", {}, text.error.title(error.status)),
      ...(error.faults.length
        ? error.faults.map((fault) => h("p", {}, `${text.error.field[fault.loc[1]] ?? fault.loc.join(".")}: ${fault.msg}`))
        : [h("p", {}, error.status ? error.message : text.error.unreachable)]),
      error.hint ? h("p", {}, error.hint) : null,
      error.requestId ? h("p", { class: "help" }, text.answer.request(error.requestId)) : null));
    fill(this.foot);
  }

  words(output) {
    return [
      h("p", { class: "words" }, output.results || text.answer.nothing),
      output.score === undefined ? null : h("p", { class: "help" }, text.answer.textScore(output.score)),
      copyButton(text.answer.copy, text.answer.copied, () => output.results),
    ];
  }

  list() {
    this.rows.clear();
    if (!this.shapes.length) return [h("p", { class: "help" }, text.answer.nothing)];
    const items = this.shapes.map((shape, n) => h("li", {}, this.row(shape, n)));
    const isOn = this.shapes.some((shape) => !shape.off);
    const all = button(isOn ? text.answer.hideAll : text.answer.showAll, () => {
      const hide = this.shapes.some((shape) => !shape.off);
      for (const shape of this.shapes) shape.off = hide;
      all.textContent = hide ? text.answer.showAll : text.answer.hideAll;
      this.on.change();
    }, { class: "small" });
    return [h("p", { class: "help" }, text.answer.shapes(this.shapes.length), " ", all), h("ul", { class: "shapes" }, ...items)];
  }

  row(shape, n) {
    const { x, y, w, h: high } = shape.box;
    const row = button("", () => this.toggle(shape), {
      class: "shape",
      onpointerenter: () => this.on.hover(shape),
      onpointerleave: () => this.on.hover(null),
      onfocus: () => this.on.hover(shape),
      onblur: () => this.on.hover(null),
    });
    row.append(
      h("span", { class: "swatch" }),
      h("span", { class: "label" }, shape.label || text.answer.unnamed(shape.kind, n + 1)),
      h("span", { class: "numbers" }, [x, y, w, high].map(Math.round).join(" ")),
      shape.score === null ? "" : h("span", { class: "numbers" }, shape.score.toFixed(2)));
    this.rows.set(shape, row);
    return row;
  }

  toggle(shape) {
    shape.off = !shape.off;
    this.on.change();
  }

  /** Show in the list what has become of the shapes. */
  refresh() {
    for (const [shape, row] of this.rows) {
      row.setAttribute("aria-pressed", String(!shape.hidden));
      row.querySelector(".swatch").style.setProperty("--colour", shape.colour);
    }
  }

  /** Point at the row of `shape`. */
  point(shape) {
    for (const [each, row] of this.rows) row.classList.toggle("active", each === shape);
    const row = this.rows.get(shape);
    if (row && !row.matches(":hover, :focus")) row.scrollIntoView({ block: "nearest" });
  }
}

/** Where the time went, as a bar; its whole length is what the person waited. */
function bar(timing, ms) {
  const known = timing.filter((stage) => stage.ms >= 0.5);
  const total = Math.max(ms ?? 0, known.reduce((sum, stage) => sum + stage.ms, 0)) || 1;
  const words = [...known.map(({ name, ms: each }) => text.answer.stage(name, each)), ...(ms ? [text.answer.took(ms)] : [])].join(", ");
  if (!known.length) return ms ? h("p", { class: "help" }, words) : null;
  return h("div", { class: "timing" },
    h("div", { class: "bar", role: "img", "aria-label": words, title: words },
      ...known.map(({ name, ms: each }) => h("span", { class: name, style: { width: `${(100 * each) / total}%` } }))),
    h("p", { class: "help" }, words));
}

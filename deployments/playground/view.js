// The picture on a canvas, with shapes over it: zoom, pan, hover, hide, and a region to draw.

import { holds } from "./shapes.js";

const LARGEST_SCALE = 32;
const STEP = 1.25; // of a zoom by key or button
const PAN = 60; // of a pan by key, in pixels of the screen
const CLICK = 4; // a pointer that moves less has not dragged
const FONT = "13px system-ui, sans-serif";
const DARK = "rgba(0, 0, 0, 0.75)";

export class View {
  /**
   * `on.hover(shape)`, `on.toggle(shape)` and `on.region(region)` tell what the person does;
   * `on.zoom(scale)` what the scale has become.
   */
  constructor(canvas, on) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.on = on;
    this.picture = null;
    this.shapes = [];
    this.region = null;
    this.takesRegion = false;
    this.active = null;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.pointers = new Map();
    this.widths = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  get size() {
    return { width: this.picture?.width || 1, height: this.picture?.height || 1 };
  }

  show(picture) {
    this.picture = picture;
    this.shapes = [];
    this.active = null;
    this.fit();
  }

  setShapes(shapes) {
    this.shapes = shapes;
    if (!shapes.includes(this.active)) this.active = null;
    this.redraw();
  }

  setRegion(region) {
    this.region = region;
    this.redraw();
  }

  activate(shape) {
    if (this.active === shape) return;
    this.active = shape;
    this.redraw();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.fit();
  }

  fit() {
    const { width, height } = this.size;
    const { clientWidth, clientHeight } = this.canvas;
    this.smallest = Math.min(clientWidth / width, clientHeight / height, LARGEST_SCALE);
    this.scale = this.smallest;
    this.x = (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.moved();
  }

  zoom(factor, at = { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 }) {
    const scale = Math.min(Math.max(this.scale * factor, this.smallest / 2), Math.max(LARGEST_SCALE, this.smallest));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.moved();
  }

  pan(dx, dy) {
    // A corner of the picture stays in sight.
    const { width, height } = this.size;
    const { clientWidth, clientHeight } = this.canvas;
    this.x = Math.min(Math.max(this.x + dx, 40 - width * this.scale), clientWidth - 40);
    this.y = Math.min(Math.max(this.y + dy, 40 - height * this.scale), clientHeight - 40);
    this.moved();
  }

  moved() {
    this.on.zoom?.(this.scale);
    this.redraw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  /** From the screen to pixels of the picture. */
  place({ x, y }) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  draw() {
    const { context, canvas } = this;
    const ratio = canvas.width / (canvas.clientWidth || 1);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.picture) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { width, height } = this.size;
    context.imageSmoothingEnabled = this.scale < 4;
    if (this.picture.image) context.drawImage(this.picture.image, this.x, this.y, width * this.scale, height * this.scale);
    this.paint(context, this.shapes.filter((shape) => !shape.hidden), canvas.clientWidth, canvas.clientHeight);
    if (this.takesRegion && this.region) this.paintRegion(context);
  }

  paint(context, shapes, width, height) {
    const { x: left, y: top, scale } = this;
    const seen = shapes.filter(({ box }) => {
      const [x, y] = [left + box.x * scale, top + box.y * scale];
      return x < width && y < height && x + box.w * scale > 0 && y + box.h * scale > 0;
    });
    context.lineJoin = "round";
    for (const shape of seen) {
      const isActive = shape === this.active;
      context.beginPath();
      shape.points.forEach((p, n) => context[n ? "lineTo" : "moveTo"](left + p.x * scale, top + p.y * scale));
      context.closePath();
      if (isActive || shape.kind === "polygon") {
        context.globalAlpha = isActive ? 0.35 : 0.2;
        context.fillStyle = shape.colour;
        context.fill();
        context.globalAlpha = this.active && !isActive ? 0.45 : 1;
      } else if (this.active) {
        context.globalAlpha = 0.45;
      }
      context.strokeStyle = DARK;
      context.lineWidth = isActive ? 6 : 4.5;
      context.stroke();
      context.strokeStyle = shape.colour;
      context.lineWidth = isActive ? 3 : 2;
      context.stroke();
      context.globalAlpha = 1;
    }
    context.font = FONT;
    context.textBaseline = "middle";
    for (const shape of seen) if (shape !== this.active) this.paintLabel(context, shape, width);
    if (this.active && seen.includes(this.active)) this.paintLabel(context, this.active, width);
  }

  /** The label of a shape above it, or in it at the picture's edge. */
  paintLabel(context, shape, width) {
    const isActive = shape === this.active;
    if (!shape.label || (this.active && !isActive)) return;
    const text = shape.score === null ? shape.label : `${shape.label} ${shape.score.toFixed(2)}`;
    const wide = this.textWidth(context, text) + 10;
    const across = shape.box.w * this.scale;
    if (!isActive && this.shapes.length > 40 && wide > across * 1.5) return;
    const x = Math.max(0, Math.min(this.x + shape.box.x * this.scale - 1, width - wide));
    const above = this.y + shape.box.y * this.scale - 20;
    const y = above < 0 ? above + 20 : above;
    context.fillStyle = "#14181d";
    context.fillRect(x, y, wide, 19);
    context.fillStyle = shape.colour;
    context.fillRect(x, y, 3, 19);
    context.fillStyle = "#fff";
    context.fillText(text, x + 7, y + 10);
  }

  textWidth(context, text) {
    let width = this.widths.get(text);
    if (width === undefined) this.widths.set(text, (width = context.measureText(text).width));
    return width;
  }

  paintRegion(context) {
    const { x1, y1, x2, y2 } = this.region;
    const area = [this.x + x1 * this.scale, this.y + y1 * this.scale, (x2 - x1) * this.scale, (y2 - y1) * this.scale];
    context.fillStyle = "rgba(255, 255, 255, 0.12)";
    context.fillRect(...area);
    context.setLineDash([]);
    context.strokeStyle = DARK;
    context.lineWidth = 4;
    context.strokeRect(...area);
    context.setLineDash([7, 5]);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.strokeRect(...area);
    context.setLineDash([]);
  }

  /** The picture in its own size with the shapes that are shown, as a PNG. */
  async png() {
    const { width, height } = this.size;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    if (this.picture.image) context.drawImage(this.picture.image, 0, 0, width, height);
    const { x, y, scale, active } = this;
    const unit = Math.max(1, Math.max(width, height) / 1000); // lines and labels grow with the picture
    context.scale(unit, unit);
    Object.assign(this, { x: 0, y: 0, scale: 1 / unit, active: null });
    this.paint(context, this.shapes.filter((shape) => !shape.hidden), width / unit, height / unit);
    Object.assign(this, { x, y, scale, active });
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  shapeAt(point) {
    const place = this.place(point);
    return this.shapes
      .filter((shape) => !shape.hidden && holds(shape, place))
      .sort((a, b) => a.box.w * a.box.h - b.box.w * b.box.h)[0] ?? null;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.pointers.size || this.on.hover?.(null));
    canvas.addEventListener("wheel", (event) => {
      if (!this.picture) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), at(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => this.keyed(event));
  }

  down(event) {
    if (!this.picture) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, at(event));
    this.start = { ...at(event), draws: this.takesRegion && this.pointers.size === 1 && !event.shiftKey };
    this.dragged = this.pointers.size > 1;
  }

  move(event) {
    const now = at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.on.hover?.(this.shapeAt(now));
      return;
    }
    this.pointers.set(event.pointerId, now);
    if (!this.dragged && Math.hypot(now.x - this.start.x, now.y - this.start.y) < CLICK) return;
    this.dragged = true;
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, now);
    else if (this.start.draws) this.drawRegion(now);
    else this.pan(now.x - before.x, now.y - before.y);
  }

  pinch(id, before, now) {
    const [other] = [...this.pointers].filter(([each]) => each !== id).map(([, point]) => point);
    const factor = Math.hypot(now.x - other.x, now.y - other.y) / (Math.hypot(before.x - other.x, before.y - other.y) || 1);
    this.zoom(factor, { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
  }

  drawRegion(now) {
    const { width, height } = this.size;
    const [a, b] = [this.place(this.start), this.place(now)];
    const within = (value, most) => Math.min(Math.max(Math.round(value), 0), most);
    const [x1, x2] = [within(Math.min(a.x, b.x), width), within(Math.max(a.x, b.x), width)];
    const [y1, y2] = [within(Math.min(a.y, b.y), height), within(Math.max(a.y, b.y), height)];
    if (x2 <= x1 || y2 <= y1) return;
    this.setRegion({ x1, y1, x2, y2 });
    this.on.region?.(this.region);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || this.dragged) return;
    const shape = this.shapeAt(at(event));
    if (shape) this.on.toggle?.(shape);
  }

  keyed(event) {
    const pans = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] };
    if (event.key in pans) this.pan(...pans[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(STEP);
    else if (event.key === "-") this.zoom(1 / STEP);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }
}

const at = (event) => ({ x: event.offsetX, y: event.offsetY });

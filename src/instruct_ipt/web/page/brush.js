// A layer over the photograph on which a person paints. Strokes are kept as lines, so that the last can be taken back, and
// the mask is drawn from them at the photograph's own size.

import { mask } from "./mask.js";

const LONGEST = 1024; // px of the layer on the screen

export class Brush {
  /** Diameter in px of the photograph. */
  size = 1;
  erasing = false;
  #canvas;
  #context;
  #tip;
  #changed;
  #width = 1;
  #height = 1;
  #shapes = [];
  #stroke = null; // that is being painted

  /** canvas: the layer; tip: an element that follows the pointer; changed: called after every change. */
  constructor(canvas, tip, changed) {
    [this.#canvas, this.#tip, this.#changed] = [canvas, tip, changed];
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", event => this.#begin(event));
    canvas.addEventListener("pointermove", event => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#end());
    // A second finger, which zooms: then the first one's stroke was not meant.
    canvas.addEventListener("pointercancel", () => { if (this.#stroke) this.undo(); });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  get empty() { return !this.#shapes.length; }

  /** The share of the photograph that is painted, as the layer shows it. */
  get share() {
    const { width, height } = this.#canvas, { data } = this.#context.getImageData(0, 0, width, height);
    let marked = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] >= 128) marked++;
    return marked / (width * height);
  }

  /** A photograph of this size, on which nothing has been painted. */
  reset(width, height) {
    [this.#width, this.#height, this.#shapes, this.#stroke] = [width, height, [], null];
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    this.#draw();
  }

  undo() {
    this.#shapes.pop();
    this.#stroke = null;
    this.#draw();
  }

  clear() {
    this.#shapes = [];
    this.#draw();
  }

  /** A rectangle in px of the photograph. */
  box(left, top, width, height) {
    this.#shapes.push({ erasing: this.erasing, box: [left, top, width, height] });
    this.#draw();
  }

  /** The mask at the photograph's size, and how many of its pixels are marked: { mask, marked }. */
  mask() { return mask(this.#width, this.#height, context => this.#shapes.forEach(shape => paint(context, shape))); }

  #begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault(); // no text is selected
    this.#canvas.setPointerCapture(event.pointerId);
    this.#stroke = { erasing: this.erasing, size: this.size, points: [this.#at(event)] };
    this.#shapes.push(this.#stroke);
    this.#show(event);
    paint(this.#context, this.#stroke);
  }

  #move(event) {
    this.#show(event);
    if (!this.#stroke || !event.isPrimary) return;
    const seen = event.getCoalescedEvents?.() ?? [];
    const from = this.#stroke.points.at(-1), points = (seen.length ? seen : [event]).map(e => this.#at(e));
    this.#stroke.points.push(...points);
    paint(this.#context, { ...this.#stroke, points: [from, ...points] });
  }

  #end() {
    if (!this.#stroke) return;
    this.#stroke = null;
    this.#changed();
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.#width, (event.clientY - box.top) / box.height * this.#height];
  }

  #show(event) {
    const [x, y] = this.#at(event);
    this.#tip.hidden = event.pointerType === "touch";
    this.#tip.style.left = `${100 * x / this.#width}%`;
    this.#tip.style.top = `${100 * y / this.#height}%`;
    this.#tip.style.width = `${100 * this.size / this.#width}%`;
  }

  #draw() {
    const { width, height } = this.#canvas;
    this.#context.setTransform(1, 0, 0, 1, 0, 0);
    this.#context.clearRect(0, 0, width, height);
    this.#context.setTransform(width / this.#width, 0, 0, height / this.#height, 0, 0);
    for (const shape of this.#shapes) paint(this.#context, shape);
    this.#changed();
  }
}

function paint(context, { erasing, box, size, points }) {
  context.globalCompositeOperation = erasing ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = "#ff3ea5";
  context.beginPath();
  if (box) {
    context.rect(...box);
    context.fill();
  } else if (points.length === 1) {
    context.arc(...points[0], size / 2, 0, 2 * Math.PI);
    context.fill();
  } else {
    [context.lineWidth, context.lineCap, context.lineJoin] = [size, "round", "round"];
    points.forEach((point, number) => number ? context.lineTo(...point) : context.moveTo(...point));
    context.stroke();
  }
}

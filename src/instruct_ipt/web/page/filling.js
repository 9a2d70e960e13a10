// The view that fills in: what shall be replaced is painted over.

import { Brush } from "./brush.js";
import * as client from "./client.js";
import { complain, discard, held, say, server, ui, view } from "./easel.js";
import { needCanvas, numbers, Seeded } from "./painted.js";

const BOX = { left: ui["box-left"], top: ui["box-top"], width: ui["box-width"], height: ui["box-height"] };
const NOTHING = "Paint over what shall be replaced first.";

/** Offer it; gives the view's results. */
export function filling() {
  const brush = new Brush(ui.paint, ui.tip, changed);
  let showing = false; // whether the view is on the screen
  let result = false; // whether it shows one

  const seeded = new Seeded({
    name: "fill", verb: "Filling in", how: "filled in", send: client.fill,
    async prepare() {
      if (brush.empty) return complain(new Error(NOTHING));
      const { mask, marked } = await brush.mask();
      if (!marked) return complain(new Error(NOTHING));
      if (marked === held.width * held.height)
        return complain(new Error("Everything is painted over; leave something for the filling to follow from."));
      return mask;
    },
  });

  function changed() {
    const share = brush.empty ? 0 : 100 * brush.share;
    const much = share > 0 && share < 1 ? "less than 1" : String(Math.round(share));
    ui.marked.textContent = share ? `${much} % of the photograph is marked.` : "Nothing is marked yet.";
    ui.undo.disabled = ui.clear.disabled = brush.empty;
    show();
  }

  /** The layer is there to be painted on, unless a result is looked at. */
  function show() {
    const open = showing && !result && held.visible && held.width > 0;
    ui.paint.hidden = !open;
    ui.tip.hidden = true;
    ui.repaint.hidden = !result;
    outline();
  }

  function outline() {
    const [left, top, width, height] = Object.values(BOX).map(input => Number(input.value));
    ui.box.hidden = ui.paint.hidden || !ui.numbers.open || !(width > 0 && height > 0);
    const place = { left: left / held.width, width: width / held.width, top: top / held.height, height: height / held.height };
    for (const [name, share] of Object.entries(place)) ui.box.style[name] = `${100 * share}%`;
  }

  /** The brush in px of the photo: the slider counts in per cent of its shorter side. */
  function resize() {
    brush.size = Math.max(1, Math.round(ui.size.value / 100 * Math.min(held.width, held.height)));
    ui.diameter.textContent = held.width ? `${brush.size} px` : "";
    ui.size.setAttribute("aria-valuetext", ui.diameter.textContent);
  }

  function wield(erasing) {
    brush.erasing = erasing;
    ui.brush.setAttribute("aria-pressed", String(!erasing));
    ui.eraser.setAttribute("aria-pressed", String(erasing));
    ui.mark.textContent = erasing ? "Unmark the rectangle" : "Mark the rectangle";
  }

  view("fill", {
    taken() { brush.reset(1, 1); },
    sized() {
      if (!held.width) return;
      brush.reset(held.width, held.height);
      resize();
      const { width, height } = held, most = { left: width - 1, top: height - 1, width, height };
      const first = { left: Math.round(width / 4), top: Math.round(height / 4), width: Math.round(width / 2), height: Math.round(height / 2) };
      for (const [name, input] of Object.entries(BOX)) [input.max, input.value] = [most[name], Math.min(first[name] || 1, most[name] || 1)];
    },
    shown(found) {
      result = Boolean(found);
      seeded.tell(ui["fill-panel"], found);
      show();
    },
  });

  ui.size.addEventListener("input", resize);
  ui.brush.addEventListener("click", () => wield(false));
  ui.eraser.addEventListener("click", () => wield(true));
  ui.undo.addEventListener("click", () => { discard("fill"); brush.undo(); say(ui.marked.textContent); });
  ui.clear.addEventListener("click", () => { discard("fill"); brush.clear(); say(ui.marked.textContent); });
  ui.repaint.addEventListener("click", () => { discard("fill"); ui.brush.focus(); });
  ui.fill.addEventListener("click", () => seeded.start());
  ui.numbers.addEventListener("toggle", outline);
  ui.numbers.addEventListener("input", outline);
  ui.numbers.addEventListener("submit", event => {
    event.preventDefault();
    if (needCanvas()) return;
    const box = numbers(BOX);
    if (!box) return;
    discard("fill");
    brush.box(box.left, box.top, box.width, box.height);
    say(ui.marked.textContent);
  });
  document.addEventListener("keydown", event => {
    if (!showing || event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.target.matches("[type=number], [type=text]"))
      return;
    if (!brush.empty) ui.undo.click();
    event.preventDefault();
  });
  ui["fill-trained"].textContent = trained();
  wield(false);
  changed();
  return { seeded, enter(yes) { showing = yes; show(); } };
}

/** What is to be known before anything is filled in. */
export function trained() {
  const { size } = server.denoiser;
  return `The denoiser was trained at ${size} x ${size} px. What is larger is filled at that size and enlarged; the result says `
    + "by how much.";
}

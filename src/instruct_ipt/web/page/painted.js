// What filling in and extending share: numbers of px, seeds, and what is said of a result.

import { complain, doing, held, mega, needPhoto, present, server, telling, ui } from "./easel.js";

const LOSSY = { "image/jpeg": "JPEG", "image/webp": "WebP" };

/** Complains, and gives true, where there is no photograph that could be painted in. */
export function needCanvas() {
  if (needPhoto()) return true;
  const { painted } = server.limits, { file, visible, width, height } = held;
  if (!visible)
    complain(new Error(`Your browser does not show ${file.name}, so nothing can be placed on it. Save it as PNG or JPEG.`));
  else if (width * height > painted)
    complain(new Error(`${file.name} has ${width} x ${height} pixels; at most ${mega(painted)} megapixels are painted in. Scale it down.`));
  else return !width; // it is being decoded
  return true;
}

/** Whole numbers from input fields by name; complains, and gives null, where one is none or out of range. */
export function numbers(fields) {
  const found = {};
  for (const [name, input] of Object.entries(fields)) {
    const value = Number(input.value.trim() || NaN), least = Number(input.min), most = Number(input.max);
    if (!Number.isInteger(value) || value < least || value > most) {
      complain(new Error(`${input.labels[0].textContent}: give a whole number from ${least} to ${most}.`));
      input.focus();
      return null;
    }
    found[name] = value;
  }
  return found;
}

/**
 * A view whose results follow from a seed.
 *
 * name: of the view; verb: as in "Filling in"; how: what was done, in a word; prepare(): what goes with the photo, or
 * undefined after it has complained; send: as `fill` and `extend` of the client.
 */
export class Seeded {
  #way;
  #given = null; // with which the shown result was made
  #seed = 0;

  constructor(way) { this.#way = way; }

  /** Begin with the first seed. */
  async start() {
    if (needCanvas()) return;
    const given = await this.#way.prepare();
    if (given !== undefined) this.#run(given, 0);
  }

  /** The same with the seed that is so many further on. */
  again(by) { this.#run(this.#given, this.#seed + by); }

  #run(given, seed) {
    const { name, verb, how, send } = this.#way;
    return doing("Sending the photograph", async signal => {
      const answer = await send(held.file, given, { seed }, signal, telling(`${verb}:`, "pass"));
      signal.throwIfAborted();
      [this.#given, this.#seed] = [given, seed];
      await present(name, answer, how, signal);
    });
  }

  /** What is to be said of a result, in its panel; nothing without one. */
  tell(panel, result) {
    if (ui.painted.parentElement !== panel) panel.append(ui.painted);
    ui.painted.hidden = !result;
    if (!result) return;
    const { said, seed, type } = result.answer;
    ui.which.textContent = `Filling ${seed + 1}`;
    ui.fineness.textContent = `${said[0].toUpperCase()}${said.slice(1)}.`;
    ui.lossy.textContent = `As ${LOSSY[type] ?? ""} everything is compressed anew: the rest may change by a shade.`;
    ui.lossy.hidden = !(type in LOSSY);
    ui.former.hidden = seed === 0;
  }
}

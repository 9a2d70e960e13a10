// The photograph, what came of it in each view, and what goes on. The photo stays here; it is sent anew for every answer.

import { Compare } from "./compare.js";

const NONE = { top: 0, right: 0, bottom: 0, left: 0 };

export const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map(element => [element.id, element]));
export const compare = new Compare(ui.frame, ui.stage, ui.at);
export const say = text => { ui.said.textContent = text; };
export const mega = count => Number((count / 1e6).toPrecision(3));

/** The photo: its File, whether this browser can show it, and its size as displayed, where that is known. */
export const held = { file: null, visible: true, width: 0, height: 0 };

/** What `about` of the client says. */
export const server = { limits: { bytes: Infinity, pixels: Infinity, painted: Infinity } };

// A view is what can be asked of a photo: `restore`, `fill`, `extend`. Each may have a result.
const views = {};
const results = new Map();
let current = "restore";
let running = null; // the AbortController of what goes on
let timer = 0; // until something is done

/**
 * Make a view known. taken(): there is another photo, or none; sized(): its size is known; shown(result): the view is on the
 * screen, with its result or without; sides(): px around the photo that are shown beside it.
 */
export function view(name, { taken = () => {}, sized = () => {}, shown = () => {}, sides = () => NONE }) {
  views[name] = { taken, sized, shown, sides };
  if (held.width) sized(); // the photo was chosen before the server had said what it can do
}

view("restore", {});

const tell = event => Object.values(views).forEach(one => one[event]());

// ---- what is shown

export function complain(error) {
  ui.problem.textContent = error.message[0].toUpperCase() + error.message.slice(1);
  ui.problem.hidden = false;
  ui.problem.scrollIntoView({ block: "nearest" });
}

/** A picture's address; the one that the element had before is given up. */
function show(image, blob) {
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  if (blob) image.src = URL.createObjectURL(blob);
  else image.removeAttribute("src");
  image.hidden = !blob;
}

/** Make room for the photo, and for what is added at its sides. */
export function fit() {
  const sides = held.width ? views[current].sides() : NONE;
  const width = held.width + sides.left + sides.right, height = held.height + sides.top + sides.bottom;
  for (const [side, pixels] of Object.entries(sides)) ui.sheet.style.setProperty(`--${side}`, width && pixels / width);
  if (!width) return;
  ui.pair.style.setProperty("--ratio", width / height);
  ui.pair.style.setProperty("--own", `${width}px`);
  compare.show();
}

/** Go to a view, or show what has changed in this one. */
export function look(name = current) {
  current = name;
  const result = results.get(name);
  show(ui.after, result?.picture);
  ui.after.alt = held.file ? `The photograph ${held.file.name} ${result?.how ?? ""}` : "";
  ui.stage.classList.toggle("two", Boolean(result));
  for (const id of ["download", "divide", "tag-before", "tag-after"]) ui[id].hidden = !result;
  ui.keep.hidden = !result || !held.visible;
  if (ui.download.href) URL.revokeObjectURL(ui.download.href);
  ui.download.removeAttribute("href");
  if (result) {
    ui.download.href = URL.createObjectURL(result.file);
    ui.download.download = result.file.name;
  }
  fit();
  views[name].shown(result);
}

/**
 * Show a view's result. answer: as the client gives it; how: what was done, in a word. What came of a view that is not on
 * the screen is shown when it is.
 */
export async function present(name, answer, how, signal) {
  const { parts } = answer;
  if (parts.before) {
    ui.stage.querySelector(".blind")?.remove();
    show(ui.before, parts.before);
    await ui.before.decode();
    [held.width, held.height] = [ui.before.naturalWidth, ui.before.naturalHeight];
  }
  signal.throwIfAborted();
  const file = new File([parts.photo], answer.name, { type: answer.type });
  results.set(name, { picture: parts.after ?? parts.photo, file, how, answer });
  if (current !== name) return say(`${how[0].toUpperCase() + how.slice(1)}. It is to be seen in its own tab.`);
  look();
  await ui.after.decode().catch(() => {}); // another one may have taken its place
  signal.throwIfAborted();
  ui.close.hidden = false;
  compare.show();
  say(`${how[0].toUpperCase() + how.slice(1)}. Before and after stand side by side.`);
  ui.stage.scrollIntoView({ block: "nearest" });
}

/** Forget a view's result, so that the photo alone is shown. */
export function discard(name) {
  if (results.delete(name) && current === name) look();
}

function seconds(count) {
  if (count < 60) return `${Math.max(1, Math.round(count))} s`;
  const minutes = Math.ceil(count / 60);
  return `${minutes} ${minutes === 1 ? "minute" : "minutes"}`;
}

export function step(text, value) {
  ui.step.textContent = text;
  if (value === undefined) ui.bar.removeAttribute("value");
  else ui.bar.value = value;
}

/** Shows lines of progress. doing: what is done, as in "Restoring"; part: what is counted, as in "part". */
export const telling = (doing, part) => line => {
  if (line.state === "waiting")
    step(line.ahead ? `Waiting: ${line.ahead} ${line.ahead === 1 ? "photograph" : "photographs"} ahead` : "Waiting");
  else if (!line.total) step("Reading the photograph");
  else if (line.total === 1) step(doing);
  else if (line.done === line.total) step("Writing the result");
  else {
    const left = line.seconds_left === null ? "" : `, about ${seconds(line.seconds_left)} left`;
    step(`${doing} ${part} ${line.done + 1} of ${line.total}${left}`, line.done / line.total);
  }
};

// ---- what is done

export function stop() {
  clearTimeout(timer);
  running?.abort();
}

/** Do something after some milliseconds, unless something else is done before. */
export function later(act, milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(act, milliseconds);
}

/** Do one thing at a time: the one before is given up. failed(): it came to nothing. */
export async function doing(first, work, failed = () => {}) {
  stop();
  const own = running = new AbortController();
  ui.problem.hidden = true;
  ui.progress.hidden = false;
  step(first);
  say(first);
  try {
    await work(own.signal);
  } catch (error) {
    if (running !== own) return;
    if (error.name !== "AbortError") complain(error);
    failed();
  } finally {
    if (running === own) {
      running = null;
      ui.progress.hidden = true;
    }
  }
}

export function needPhoto() {
  if (held.file) return false;
  complain(new Error("Choose a photograph first."));
  ui.file.focus();
  return true;
}

/** Take a file, unless the server would refuse it anyway. */
export async function take(file) {
  const { limits } = server;
  if (!file) return;
  stop();
  ui.problem.hidden = true;
  if (file.size > limits.bytes)
    return complain(new Error(`${file.name} has ${mega(file.size)} MB; at most ${mega(limits.bytes)} MB are taken.`));
  if (!file.size) return complain(new Error(`${file.name} is empty.`));
  results.clear();
  compare.close = false;
  ui.close.setAttribute("aria-pressed", "false");
  Object.assign(held, { file, visible: true, width: 0, height: 0 });
  tell("taken");
  look();
  ui.stage.querySelector(".blind")?.remove();
  show(ui.before, file);
  const visible = await ui.before.decode().then(() => true, () => false);
  if (held.file !== file) return;
  if (visible && ui.before.naturalWidth * ui.before.naturalHeight > limits.pixels) {
    const size = `${ui.before.naturalWidth} x ${ui.before.naturalHeight} pixels`;
    clear();
    return complain(new Error(`${file.name} has ${size}; at most ${mega(limits.pixels)} megapixels are taken. Scale it down.`));
  }
  held.visible = visible;
  if (visible) [held.width, held.height] = [ui.before.naturalWidth, ui.before.naturalHeight];
  else blind();
  ui.before.alt = `The photograph ${file.name} as it was`;
  ui.caption.textContent = visible ? `${file.name}, ${held.width} x ${held.height}` : file.name;
  ui.drop.hidden = true;
  ui.pair.hidden = ui.tools.hidden = false;
  ui.close.hidden = !visible;
  tell("sized");
  look();
}

/** The photo cannot be shown here, as no browser shows a TIFF; the server may read it all the same. */
function blind() {
  show(ui.before, null);
  ui.pair.style.setProperty("--ratio", 1.5);
  ui.pair.style.removeProperty("--own");
  const note = document.createElement("p");
  note.className = "blind note";
  note.textContent = "Your browser does not show this kind of file. It is shown as soon as it is restored.";
  ui.stage.prepend(note);
}

function clear() {
  stop();
  results.clear();
  show(ui.before, null);
  ui.stage.querySelector(".blind")?.remove();
  Object.assign(held, { file: null, visible: true, width: 0, height: 0 });
  ui.file.value = "";
  ui.drop.hidden = false;
  ui.pair.hidden = ui.tools.hidden = ui.problem.hidden = true;
  tell("taken");
  look();
}

// ---- what a person does, in every view

ui.file.addEventListener("change", () => take(ui.file.files[0]));
ui.other.addEventListener("click", () => { clear(); ui.file.focus(); });
ui.keep.addEventListener("click", () => { ui.stage.scrollIntoView({ block: "nearest" }); take(results.get(current)?.file); });
ui.cancel.addEventListener("click", () => { running?.abort(); say("Cancelled."); });
ui.close.addEventListener("click", () => {
  compare.close = !compare.close;
  ui.close.setAttribute("aria-pressed", String(compare.close));
});

document.addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("over"); });
document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", event => {
  if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
});

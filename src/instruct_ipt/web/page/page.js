// The page: a photo, what is asked for it, and what came of it. The photo stays here; it is sent anew for every answer.

import * as client from "./client.js";
import { Compare } from "./compare.js";

const WORDS = { denoise: "Noise", deblur: "Blur", derain: "Rain", dehaze: "Haze", desnow: "Snow" };
const EXAMPLES = ["remove the rain", "take the noise off, gently", "clear up the fog", "it is blurry and grainy"];
const SOURCES = { instruction: "Understood", task: "Picked", image: "Guessed" };
const SETTLE = 400; // milliseconds after the last move of the strength slider

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map(element => [element.id, element]));
const compare = new Compare(ui.frame, ui.stage, ui.at);
const word = task => WORDS[task] ?? task;
const say = text => { ui.said.textContent = text; };

let limits = { bytes: Infinity, pixels: Infinity };
let photo = null; // the File
let visible = true; // whether this browser can show it
let asked = null; // { weights, strength, source }
let done = null; // what of this kind the shown result is
let running = null; // the AbortController of what goes on
let settling = 0;

// ---- what is shown

function complain(error) {
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

function fit(image) {
  ui.pair.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  ui.pair.style.setProperty("--own", `${image.naturalWidth}px`);
}

function forget() {
  done = null;
  show(ui.after, null);
  ui.stage.classList.remove("two");
  ui.download.removeAttribute("href");
  for (const name of ["download", "divide", "tag-before", "tag-after"]) ui[name].hidden = true;
}

/** Show what will be done; a guess is confirmed first. */
function understand(answer, confirm = false) {
  asked = { ...answer };
  ui.source.textContent = SOURCES[answer.source];
  ui.weights.replaceChildren(...Object.entries(answer.weights).filter(([, weight]) => weight > 0).map(([task, weight]) => {
    const row = document.createElement("li"), name = document.createElement("span"), bar = document.createElement("i");
    const share = document.createElement("span");
    name.textContent = word(task);
    bar.style.setProperty("--share", `${100 * weight}%`);
    share.textContent = `${Math.round(100 * weight)} %`;
    row.append(name, bar, share);
    return row;
  }));
  ui.strength.value = answer.strength;
  ui.amount.textContent = String(answer.strength);
  ui.doubt.hidden = answer.source !== "image";
  ui.agree.hidden = !confirm;
  ui.understood.hidden = false;
  for (const button of ui.tasks.children)
    button.setAttribute("aria-pressed", String(answer.source === "task" && answer.weights[button.value] === 1));
}

function seconds(count) {
  if (count < 60) return `${Math.max(1, Math.round(count))} s`;
  const minutes = Math.ceil(count / 60);
  return `${minutes} ${minutes === 1 ? "minute" : "minutes"}`;
}

function step(text, value) {
  ui.step.textContent = text;
  if (value === undefined) ui.bar.removeAttribute("value");
  else ui.bar.value = value;
}

function told(line) {
  if (line.state === "waiting")
    step(line.ahead ? `Waiting: ${line.ahead} ${line.ahead === 1 ? "photograph" : "photographs"} ahead` : "Waiting");
  else if (!line.total) step("Reading the photograph");
  else if (line.total === 1) step("Restoring");
  else if (line.done === line.total) step("Writing the result");
  else {
    const left = line.seconds_left === null ? "" : `, about ${seconds(line.seconds_left)} left`;
    step(`Restoring part ${line.done + 1} of ${line.total}${left}`, line.done / line.total);
  }
}

// ---- what is done

function stop() {
  clearTimeout(settling);
  running?.abort();
}

/** Do one thing at a time: the one before is given up. */
async function doing(first, work) {
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
    if (done) understand(done);
  } finally {
    if (running === own) {
      running = null;
      ui.progress.hidden = true;
    }
  }
}

function needPhoto() {
  if (photo) return false;
  complain(new Error("Choose a photograph first."));
  ui.file.focus();
  return true;
}

async function restoreWith(signal) {
  step("Sending the photograph");
  const doable = { ...asked };
  const answer = await client.restore(photo, { ...doable, previews: !visible }, signal, told);
  signal.throwIfAborted();
  const { parts } = answer;
  if (parts.before) {
    ui.stage.querySelector(".blind")?.remove();
    show(ui.before, parts.before);
    await ui.before.decode();
  }
  show(ui.after, parts.after ?? parts.photo);
  await ui.after.decode();
  signal.throwIfAborted();
  fit(ui.before);
  ui.stage.classList.add("two");
  for (const name of ["download", "divide", "tag-before", "tag-after"]) ui[name].hidden = false;
  ui.close.hidden = false;
  if (ui.download.href) URL.revokeObjectURL(ui.download.href);
  ui.download.href = URL.createObjectURL(parts.photo);
  ui.download.download = answer.name;
  done = doable;
  understand(done);
  compare.show();
  say("Restored. Before and after stand side by side.");
  ui.stage.scrollIntoView({ block: "nearest" });
}

const restore = () => doing("Sending the photograph", restoreWith);

const ways = {
  say: text => doing("Reading the instruction", async signal => {
    understand(await client.read(text, signal));
    await restoreWith(signal);
  }),
  pick: task => {
    understand({ weights: { [task]: 1 }, strength: 1, source: "task" });
    return restore();
  },
  guess: () => doing("Looking at the photograph", async signal => {
    understand(await client.guess(photo, signal), true);
    say(`Guessed: ${ui.weights.textContent}`);
    ui.go.focus();
  }),
};

/** Take a file, unless the server would refuse it anyway. */
async function take(file) {
  if (!file) return;
  stop();
  ui.problem.hidden = true;
  if (file.size > limits.bytes)
    return complain(new Error(`${file.name} has ${mega(file.size)} MB; at most ${mega(limits.bytes)} MB are taken.`));
  if (!file.size) return complain(new Error(`${file.name} is empty.`));
  forget();
  compare.close = false;
  ui.close.setAttribute("aria-pressed", "false");
  asked = null;
  ui.understood.hidden = true;
  photo = file;
  ui.stage.querySelector(".blind")?.remove();
  show(ui.before, file);
  visible = await ui.before.decode().then(() => true, () => false);
  if (photo !== file) return;
  if (visible && ui.before.naturalWidth * ui.before.naturalHeight > limits.pixels) {
    const size = `${ui.before.naturalWidth} x ${ui.before.naturalHeight} pixels`;
    clear();
    return complain(new Error(`${file.name} has ${size}; at most ${mega(limits.pixels)} megapixels are taken. Scale it down.`));
  }
  if (visible) fit(ui.before);
  else blind();
  ui.before.alt = `The photograph ${file.name} as it was`;
  ui.after.alt = `The photograph ${file.name} restored`;
  ui.caption.textContent = visible ? `${file.name}, ${ui.before.naturalWidth} x ${ui.before.naturalHeight}` : file.name;
  ui.drop.hidden = true;
  ui.pair.hidden = ui.tools.hidden = false;
  ui.close.hidden = !visible;
  say(`${file.name} is here. Now say what is wrong with it.`);
}

const mega = count => Number((count / 1e6).toPrecision(3));

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
  forget();
  show(ui.before, null);
  [photo, asked] = [null, null];
  ui.file.value = "";
  ui.drop.hidden = false;
  ui.pair.hidden = ui.tools.hidden = ui.understood.hidden = ui.problem.hidden = true;
  for (const button of ui.tasks.children) button.setAttribute("aria-pressed", "false");
}

// ---- what a person does

ui.file.addEventListener("change", () => take(ui.file.files[0]));
ui.other.addEventListener("click", () => { clear(); ui.file.focus(); });
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

ui.say.addEventListener("submit", event => {
  event.preventDefault();
  const text = ui.instruction.value.trim();
  if (needPhoto()) return;
  if (!text) {
    complain(new Error("Say what is wrong, or pick it."));
    return ui.instruction.focus();
  }
  ways.say(text);
});
ui.guess.addEventListener("click", () => { if (!needPhoto()) ways.guess(); });
ui.go.addEventListener("click", restore);
ui.strength.addEventListener("input", () => {
  asked.strength = Number(ui.strength.value);
  ui.amount.textContent = ui.strength.value;
  clearTimeout(settling);
  // A guess waits for a yes; what was restored once is restored again.
  if (ui.agree.hidden) settling = setTimeout(restore, SETTLE);
});

function chip(text, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
  return button;
}

ui.examples.append(...EXAMPLES.map(text => {
  const item = document.createElement("li");
  item.append(chip(text, () => {
    ui.instruction.value = text;
    if (!needPhoto()) ways.say(text);
  }));
  return item;
}));

try {
  const server = await client.about();
  limits = server.limits;
  ui.allowed.textContent += `; at most ${mega(limits.bytes)} MB and ${mega(limits.pixels)} megapixels`;
  ui.say.hidden = !server.can_read;
  ui.unsure.hidden = !server.can_guess;
  if (!server.can_read) ui["pick-title"].textContent = "What is wrong with it?";
  ui.tasks.append(...server.tasks.map(task => {
    const button = chip(word(task), () => { if (!needPhoto()) ways.pick(task); });
    button.value = task;
    button.setAttribute("aria-pressed", "false");
    return button;
  }));
} catch (error) {
  complain(error);
}
ui.promise.textContent = `The photograph goes to ${location.host} and nowhere else. There it is held in memory while it is worked on, `
  + "and never written to disk.";

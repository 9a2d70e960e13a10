// The view that restores: what is asked is understood, shown, and done.

import * as client from "./client.js";
import { complain, doing, held, later, needPhoto, present, say, server, step, telling, ui, view } from "./easel.js";

const WORDS = { denoise: "Noise", deblur: "Blur", derain: "Rain", dehaze: "Haze", desnow: "Snow" };
const EXAMPLES = ["remove the rain", "take the noise off, gently", "clear up the fog", "it is blurry and grainy"];
const SOURCES = { instruction: "Understood", task: "Picked", image: "Guessed" };
const SETTLE = 400; // milliseconds after the last move of the strength slider

const word = task => WORDS[task] ?? task;

let asked = null; // { weights, strength, source }
let done = null; // what of this kind the shown result is

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

async function restoreWith(signal) {
  step("Sending the photograph");
  const doable = { ...asked };
  const answer = await client.restore(
    held.file, { ...doable, previews: !held.visible }, signal, telling("Restoring", "part"),
  );
  signal.throwIfAborted();
  await present("restore", answer, "restored", signal);
  done = doable;
  understand(done);
}

/** What was there before stays, with what it was made by. */
const unchanged = () => { if (done) understand(done); };
const restore = () => doing("Sending the photograph", restoreWith, unchanged);

const ways = {
  say: text => doing("Reading the instruction", async signal => {
    understand(await client.read(text, signal));
    await restoreWith(signal);
  }, unchanged),
  pick: task => {
    understand({ weights: { [task]: 1 }, strength: 1, source: "task" });
    return restore();
  },
  guess: () => doing("Looking at the photograph", async signal => {
    understand(await client.guess(held.file, signal), true);
    say(`Guessed: ${ui.weights.textContent}`);
    ui.go.focus();
  }, unchanged),
};

function chip(text, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
  return button;
}

/** Offer what the server can do. */
export function restoring() {
  view("restore", {
    taken() {
      [asked, done] = [null, null];
      ui.understood.hidden = true;
      for (const button of ui.tasks.children) button.setAttribute("aria-pressed", "false");
    },
    sized() { say(`${held.file.name} is here. Now say what is wrong with it.`); },
  });

  ui.say.hidden = !server.can_read;
  ui.unsure.hidden = !server.can_guess;
  if (!server.can_read) ui["pick-title"].textContent = "What is wrong with it?";
  ui.tasks.append(...server.tasks.map(task => {
    const button = chip(word(task), () => { if (!needPhoto()) ways.pick(task); });
    button.value = task;
    button.setAttribute("aria-pressed", "false");
    return button;
  }));
  ui.examples.append(...EXAMPLES.map(text => {
    const item = document.createElement("li");
    item.append(chip(text, () => {
      ui.instruction.value = text;
      if (!needPhoto()) ways.say(text);
    }));
    return item;
  }));

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
    // A guess waits for a yes; what was restored once is restored again.
    if (ui.agree.hidden) later(restore, SETTLE);
  });
}

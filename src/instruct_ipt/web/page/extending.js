// The view that extends: something is added at the sides.

import * as client from "./client.js";
import { complain, discard, fit, held, mega, server, ui, view } from "./easel.js";
import { trained } from "./filling.js";
import { numbers, Seeded } from "./painted.js";

const SIDES = { top: ui.top, right: ui.right, bottom: ui.bottom, left: ui.left };

/** Offer it; gives the view's results. */
export function extending() {
  const seeded = new Seeded({
    name: "extend", verb: "Extending", how: "extended", send: client.extend,
    prepare() {
      const sides = numbers(SIDES);
      if (!sides) return undefined;
      if (!Object.values(sides).some(Boolean)) return complain(new Error("Say at one side at least how many px shall be added."));
      const [width, height] = grown(sides), { painted } = server.limits;
      if (width * height > painted)
        return complain(new Error(`The result would have ${width} x ${height} pixels; at most ${mega(painted)} megapixels are painted in.`));
      return sides;
    },
  });

  /** What the fields say; what is no number within its bounds is not shown. */
  const sides = () => Object.fromEntries(Object.entries(SIDES).map(([name, input]) => {
    const value = Math.round(Number(input.value));
    return [name, held.visible ? Math.min(Math.max(0, value || 0), Number(input.max)) : 0];
  }));

  const grown = ({ top, right, bottom, left }) => [held.width + left + right, held.height + top + bottom];

  function changed() {
    ui.becomes.textContent = held.width ? grown(sides()).join(" x ") : "";
    fit();
  }

  view("extend", {
    sides,
    taken: changed,
    sized() {
      const { width, height } = held, most = { top: height, right: width, bottom: height, left: width };
      const first = { top: 0, right: Math.round(width / 4), bottom: 0, left: Math.round(width / 4) };
      for (const [name, input] of Object.entries(SIDES)) [input.max, input.value] = [most[name], first[name]];
      changed();
    },
    shown(found) { seeded.tell(ui["extend-panel"], found); },
  });

  for (const input of Object.values(SIDES))
    input.addEventListener("input", () => {
      discard("extend");
      changed();
    });
  ui.add.addEventListener("submit", event => {
    event.preventDefault();
    seeded.start();
  });
  ui["extend-trained"].textContent = trained();
  return { seeded };
}
